"""Where a program runs: what is asked for is used or refused, and every tensor of a program is on its device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_gen as pg
from ppl_gen import backends, infer, models
from ppl_gen.backends.torch.elsewhere import held_elsewhere
from ppl_gen.errors import ProgramError
from tests import plain_pyro
from tests.pretended import DEVICE, Pretended

QUIET: dict[str, Any] = {"progress": False, "compile": False}
Y = np.linspace(-1.0, 1.0, 6).astype(np.float32)
ROWS = (np.random.default_rng(0).random((12, 4)) < 0.5).astype(np.float32)
PROGRAMS = [
    name
    for name, made in vars(plain_pyro).items()
    if getattr(made, "__annotations__", {}).get("return") is plain_pyro.Program
]
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")


def model(y: Any) -> None:
    z = pg.sample("z", pg.dist.Normal(0.0, 1.0))
    with pg.plate("data", len(y)):
        pg.sample("y", pg.dist.Normal(z, 1.0), obs=y)


def guide(y: Any) -> None:
    pg.sample("z", pg.dist.Normal(pg.param("m", pg.xp.zeros(())), 1.0))


VERBS: dict[str, Callable[..., Any]] = {
    "fit": lambda **how: infer.fit(model, guide, Y, steps=2, **QUIET, **how),
    "plan": lambda **how: infer.plan(model, guide, Y, **how),
    "gradient": lambda **how: infer.gradient(model, guide, Y, **how),
    "check": lambda **how: infer.check(model, guide, Y, num_samples=20, others=False, max_samples=20, **how),
}


@NO_CUDA
@pytest.mark.parametrize("verb", VERBS)
def test_a_device_is_used_or_refused_by_name(verb: str, backend: str) -> None:
    VERBS[verb](device="cpu", backend=backend)
    for absent in ("cuda", "abacus"):
        with pytest.raises(ValueError, match=f"device: expected.*{absent}"):
            VERBS[verb](device=absent, backend=backend)
    with pytest.raises(TypeError, match="device: expected a name"):
        VERBS[verb](device=0, backend=backend)


@NO_CUDA
def test_a_saved_fit_is_loaded_on_the_device_asked_for(backend: str, tmp_path: Path) -> None:
    infer.fit(model, guide, Y, steps=2, backend=backend, **QUIET).save(tmp_path / "fit")
    assert infer.load(tmp_path / "fit", model, guide, device="cpu").device == "cpu"
    with pytest.raises(ValueError, match="device: expected"):
        infer.load(tmp_path / "fit", model, guide, device="cuda")


@NO_CUDA
def test_a_query_is_answered_where_the_fit_is(backend: str) -> None:
    fit = infer.fit(models.OrderAgnosticNADE(4, hidden=(8,)), data=ROWS, steps=2, backend=backend, **QUIET)
    same = [fit.query([0], given={1: 1}, device=device).marginals()[0] for device in ("auto", "cpu", "cpu:0")]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])
    with pytest.raises(ValueError, match="device: expected"):
        fit.query([0], given={1: 1}, device="cuda")
    fit.device = "elsewhere"
    with pytest.raises(
        ValueError, match="device: expected 'auto' or 'elsewhere', where the fit is; got 'cpu'. Save the fit"
    ):
        fit.query([0], given={1: 1}, device="cpu")


def test_the_pretended_device_tells_host_from_device() -> None:
    with Pretended():
        here, there = torch.ones(3), torch.ones(3, device=DEVICE)
        assert torch.equal((here.to(DEVICE) + there).cpu(), there.cpu() + here)
        assert torch.ones((), device="cpu") * there is not None and there[torch.arange(2)] is not None
        for mixed in (lambda: here + there, lambda: torch.stack([here, there]), lambda: nn.Linear(3, 1)(there)):
            with pytest.raises(RuntimeError, match="on the host"):
                mixed()


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_tensor_of_a_program_is_on_its_device_or_is_named(name: str) -> None:
    """Torch raises where tensors of two devices meet; so does `Pretended`."""
    with Pretended():
        program = getattr(plain_pyro, name)()
        if held_elsewhere("cuda", program.model, program.guide):
            return
        fit = infer.fit(program.model, program.guide, program.data, steps=2, device=DEVICE, **QUIET)
        assert fit.device == DEVICE and np.isfinite(fit.losses).all()
        fit.posterior(program.data, 2)


HOLDING = {"eight_schools_reparametrized", "hidden_markov_model", "bayesian_neural_network", "coin_auto_delta"}
HOLDING |= {"logistic_regression_auto_normal", "regression_auto_multivariate", "masked_scaled_conditioned_blocked"}


def test_programs_that_hold_tensors_are_told_from_those_that_do_not() -> None:
    built = {name: getattr(plain_pyro, name)() for name in PROGRAMS}
    assert {name for name, one in built.items() if held_elsewhere("cuda", one.model, one.guide)} == HOLDING
    assert not any(held_elsewhere("cpu", one.model, one.guide) for one in built.values())


def unregistered() -> Callable[..., None]:
    net = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))

    def proposal(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

    return proposal


def coded(x: torch.Tensor) -> None:
    bias = pyro.param("bias", lambda: torch.zeros(4))
    weight = pyro.param("weight", lambda: torch.ones(2, 4))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z @ weight + bias).to_event(1), obs=x)


def loader() -> Any:
    rows = torch.utils.data.TensorDataset(torch.tensor(ROWS))
    drawn = torch.Generator().manual_seed(0)
    return torch.utils.data.DataLoader(rows, batch_size=5, shuffle=True, generator=drawn)


SITUATIONS: dict[str, Callable[[], Any]] = {
    "a network that is not registered": lambda: infer.fit(coded, unregistered(), ROWS, steps=3, device=DEVICE, **QUIET),
    "a loader with a generator": lambda: infer.fit(coded, unregistered(), loader(), steps=4, device=DEVICE, **QUIET),
    "an automatic guide by rows": lambda: infer.fit(coded, None, ROWS, steps=3, batch_size=5, device=DEVICE, **QUIET),
    "validation in chunks": lambda: infer.fit(
        coded, unregistered(), ROWS, steps=3, batch_size=5, validation=np.tile(ROWS, (100, 1)), device=DEVICE, **QUIET
    ),
    "a VAE": lambda: infer.fit(models.VAE(4, 2, hidden=(3,)), data=ROWS, steps=3, device=DEVICE, **QUIET),
    "a belief net": lambda: infer.fit(models.SigmoidBeliefNet(4, hidden=(3, 2)), data=ROWS, steps=3, device=DEVICE, **QUIET),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_fit_keeps_to_its_device(name: str) -> None:
    with Pretended():
        fit = SITUATIONS[name]()
        assert fit.device == DEVICE and np.isfinite(fit.losses).all()
        if "rows" in name:
            return
        drawn = [fit.posterior(ROWS, 2), fit.predict(ROWS, 2), fit.sample(3), fit.params]
        assert all(isinstance(value, np.ndarray) for found in drawn for value in found.values())
        fit.log_prob(ROWS, 3)


def test_steps_are_captured_under_a_device_all_the_same() -> None:
    fits = [
        infer.fit(models.VAE(4, 2, hidden=(3,)), data=ROWS, steps=6, device=d, progress=False) for d in ("cpu", DEVICE)
    ]
    np.testing.assert_array_equal(fits[0].losses, fits[1].losses)
    assert all("steps: captured" in fit.summary() for fit in fits)


def test_an_order_agnostic_model_is_asked_on_its_device() -> None:
    with Pretended():
        fit = infer.fit(models.OrderAgnosticNADE(4, hidden=(8,)), data=ROWS, steps=2, device=DEVICE, **QUIET)
        fit.query([0], given={1: 1}).sample(2)
        fit.log_prob(ROWS)


def holding() -> tuple[Callable[..., Any], Callable[..., Any]]:
    scale = torch.tensor([2.0])

    def held_model(y: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    def held_guide(y: torch.Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("m", lambda: torch.zeros(())), 1.0))

    return held_model, held_guide


@NO_CUDA
def test_a_program_that_holds_tensors_stays_on_the_cpu_and_its_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.get("torch"), "resolve_device", lambda device: "cuda")  # as if there were one
    fit = infer.fit(*holding(), Y, steps=2, **QUIET)
    assert fit.device == "cpu"
    assert "device: runs on the CPU and not on 'cuda', as the program holds 'scale' of shape (1,) on cpu" in str(
        fit.plan
    )
    assert "runs on the CPU" in str(infer.plan(*holding(), Y))
    with pytest.raises(
        ProgramError, match="device: expected a program whose tensors are on 'cuda'; got one that holds 'scale'"
    ):
        infer.fit(*holding(), Y, steps=2, device="cuda", **QUIET)


def test_data_of_another_form_are_named(backend: str) -> None:
    def regression(x: Any, y: Any) -> None:
        slope = pg.sample("slope", pg.dist.Normal(0.0, 1.0))
        with pg.plate("data", len(x)):
            pg.sample("y", pg.dist.Normal(slope * x, 1.0), obs=y)

    fit = infer.fit(regression, data={"x": Y, "y": 2 * Y}, steps=2, backend=backend, **QUIET)
    assert fit.predict({"x": Y, "y": None})["y"].shape == (1, 6)  # what it is not given it draws
    with pytest.raises(ProgramError, match=r"data\['x'\]: expected an array, as in training; got None. Pass an array"):
        fit.predict({"x": None, "y": 2 * Y})
    with pytest.raises(ProgramError, match=r"data: expected \['y'\], as in training; got \['x'\]"):
        fit.predict({"x": Y})
    with pytest.raises(ProgramError, match=r"data: expected \['x', 'y'\], as in training; got w too"):
        fit.posterior({"x": Y, "y": Y, "w": Y})
