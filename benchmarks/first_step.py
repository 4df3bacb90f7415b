"""What a fit costs before its first step, and a short fit in all, beside the library's own SVI.

For each of ten plain Pyro and NumPyro programs: how often `infer.fit` runs the user's model before step 1, the seconds that
takes, and the seconds of a whole fit of 300 steps beside those of `SVI` (Trace_ELBO; TraceGraph_ELBO where latents
are discrete), which starts, compiles and steps in that time too. Rounds are interleaved, each with the programs built
anew, so that nothing compiled is used twice; the figures are medians over rounds, the ratio that of the rounds' ratios.

    python benchmarks/first_step.py --help
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import step_time

DISCRETE = ("belief net", "Gaussian mixture", "chain of bits")
LEARNING_RATE = 1e-2


class Counted:
    """A model that counts its runs."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.runs = model, 0

    def __call__(self, *data: Any) -> Any:
        """One run."""
        self.runs += 1
        return self.model(*data)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(argv)
    step_time.prepare_threads(options.threads)
    import first_programs

    if "torch" in options.backend:
        import torch

        torch.set_num_threads(options.threads)
    print(step_time.header(options), flush=True)
    head = f"{'program':26}{'runs':>6}{'before step 1, s':>18}{'fit, s':>9}{'SVI, s':>9}{'fit / SVI':>11}"
    for backend in options.backend:
        warm_up(backend)
        print(f"\n{backend}: {options.steps} steps\n{head}", flush=True)
        library = first_programs.library(backend)
        for name in options.program or first_programs.PROGRAMS:
            build = first_programs.PROGRAMS[name]
            rounds = [one_round(build, library, name, backend, options) for _ in range(options.rounds)]
            runs, before, ours, theirs = (median(values) for values in zip(*rounds, strict=True))
            ratio = median(fit / svi for _, _, fit, svi in rounds)
            print(f"{name:26}{runs:6.0f}{before:18.2f}{ours:9.2f}{theirs:9.2f}{ratio:11.2f}", flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Runs of the model and seconds before step 1, side by side with SVI.")
    parser.add_argument("--steps", type=int, default=300, help="steps of a whole fit (default: 300)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--backend", nargs="+", choices=("torch", "jax"), default=["torch", "jax"])
    parser.add_argument("--program", nargs="+", help="some of the programs (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    threads = int(os.environ.get("OMP_NUM_THREADS", 1))
    parser.add_argument("--threads", type=int, default=threads, help="default: OMP_NUM_THREADS or 1")
    options = parser.parse_args(argv)
    options.run_length, options.device = options.steps, "cpu"
    return options


def warm_up(backend: str) -> None:
    """Import what a first fit imports, and start the compilers."""
    import first_programs

    program = first_programs.gamma_poisson(first_programs.library(backend))
    by_ppl_gen(program, backend, 2)
    SVIS[backend](program, "gamma-Poisson", 2)


def one_round(build: Any, library: Any, name: str, backend: str, options: Any) -> tuple[float, float, float, float]:
    """(runs before step 1, seconds before it, seconds of a fit, seconds of SVI), each from a program built anew."""
    program = build(library)
    model = Counted(program.model)
    before = by_ppl_gen(program._replace(model=model), backend, 0)
    ours = by_ppl_gen(build(library), backend, options.steps)
    return model.runs, before, ours, SVIS[backend](build(library), name, options.steps)


def by_ppl_gen(program: Any, backend: str, steps: int) -> float:
    """Seconds of `infer.fit`; no steps: of what comes before the first."""
    from ppl_gen import infer

    begin = perf_counter()
    infer.fit(*program, steps=steps, learning_rate=LEARNING_RATE, backend=backend, progress=False)
    return perf_counter() - begin


def by_pyro(program: Any, name: str, steps: int) -> float:
    """Seconds of Pyro's SVI."""
    import pyro
    from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO

    pyro.clear_param_store()
    begin = perf_counter()
    loss = TraceGraph_ELBO() if name in DISCRETE else Trace_ELBO()
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": LEARNING_RATE}), loss)
    for _ in range(steps):
        svi.step(*program.data)
    seconds = perf_counter() - begin
    pyro.clear_param_store()
    return seconds


def by_numpyro(program: Any, name: str, steps: int) -> float:
    """Seconds of NumPyro's SVI, its loop compiled."""
    import jax
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO

    begin = perf_counter()
    loss = TraceGraph_ELBO() if name in DISCRETE else Trace_ELBO()
    svi = SVI(program.model, program.guide, numpyro.optim.Adam(LEARNING_RATE), loss)
    result = svi.run(jax.random.PRNGKey(0), max(steps, 1), *program.data, progress_bar=False)
    np.asarray(result.losses)
    return perf_counter() - begin


SVIS = {"torch": by_pyro, "jax": by_numpyro}

if __name__ == "__main__":
    main()
