"""Variance, cost and their product of every estimator on every program; and what the automatic choice comes to.

The parameters stand at their start, baselines and control variates have been trained for 200 steps, and each variance
is that of 400 single-step gradients, summed over the components of all parameters. Cost is counted in runs of the
program per step. The last column holds a row's product against the least of the program's single estimators.

    python benchmarks/gradient_variance.py --backend jax
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Sequence

from programs import PROGRAMS, Case

from ppl_gen.evaluate.measure import Measured, measure
from ppl_gen.evaluate.selection import best_plan, trials
from ppl_gen.infer.reading import read
from ppl_gen.objectives import ELBO
from ppl_gen.training.prepare import with_plan


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(argv)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {options.backend}, seed {options.seed}, "
        f"{options.samples} samples, {options.particles} particles"
    )
    ratios = {}
    for name in options.program or PROGRAMS:
        found = audit(PROGRAMS[name](), options)
        single = [one for label, one in found.items() if label not in ("by facts", "by measurement")]
        best = min(one.variance * one.cost for one in single)
        print(f"\n{name}\n{table(found, best)}", flush=True)
        chosen = found["by measurement"]
        ratios[name] = (
            chosen.variance * chosen.cost / max(best, 1e-300)
            if best > NOTHING
            else float(chosen.variance > NOTHING) + 1.0
        )
    within = sum(ratio <= 1.1 for ratio in ratios.values())
    print(f"\nthe measured choice is within 10 % of the best single estimator on {within} of {len(ratios)} programs")


NOTHING = 1e-6  # variance below which only rounding is left: exact gradients


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Variance x cost of gradient estimators.")
    parser.add_argument("--backend", choices=("torch", "jax"), default="jax")
    parser.add_argument("--program", nargs="+", choices=list(PROGRAMS), help="default: all")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--particles", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few samples of one program, to see that all runs")
    options = parser.parse_args(argv)
    if options.quick:
        options.samples, options.program = 20, ["three bits"]
    return options


def audit(case: Case, options: argparse.Namespace) -> dict[str, Measured]:
    """Estimator's name -> what was measured with it wherever it is right; and the two automatic choices."""
    prepared, batch = read(*case, options.backend, None, num_particles=options.particles, seed=options.seed)
    objective, seed = ELBO(), options.seed
    plans = trials(prepared, {}, objective)
    best = best_plan(prepared, batch, {}, seed, objective, plans)
    plans |= {"by facts": prepared.plan, "by measurement": best}
    return {
        label: measure(with_plan(prepared, plan, seed), batch, options.samples, seed + 1, objective)
        for label, plan in plans.items()
    }


def table(found: dict[str, Measured], best: float) -> str:
    """One line per estimator, the least product first."""
    head = ("estimator", "variance", "runs", "variance x runs", "x best")
    lines = [head]
    for label, one in sorted(found.items(), key=lambda pair: pair[1].variance * pair[1].cost):
        work = one.variance * one.cost
        ratio = "exact" if one.variance < NOTHING else f"{work / max(best, NOTHING):.2f}"
        if label == "by measurement":
            kinds = sorted({type(row.estimator).__name__ for row in one.plan.rows.values()})
            label += f" ({', '.join(kinds)})"
        lines.append((label, f"{one.variance:.4g}", str(one.cost), f"{work:.4g}", ratio))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


if __name__ == "__main__":
    main()
