"""Time per step on a chain of discrete sites, where Python and the bookkeeping of dependencies are all the work.

A chain of bits, each on the one before, in the model and in the guide, and one observation at its end. The program is a
plain Pyro one; the contenders train it with the score function: Pyro's `SVI` with `TraceGraph_ELBO` (no baselines), and
`infer.fit` without baselines, its step run eagerly, captured, and captured and compiled. Rounds are interleaved; start-up
(reading the program, capturing, compiling) is not in the time per step and is printed beside it.

    python benchmarks/chain_time.py
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time per step on a chain of discrete sites.")
    parser.add_argument("--sites", type=int, default=80)
    parser.add_argument("--steps", type=int, default=40, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--not-compiled", action="store_true", help="leave out the contender that is compiled: that takes minutes"
    )
    options = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread, "
        f"torch {torch.__version__}, chain of {options.sites} sites, {options.rounds} rounds of {options.steps} steps"
    )
    contenders: dict[str, Callable[[int, int], tuple[float, float]]] = {
        "Pyro SVI, TraceGraph_ELBO": by_pyro,
        "ppl_gen, compile=False": lambda n, steps: by_ppl_gen(n, steps, False),
        "ppl_gen, captured": lambda n, steps: by_ppl_gen(n, steps, "auto"),
        "ppl_gen, captured and compiled": lambda n, steps: by_ppl_gen(n, steps, True),
    }
    if options.not_compiled:
        del contenders["ppl_gen, captured and compiled"]
    times: dict[str, list[float]] = {name: [] for name in contenders}
    starts: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, run in contenders.items():
            start, step = run(options.sites, options.steps)
            starts.setdefault(name, start)
            times[name].append(1e3 * step)
    base = statistics.median(times["Pyro SVI, TraceGraph_ELBO"])
    print(f"{'contender':32}{'ms/step':>9}{'min - max':>18}{'x faster':>10}{'start s':>9}")
    for name, found in times.items():
        middle, spread = statistics.median(found), f"{min(found):.2f} - {max(found):.2f}"
        print(f"{name:32}{middle:9.2f}{spread:>18}{base / middle:10.1f}{starts[name]:9.1f}")


def program(num_sites: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """(model, guide)."""
    import pyro
    import torch
    from pyro import distributions as dist

    def model(x: Any) -> None:
        z = torch.tensor(0.0)
        for i in range(num_sites):
            z = pyro.sample(f"z{i}", dist.Bernoulli(0.3 + 0.4 * z))
        pyro.sample("x", dist.Normal(2.0 * z - 1.0, 1.0), obs=x)

    def guide(x: Any) -> None:
        logits = pyro.param("logits", lambda: torch.zeros(num_sites))
        slopes = pyro.param("slopes", lambda: torch.zeros(num_sites))
        z = torch.tensor(0.0)
        for i in range(num_sites):
            z = pyro.sample(f"z{i}", dist.Bernoulli(logits=logits[i] + slopes[i] * z))

    return model, guide


def by_pyro(num_sites: int, steps: int) -> tuple[float, float]:
    """(seconds to start, seconds per step)."""
    import pyro
    import torch

    pyro.clear_param_store()
    model, guide = program(num_sites)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=pyro.infer.TraceGraph_ELBO())
    x, begin = torch.tensor(0.7), perf_counter()
    svi.step(x)
    middle = perf_counter()
    for _ in range(steps):
        svi.step(x)
    pyro.clear_param_store()
    return middle - begin, (perf_counter() - middle) / steps


def by_ppl_gen(num_sites: int, steps: int, compile: Any) -> tuple[float, float]:
    """(seconds to start, seconds per step), the steps that hold a graph against eager ones included."""
    import torch

    from ppl_gen import estimators, infer

    marks = {0: perf_counter()}
    warm, steps = 70, max(steps, 200 if compile else 0)

    def watch(running: infer.Running) -> None:
        marks[running.step] = perf_counter()

    infer.fit(
        *program(num_sites),
        torch.tensor(0.7),
        steps=warm + steps,
        estimators={"*": estimators.Score(estimators.Constant(0.0))},
        compile=compile,
        callbacks=[watch],
        progress=False,
    )
    first, last = min(s for s in marks if s >= warm), max(marks)
    return marks[first] - marks[0], (marks[last] - marks[first]) / (last - first)


if __name__ == "__main__":
    main()
