"""Milliseconds per training step: ppl_gen, Pyro, NumPyro and loops written by hand, side by side in one run.

Each round runs every contender in turn from new weights: some steps to warm up (compilation included), then the
steps that are timed. The table gives the median over rounds, and the median of the rounds' ratios to ppl_gen on the
same backend, so that a slow minute of the machine hits all alike.

    python benchmarks/step_time.py --help
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Protocol

OURS = "ppl_gen"


class Contender(Protocol):
    """What is timed."""

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """(seconds before the first timed step, seconds per step, loss per row in nats), from new weights."""
        ...


@dataclass
class Placed:
    """A contender of torch's that runs on a device."""

    build: Callable[[], Contender]
    device: str

    def __post_init__(self) -> None:
        """Build it there."""
        import torch

        self._place = torch.device(self.device)
        with self._place:
            self._contender = self.build()

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """See `Contender`."""
        with self._place:
            return self._contender.run(warm, steps)


@dataclass
class Row:
    """Measurements of one contender, one entry per round."""

    backend: str
    name: str
    contender: Any
    start: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def measure(self, warm: int, steps: int) -> None:
        """One round."""
        found = self.contender.run(warm, steps)
        for values, value in zip((self.start, self.step, self.loss), found, strict=True):
            values.append(value)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(argv)
    prepare_threads(options.threads)
    if options.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"  # else it takes a GPU where it sees one
    import workloads

    print(header(options), flush=True)
    warm = max(1, options.run_length // 100)  # infer.fit reports this often
    steps = max(1, options.steps // warm) * warm
    for name in options.workload:
        workload = workloads.WORKLOADS[name]
        x = workloads.binary_images(options.batches * workload.batch, options.seed)
        rows = contenders(workload, x, options)
        for _ in range(options.rounds):
            for row in rows:
                row.measure(warm, steps)
        how = [f"{row.backend} {row.name}: {row.contender.how}" for row in rows if row.name == OURS]
        print("\n".join(["", workload.title, table(rows), *how]), flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Milliseconds per training step, side by side.")
    parser.add_argument("--steps", type=int, default=200, help="timed steps per round (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument(
        "--run-length", type=int, default=10_000, help="steps that infer.fit is asked for (default: 10000)"
    )
    parser.add_argument("--backend", nargs="+", choices=("torch", "jax"), default=["torch", "jax"])
    parser.add_argument("--workload", nargs="+", choices=("vae", "belief_net"), default=["vae", "belief_net"])
    parser.add_argument(
        "--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", 1)), help="default: OMP_NUM_THREADS or 1"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where all contenders run (default: cpu)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batches", type=int, default=100, help="batches in one pass over the data (default: 100)")
    parser.add_argument("--quick", action="store_true", help="one round of a few steps, to see that all runs")
    options = parser.parse_args(argv)
    if options.quick:
        options.steps, options.rounds, options.run_length, options.batches = 20, 1, 1000, 5
    return options


def prepare_threads(threads: int) -> None:
    """Hold torch and XLA to as many threads, before either is loaded."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["NPROC"] = str(threads)  # the size of XLA's pool
    if threads == 1:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"


def contenders(workload: Any, x: Any, options: argparse.Namespace) -> list[Row]:
    """All that run on the backends asked for."""
    import by_ppl_gen

    rows, length = [], options.run_length
    common, ours = (workload, x, options.seed), {"device": options.device}
    if "torch" in options.backend:
        import by_pyro
        import by_torch
        import torch

        torch.set_num_threads(options.threads)
        rows.append(Row("torch", OURS, by_ppl_gen.Contender(*common, "torch", length, **ours)))
        eager = by_ppl_gen.Contender(*common, "torch", length, False, **ours)
        rows.append(Row("torch", f"{OURS}, compile=False", eager))
        for name, kind in ((f"Pyro SVI, {elbo(workload.name)}", by_pyro), ("by hand, eager", by_torch)):
            rows.append(Row("torch", name, Placed(partial(kind.Contender, *common), options.device)))
    if "jax" in options.backend:
        import by_jax
        import by_numpyro

        note = ", no baselines" if workload.name == "belief_net" else ""
        rows.append(Row("jax", OURS, by_ppl_gen.Contender(*common, "jax", length, **ours)))
        if note:  # the same work as NumPyro's
            bare = by_ppl_gen.Contender(*common, "jax", length, baselines=False, **ours)
            rows.append(Row("jax", f"{OURS}{note}", bare))
        rows.append(Row("jax", f"NumPyro SVI, {elbo(workload.name)}{note}", by_numpyro.Contender(*common)))
        rows.append(Row("jax", "by hand, jitted scan", by_jax.Contender(*common)))
    return rows


def elbo(workload: str) -> str:
    """The class that Pyro and NumPyro offer for it."""
    return "Trace_ELBO" if workload == "vae" else "TraceGraph_ELBO"


def gpu_name(backends: Sequence[str]) -> str:
    """What the device is called."""
    if "torch" in backends:
        import torch

        return str(torch.cuda.get_device_name())
    import jax

    return str(jax.devices()[0].device_kind)


def header(options: argparse.Namespace) -> str:
    """When, where and with what."""
    packages = ["numpy"] + ["torch", "pyro-ppl"] * ("torch" in options.backend)
    packages += ["jax", "numpyro", "optax"] * ("jax" in options.backend)
    where = "CPU only" if options.device == "cpu" else gpu_name(options.backend)
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return "\n".join(
        [
            f"{datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, {where}",
            f"Python {platform.python_version()}, {versions}",
            f"threads {options.threads} (OMP_NUM_THREADS, torch, XLA), seed {options.seed}",
            f"{options.rounds} rounds of {options.steps} steps, runs of {options.run_length} steps, Adam, float32",
        ]
    )


def table(rows: list[Row]) -> str:
    """Medians and ratios, one line per contender."""
    head = ("backend", "contender", "ms/step", "min - max", "x ppl_gen", "start s", "loss/row")
    lines = [head]
    for row in rows:
        ours = next(r for r in rows if r.backend == row.backend and r.name == OURS)
        ratio = median(own / reference for own, reference in zip(row.step, ours.step, strict=True))
        spread = f"{1e3 * min(row.step):.2f} - {1e3 * max(row.step):.2f}"
        numbers = (
            f"{1e3 * median(row.step):.2f}",
            spread,
            f"{ratio:.2f}",
            f"{row.start[0]:.1f}",
            f"{row.loss[-1]:.1f}",
        )
        lines.append((row.backend, row.name, *numbers))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join(text)


if __name__ == "__main__":
    main()
