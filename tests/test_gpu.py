"""What only a GPU can show: run `pytest -m gpu` on a machine that has one; elsewhere every test here is skipped.

These tests have not run where the rest of the suite is run, which is on CPUs: `tests/test_devices.py` holds there what can
be held without a GPU, which is that every tensor of a program is on its device. They are meant to take under five minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_gen import infer, models
from ppl_gen.errors import ProgramError
from tests import plain_pyro
from tests.test_devices import HOLDING, PROGRAMS, ROWS, Y, coded, guide, holding, loader, model, unregistered

pytestmark = pytest.mark.gpu

QUIET: dict[str, Any] = {"progress": False}
NETS: dict[str, Callable[[], Any]] = {
    "vae": lambda: models.VAE(4, 2, hidden=(8,)),
    "belief net": lambda: models.SigmoidBeliefNet(4, hidden=(3, 2)),
}


@pytest.fixture(autouse=True)
def cuda(request: pytest.FixtureRequest) -> None:
    """Each library has its own word on whether there is a GPU."""
    if "jax" not in request.node.name and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


def on_gpu(**options: Any) -> dict[str, Any]:
    return {"backend": "torch", "device": "cuda", **QUIET, **options}


@pytest.mark.parametrize("name", NETS)
def test_a_model_trains_on_the_gpu_as_on_the_cpu(name: str) -> None:
    """Other draws, the same law: the last losses' means differ by less than five of their standard errors."""
    rows = np.tile(ROWS, (10, 1))
    fits = [
        infer.fit(NETS[name](), data=rows, steps=400, learning_rate=0.01, **on_gpu(device=d)) for d in ("cuda", "cpu")
    ]
    assert [fit.device for fit in fits] == ["cuda", "cpu"]
    tails = [fit.losses[-200:].reshape(10, 20).mean(1) for fit in fits]  # neighbours are alike
    error = np.sqrt(sum(tail.var(ddof=1) / len(tail) for tail in tails))
    assert abs(tails[0].mean() - tails[1].mean()) < 5 * error + 0.02 * abs(tails[1].mean())


@pytest.mark.parametrize("name", NETS)
def test_a_captured_step_holds(name: str) -> None:
    fit = infer.fit(NETS[name](), data=ROWS, steps=20, **on_gpu())
    assert "did not repeat" not in fit.summary() and not fit.summary().splitlines()[1].startswith("steps: eager")


def test_a_run_is_continued_bit_by_bit(tmp_path: Path) -> None:
    whole = infer.fit(models.VAE(4, 2, hidden=(8,)), data=ROWS, steps=20, batch_size=5, **on_gpu(compile=False))
    for steps in (10, 20):
        parts = infer.fit(
            models.VAE(4, 2, hidden=(8,)),
            data=ROWS,
            steps=steps,
            batch_size=5,
            checkpoint=tmp_path / "fit",
            **on_gpu(compile=False),
        )
    np.testing.assert_array_equal(whole.losses, parts.losses)


def test_a_saved_fit_goes_from_device_to_device(tmp_path: Path) -> None:
    fit = infer.fit(model, guide, Y, steps=5, **on_gpu())
    fit.save(tmp_path / "fit")
    for device in ("cpu", "cuda"):
        loaded = infer.load(tmp_path / "fit", model, guide, device=device)
        assert loaded.device == device
        np.testing.assert_array_equal(loaded.params["m"], fit.params["m"])


def test_a_program_that_holds_tensors_stays_on_the_cpu() -> None:
    fit = infer.fit(*holding(), Y, steps=2, **QUIET)
    assert fit.device == "cpu" and "device: runs on the CPU" in str(fit.plan)
    with pytest.raises(ProgramError, match="got one that holds 'scale'"):
        infer.fit(*holding(), Y, steps=2, device="cuda", **QUIET)
    scale = torch.tensor([2.0], device="cuda")

    def held_there(y: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    assert infer.fit(held_there, holding()[1], Y, steps=2, **QUIET).device == "cuda"


@pytest.mark.parametrize("name", PROGRAMS)
def test_plain_pyro_programs_run_where_their_tensors_are(name: str) -> None:
    program = getattr(plain_pyro, name)()
    fit = infer.fit(program.model, program.guide, program.data, steps=3, compile=False, **QUIET)
    assert fit.device == ("cpu" if name in HOLDING else "cuda") and np.isfinite(fit.losses).all()
    assert all(isinstance(value, np.ndarray) for value in fit.posterior(program.data, 2).values())


def test_what_a_fit_gives_are_numpy_arrays() -> None:
    fit = infer.fit(coded, unregistered(), loader(), steps=6, **on_gpu())
    drawn = [fit.posterior(ROWS, 2), fit.predict(ROWS, 2), fit.sample(3), fit.params]
    assert all(isinstance(value, np.ndarray) for found in drawn for value in found.values())
    assert np.isfinite(fit.log_prob(ROWS, 5).value).all()


def test_validation_is_gone_through_in_chunks() -> None:
    held_out = np.tile(ROWS, (200, 1))
    fit = infer.fit(models.VAE(4, 2, hidden=(8,)), data=ROWS, steps=6, batch_size=5, validation=held_out, **on_gpu())
    assert np.isfinite([loss for _, loss in fit.validation_losses]).all()


def test_the_other_verbs_take_the_gpu() -> None:
    how = {"backend": "torch", "device": "cuda"}
    on_cpu = infer.plan(model, guide, Y, backend="torch", device="cpu")
    assert str(infer.plan(model, guide, Y, **how)) == str(on_cpu)  # type: ignore[arg-type]
    assert infer.gradient(model, guide, Y, num_samples=3, **how)["m"].shape == (3,)  # type: ignore[arg-type]
    assert infer.check(model, guide, Y, num_samples=200, others=False, **how).ok is not False  # type: ignore[arg-type]


def test_jax_puts_a_program_on_the_device_asked_for() -> None:
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU")
    for device, expected in (("auto", "gpu"), ("cuda", "gpu"), ("cpu", "cpu")):
        fit = infer.fit(model, guide, Y, steps=3, backend="jax", device=device, **QUIET)
        assert {leaf.devices().pop().platform for leaf in fit._trainer.current_params().values()} == {expected}
