"""The benchmark runs and every contender computes the same thing; nothing is asserted about time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nightly import nightly

ROOT = Path(__file__).resolve().parents[1]
TORCH = ["ppl_gen", "ppl_gen, compile=False", "Pyro SVI", "by hand, eager"]
ROWS = {
    ("torch", "VAE"): TORCH,
    ("torch", "sigmoid belief net"): TORCH,
    ("jax", "VAE"): ["ppl_gen", "NumPyro SVI", "by hand, jitted scan"],
    ("jax", "sigmoid belief net"): ["ppl_gen", "ppl_gen, no baselines", "NumPyro SVI", "by hand, jitted scan"],
}


def run(script: str, *options: str) -> str:
    """What the script prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", nightly("jax")])
def test_quick_benchmark_prints_every_contender_at_the_same_loss(backend):
    pytest.importorskip("pyro" if backend == "torch" else "numpyro")
    printed = run("step_time.py", "--quick", "--backend", backend)
    head, vae, net = printed.split("\n\n")
    assert re.search(r"^\d{4}-\d\d-\d\d, .*cores", head) and "threads 1" in head and "seed 0" in head
    for title, block in (("VAE", vae), ("sigmoid belief net", net)):
        first, _, *lines, how = block.strip().splitlines()
        assert first.startswith(title) and how.startswith(f"{backend} ppl_gen: steps: ")
        cells = [re.split(r"\s{2,}", line) for line in lines]
        for name, row in zip(ROWS[backend, title], cells, strict=True):
            assert row[0] == backend and row[1].startswith(name)
            assert float(row[2]) > 0 and float(row[4]) > 0
        losses = [float(row[-1]) for row in cells]
        # Same model, same stage of training; first weights and draws differ. One wrong term moves it far more.
        assert max(losses) / min(losses) < 1.05


@pytest.mark.slow
def test_gradient_bias_prints_unbiased_gradients_of_ppl_gen():
    """With 600 samples and 8 numbers, 5 standard errors are passed by chance in 1 of 200,000 runs."""
    pytest.importorskip("pyro")
    pytest.importorskip("numpyro")
    printed = run("gradient_bias.py", "--samples", "600")
    distances: dict[str, list[float]] = {"ppl_gen": [], "Trace": []}
    for line in printed.splitlines():
        if found := re.search(r"(ppl_gen|Trace).* off by ([\d.]+) standard errors", line):
            distances[found[1]].append(float(found[2]))
    assert len(distances["ppl_gen"]) == 4 and len(distances["Trace"]) == 8
    assert max(distances["ppl_gen"]) < 5
    assert min(distances["Trace"]) > 10  # a gradient of zero, or one that loses a term, would be seen here


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, nightly(True)])  # by day `test_capture` compiles a step
def test_chain_benchmark_prints_every_contender(compiled):
    pytest.importorskip("pyro")
    options = [] if compiled else ["--not-compiled"]
    printed = run("chain_time.py", "--sites", "4", "--steps", "5", "--rounds", "1", *options)
    lines = [re.split(r"\s{2,}", line) for line in printed.splitlines()[2:]]
    names = [
        "Pyro SVI, TraceGraph_ELBO",
        "ppl_gen, compile=False",
        "ppl_gen, captured",
        "ppl_gen, captured and compiled",
    ]
    assert [line[0] for line in lines] == (names if compiled else names[:-1])
    assert all(float(line[1]) > 0 for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", nightly("jax")])
def test_first_step_prints_runs_seconds_and_the_ratio_to_svi(backend):
    pytest.importorskip("pyro" if backend == "torch" else "numpyro")
    some = ["--program", "gamma-Poisson", "chain of bits"]
    printed = run("first_step.py", "--steps", "5", "--rounds", "1", "--backend", backend, *some)
    lines = [re.split(r"\s{2,}", line) for line in printed.splitlines()[-2:]]
    assert [line[0] for line in lines] == some[1:]
    for _, runs, before, fit, svi, ratio in lines:
        assert int(runs) >= 1 and float(before) >= 0
        assert abs(float(fit) / float(svi) / float(ratio) - 1) < 0.2 + 0.01 / float(svi)
