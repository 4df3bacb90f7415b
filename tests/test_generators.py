"""Every generator that torch draws from is saved, put back and kept, whichever device it draws on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_gen import infer
from ppl_gen.backends.torch import generators

Y = torch.linspace(-1.0, 2.0, 8)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.Generator]:
    """A second generator, which stands for that of a GPU."""
    other = torch.Generator().manual_seed(3)
    every = {generators.CPU: torch.default_generator, "cuda:0": other}
    monkeypatch.setattr(generators, "generators", lambda: every)
    yield other


def fitted(device: torch.Generator, **options: Any) -> infer.Fit:
    def model(y: Tensor) -> None:
        drawn = torch.randn((), generator=device)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(pyro.param("m", torch.zeros(())) + drawn, 1.0), obs=y)

    device.manual_seed(3)  # a session seeds those that torch knows of
    return infer.fit(model, data=Y, backend="torch", progress=False, learning_rate=0.05, **options)


def test_a_step_that_draws_on_a_device_is_captured_and_repeats_eager_ones(device: torch.Generator) -> None:
    fast, eager = (fitted(device, steps=12, compile=compile) for compile in ("auto", False))
    assert "steps: captured" in fast.summary() and len(set(fast.losses.tolist())) == 12
    np.testing.assert_array_equal(fast.losses, eager.losses)


def test_a_fit_leaves_the_devices_generator_as_it_was(device: torch.Generator) -> None:
    device.manual_seed(3)
    before = device.get_state()
    fit = fitted(device, steps=6)
    fit.log_prob(Y, 4)
    assert torch.equal(before, device.get_state())


def test_a_run_is_continued_bit_for_bit_with_the_devices_draws(device: torch.Generator, tmp_path: Path) -> None:
    whole = fitted(device, steps=10)
    half = fitted(device, steps=5, checkpoint=tmp_path / "run")
    assert "random/cuda:0" in half._trainer.state()
    rest = fitted(device, steps=10, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(whole.losses, rest.losses)
    np.testing.assert_array_equal(whole.params["m"], rest.params["m"])


def test_a_file_from_a_machine_without_the_device_is_continued(
    device: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(generators, "generators", lambda: {generators.CPU: torch.default_generator})
        fitted(device, steps=5, checkpoint=tmp_path / "run")
    assert len(fitted(device, steps=10, checkpoint=tmp_path / "run").losses) == 10


def test_a_stored_state_is_loaded_on_the_cpu_whatever_the_default_device_is(device: torch.Generator) -> None:
    """Generators take their states from the CPU's memory only."""
    fit = fitted(device, steps=3)
    flat = fit._trainer.state()
    with torch.device("meta"):
        fit._trainer.load(flat)
        again = fit._trainer.state()
    assert all(np.array_equal(value, again[name]) for name, value in flat.items())
