"""Seconds to the first report of a cold fit, beyond imports: a VAE and a sigmoid belief net, each run in a new process.

Nothing is compiled or known beforehand, as when a script is started; what the frameworks import on their first use of a
compiler is counted as imports. With ``--particles`` the seconds of tracing, lowering and compiling the loop on JAX are
compared for 1 and for that many particles.

    python benchmarks/first_report.py --help
"""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import step_time

MODELS = ("VAE", "belief net")
IMPORTS = {
    "torch": ("ppl_gen.backends.torch", "pyro.infer.autoguide", "torch._dynamo", "torch._inductor.compile_fx"),
    "jax": ("ppl_gen.backends.jax", "numpyro.infer.autoguide"),
}
COMPILING = re.compile(
    r"(?:Finished tracing loop for jit|module conversion jit\(loop\)|compilation of jit\(loop\)) in ([\d.]+) sec"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds to the first report of a cold fit.")
    parser.add_argument("--rounds", type=int, default=3, help="new processes for each (default: 3)")
    parser.add_argument("--backend", nargs="+", choices=("torch", "jax"), default=["torch", "jax"])
    parser.add_argument("--particles", type=int, default=20, help="compared with one, on JAX (default: 20)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(first_report(*options.one))
        return
    options.steps = options.run_length = 300
    options.threads, options.seed, options.device = "as found", 0, "cpu"
    print(step_time.header(options), flush=True)
    for backend in options.backend:
        for model in MODELS:
            command = [sys.executable, __file__, "--one", model, backend]
            seconds = [float(subprocess.check_output(command, text=True).split()[-1]) for _ in range(options.rounds)]
            print(f"{backend:6}{model:12} first report after {median(seconds):.2f} s", flush=True)
    for model in MODELS if "jax" in options.backend else ():
        few, many = compiling(model, (1, options.particles), options.rounds)
        print(
            f"jax   {model:12} loop compiled in {few:.2f} s, with {options.particles} particles {many / few:.2f} x",
            flush=True,
        )


def build(model: str) -> Any:
    """The model anew."""
    from ppl_gen import models

    return models.VAE(784, 20, hidden=(400,)) if model == "VAE" else models.SigmoidBeliefNet(784, hidden=(200, 200))


def rows(number: int) -> np.ndarray:
    """Binary data of MNIST's shape."""
    return (np.random.default_rng(0).random((number, 784)) < 0.3).astype(np.float32)


def first_report(model: str, backend: str) -> float:
    """Seconds from the call of `fit` to the first callback."""
    from ppl_gen import infer

    for name in IMPORTS[backend]:
        importlib.import_module(name)
    reports: list[float] = []
    report: Callable[[Any], None] = lambda state: reports.append(perf_counter())  # noqa: E731
    program, begin = build(model), perf_counter()
    infer.fit(program, data=rows(960), steps=300, batch_size=24, backend=backend, progress=False, callbacks=[report])
    return reports[0] - begin


def compiling(model: str, particles: Sequence[int], rounds: int) -> list[float]:
    """Least seconds that JAX spends on the loop, for each number of particles."""
    import jax

    from ppl_gen import infer

    told: list[str] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    jax.config.update("jax_log_compiles", True)
    for name in ("jax._src.dispatch", "jax._src.interpreters.pxla", "jax._src.compiler"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate, logger.level = [Told()], False, logging.DEBUG
    least = dict.fromkeys(particles, np.inf)
    for _ in range(rounds):
        for number in particles:
            told.clear()
            infer.fit(
                build(model),
                data=rows(96),
                steps=1,
                batch_size=24,
                num_particles=number,
                backend="jax",
                progress=False,
            )
            least[number] = min(least[number], sum(float(s) for line in told for s in COMPILING.findall(line)))
    return [least[number] for number in particles]


if __name__ == "__main__":
    main()
