"""Programs that Pyro and NumPyro train, each of a kind that was refused, crashed or lost something here.

Losses without latents are compared with closed forms in float32 (relative 1e-5).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDelta, AutoGaussian, AutoNormal, AutoStructured
from torch import nn
from torch._dynamo.eval_frame import TorchPatcher

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Enumerate
from tests.plan_table import library

ROWS = np.random.default_rng(0).normal(size=50).astype(np.float32)
QUICK: dict[str, Any] = {"steps": 3, "progress": False}


@pytest.fixture(autouse=True)
def own_store() -> Iterator[None]:
    """Pyro's parameter store is the test's own."""
    with pyro.get_param_store().scope():
        yield


def normal_loss(x: Any, loc: Any, scale: Any = 1.0) -> float:
    """Minus the log density of all elements, nats."""
    x, scale = np.asarray(x, dtype=float), np.asarray(scale, dtype=float)
    return float((0.5 * ((x - loc) / scale) ** 2 + np.log(scale) + 0.5 * math.log(2 * math.pi)).sum())


# -- what is checked of observations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: d.to_event(1), lambda d: d.mask(True).to_event(1)])
def test_an_observation_outside_a_support_that_is_not_checked_trains_and_is_said(wrap: Any, backend: str) -> None:
    lib, grey = library(backend), np.random.default_rng(0).random((5, 3)).astype(np.float32)

    def model(x: Any) -> None:
        logits = lib.param("logits", lib.array(np.full(3, 0.2, dtype=np.float32)))
        with lib.plate(
            "rows", 5, dim=-1 if len(wrap(lib.dist.Normal(lib.array(np.zeros(3)), 1.0)).event_shape) else -2
        ):
            lib.sample("x", wrap(lib.dist.Bernoulli(logits=logits, validate_args=False)), obs=x)

    fit = infer.fit(model, None, lib.array(grey), backend=backend, **QUICK)
    assert fit.losses[0] == pytest.approx(float((np.log1p(np.exp(0.2)) - 0.2 * grey).sum()), rel=1e-5)
    assert any("site 'x' (Bernoulli)" in note and "validate_args=False" in note for note in fit.plan.notes)


def test_a_global_switch_of_pyros_counts_as_the_users() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=pyro.param("logits", torch.zeros(()))), obs=x)

    grey = torch.tensor([0.5, 0.2])
    with pytest.raises(ProgramError, match="validate_args=False"):
        infer.fit(model, None, grey, **QUICK)
    with pyro.validation_enabled(False):
        assert infer.fit(model, None, grey, **QUICK).losses[0] == pytest.approx(2 * math.log(2))


def test_what_torchs_compiler_switches_off_is_not_the_users_choice() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=pyro.param("logits", torch.zeros(()))), obs=x)

    with pyro.settings.context(validate_distributions_torch=False):
        TorchPatcher.patch()  # as the first torch.compile of a process does
        with pytest.raises(ProgramError, match="validate_args=False"):
            infer.fit(model, None, torch.tensor([0.5, 0.2]), **QUICK)


MASKED: dict[str, tuple[Callable[[Any, Any], Any], float]] = {
    "NaN": (lambda lib, loc: lib.dist.Normal(loc, 1.0), np.nan),
    "a pad of a Beta": (lambda lib, loc: lib.dist.Beta(lib.xp.exp(loc), 1.0), -1.0),
    "NaN of a Gamma": (lambda lib, loc: lib.dist.Gamma(lib.xp.exp(loc), 1.0), np.nan),
}


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("where", ["distribution", "handler"])
def test_what_is_masked_may_hold_anything(kind: str, where: str, backend: str) -> None:
    """Value and gradient are those of the other rows, and the parameters of masked rows stay as they are."""
    lib, (make, bad) = library(backend), MASKED[kind]
    x, seen = np.array([0.3, 0.6, bad, bad], dtype=np.float32), np.array([True, True, False, False])
    handlers = poutine if backend == "torch" else __import__("numpyro").handlers

    def model(x: Any, seen: Any) -> None:
        loc = lib.param("loc", lib.array(np.full(4, 0.1, dtype=np.float32)))
        with lib.plate("rows", 4):
            if where == "handler":
                with handlers.mask(mask=seen):
                    lib.sample("x", make(lib, loc), obs=x)
            else:
                lib.sample("x", make(lib, loc).mask(seen), obs=x)

    gradient = infer.gradient(model, None, (x, seen), backend=backend)["loc"][0]
    whole = np.array([0.3, 0.6, 0.3, 0.6], dtype=np.float32)
    all_seen = infer.gradient(model, None, (whole, np.full(4, True)), backend=backend)["loc"][0]
    np.testing.assert_allclose(gradient, np.where(seen, all_seen, 0.0), rtol=1e-5)
    with pytest.raises(ProgramError, match="'x'"):
        infer.gradient(model, None, (x, np.full(4, True)), backend=backend)


def test_labels_of_padded_rows_lie_outside_the_support_under_a_mask(backend: str) -> None:
    lib, y = library(backend), np.array([0, 1, 2, -1, -1])
    handlers = poutine if backend == "torch" else __import__("numpyro").handlers

    def model(y: Any) -> None:
        with lib.plate("rows", 5), handlers.mask(mask=y >= 0):
            lib.sample("y", lib.dist.Categorical(logits=lib.param("logits", lib.array(np.zeros(3, np.float32)))), obs=y)

    assert infer.fit(model, None, y, backend=backend, **QUICK).losses[0] == pytest.approx(3 * math.log(3), rel=1e-5)


def test_nan_that_the_program_replaces_is_no_error(backend: str) -> None:
    lib, x = library(backend), np.array([0.3, np.nan, 0.6], dtype=np.float32)

    def model(x: Any) -> None:
        seen, filled = ~lib.xp.isnan(x), lib.xp.nan_to_num(x)
        with lib.plate("rows", 3):
            loc = lib.param("loc", lib.array(np.float32(0.0)))
            lib.sample("x", lib.dist.Normal(loc, 1.0).mask(seen), obs=filled)

    fit = infer.fit(model, None, x, backend=backend, **QUICK)
    assert fit.losses[0] == pytest.approx(normal_loss([0.3, 0.6], 0.0), rel=1e-5)


def test_nan_that_reaches_a_density_is_an_error(backend: str) -> None:
    lib = library(backend)
    factor = pyro.factor if backend == "torch" else __import__("numpyro").factor

    def model(x: Any) -> None:
        factor("cost", -lib.xp.sum((x - lib.param("loc", lib.array(np.float32(0.0)))) ** 2))

    with pytest.raises(ProgramError, match="(?i)nan"):
        infer.plan(model, None, np.array([0.3, np.nan], dtype=np.float32), backend=backend)


def test_nan_beneath_obs_mask_and_in_a_nan_masked_normal_train() -> None:
    x = torch.tensor([0.3, math.nan, 0.6])
    seen: Any = ~x.isnan()

    def partly(x: torch.Tensor) -> None:
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x, obs_mask=seen)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("rows", 3), poutine.mask(mask=~seen):
            pyro.sample("x_unobserved", dist.Normal(0.0, 1.0))

    def nan_masked(x: torch.Tensor) -> None:
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.NanMaskedNormal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    expected = normal_loss([0.3, 0.6], 0.0)
    assert infer.fit(partly, guide, x, **QUICK).losses[0] == pytest.approx(expected, rel=1e-5)
    assert infer.fit(nan_masked, None, x, **QUICK).losses[0] == pytest.approx(expected, rel=1e-5)


def test_a_mask_counts_as_it_is_at_its_site() -> None:
    """Changed in place afterwards, it would change what the earlier site is differentiated by."""

    def model(x: torch.Tensor) -> None:
        seen: Any = torch.tensor([True, True, False])
        share = torch.ones(3)
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("rows", 3):
            with poutine.mask(mask=seen), poutine.scale(scale=share):
                pyro.sample("a", dist.Normal(loc, 1.0), obs=x)
            pyro.sample("b", dist.Normal(loc, 1.0).mask(seen), obs=x)
            seen |= x > 0
            share *= 0
            with poutine.mask(mask=seen):
                pyro.sample("c", dist.Normal(loc, 1.0), obs=x)

    x = torch.tensor([-1.0, -2.0, 3.0])
    np.testing.assert_allclose(infer.gradient(model, None, x)["loc"][0], [3.0, 6.0, -3.0])


class NoSupport(dist.TorchDistribution):
    """A unit normal whose class states no support, as Pyro's EKFDistribution."""

    arg_constraints = {"loc": constraints.real}

    def __init__(self, loc: torch.Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return dist.Normal(self.loc, 1.0).log_prob(value)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return dist.Normal(self.loc, 1.0).sample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NoSupport:
        return NoSupport(self.loc.expand(batch_shape))


def test_a_support_is_asked_of_latents_only() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("x", NoSupport(pyro.param("loc", torch.zeros(()))), obs=x)

    fit = infer.fit(model, None, torch.from_numpy(ROWS), **QUICK)
    assert fit.losses[0] == pytest.approx(normal_loss(ROWS, 0.0), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 4])
def test_features_never_stop_a_fit(steps: int) -> None:
    """A hidden Markov model as one distribution, whose parameters have shapes of their own."""

    def model(x: torch.Tensor) -> None:
        start, loc = torch.zeros(2), pyro.param("loc", torch.tensor([-1.0, 1.0]))
        pyro.sample("x", dist.DiscreteHMM(start, torch.zeros(steps, 2, 2), dist.Normal(loc, 1.0)), obs=x)

    assert np.isfinite(infer.fit(model, None, torch.randn(4), **QUICK).losses).all()


# -- plates ----------------------------------------------------------------------------------------------------------


def minibatch(lib: Any, rows: int = len(ROWS)) -> tuple[Any, Any]:
    """The usual plate over minibatches: the whole number of rows, and the batch's as the size of a subsample."""

    def model(x: Any) -> None:
        loc = lib.param("loc", lib.array(np.float32(0.3)))
        mu = lib.sample("mu", lib.dist.Normal(loc, 1.0))
        with lib.plate("data", rows, subsample_size=len(x)):
            lib.sample("x", lib.dist.Normal(loc, 1.0), obs=x)
        del mu

    def guide(x: Any) -> None:
        lib.sample("mu", lib.dist.Normal(lib.param("m", lib.array(np.float32(0.0))), 1.0))

    return model, guide


@pytest.mark.parametrize("form", ["batch_size", "list", "loader"])
def test_a_plate_that_states_all_rows_is_scaled_once(form: str, backend: str) -> None:
    """The sum of the losses over a pass, each weighed by its rows, is the whole data's, the smaller last batch included."""
    lib = library(backend)

    def model(x: Any) -> None:
        loc = lib.param("loc", lib.array(np.float32(0.3)))
        with lib.plate("data", len(ROWS), subsample_size=len(x)):
            lib.sample("x", lib.dist.Normal(loc, 1.0), obs=x)

    cuts: Any = [ROWS[:20], ROWS[20:40], ROWS[40:]]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(ROWS)), batch_size=20)
    data, size = {"batch_size": (ROWS, 20), "list": (cuts, None), "loader": (loader, None)}[form]
    fit = infer.fit(model, None, data, batch_size=size, steps=3, learning_rate=1e-12, backend=backend, progress=False)
    share = np.array([20, 20, 10]) / 50
    assert float(share @ fit.losses) == pytest.approx(normal_loss(ROWS, 0.3), rel=1e-5)
    new = fit.log_prob(ROWS[:7])
    assert new.shape == (7,)
    np.testing.assert_allclose(-new.value, [normal_loss(row, 0.3) for row in ROWS[:7]], rtol=1e-5)


def test_a_global_latent_counts_once_beside_a_plate_that_states_all_rows(backend: str) -> None:
    lib = library(backend)
    model, guide = minibatch(lib)
    whole = infer.fit(model, guide, lib.array(ROWS), steps=1, backend=backend, progress=False).losses[0]
    parts = infer.fit(
        model, guide, [lib.array(ROWS[:25])] * 2, steps=1, backend=backend, progress=False, seed=0
    ).losses[0]
    assert parts - whole == pytest.approx(2 * normal_loss(ROWS[:25], 0.3) - normal_loss(ROWS, 0.3), rel=1e-3)


def test_rows_of_a_local_parameter_follow_the_batch(backend: str) -> None:
    """The plate's indices are the batch's own rows, so that what is looked up by them belongs to the data."""
    lib = library(backend)

    def model(x: Any) -> None:
        with lib.plate("data", len(ROWS), subsample_size=len(x)) as rows:
            lib.sample("x", lib.dist.Normal(lib.param("loc", lib.array(ROWS))[rows], 1.0), obs=x)

    fit = infer.fit(model, None, ROWS, batch_size=20, steps=6, backend=backend, progress=False)
    np.testing.assert_allclose(fit.losses, 50 * normal_loss(0.0, 0.0), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_plate_without_a_size_has_its_tensors(batch_size: int | None) -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data"):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 1.0), obs=x)

    fit = infer.fit(model, None, ROWS, batch_size=batch_size, steps=3, learning_rate=1e-12, progress=False)
    share = np.array([20, 20, 10]) / 50 if batch_size else np.full(3, 1 / 3)
    assert float(share @ fit.losses) == pytest.approx(normal_loss(ROWS, 0.3), rel=1e-5)
    assert fit.log_prob(ROWS).shape == (50,)


def test_a_python_loop_over_a_subsample_takes_all_elements_and_says_so() -> None:
    def model(x: torch.Tensor) -> None:
        for i in pyro.plate("d", 6, subsample_size=2):
            pyro.sample(f"x_{i}", dist.Normal(pyro.param(f"loc_{i}", torch.tensor(0.3)), 1.0), obs=x[int(i)])

    fit = infer.fit(model, None, ROWS[:6], **QUICK)
    assert fit.losses[0] == pytest.approx(normal_loss(ROWS[:6], 0.3), rel=1e-5)
    assert any("plate 'd'" in note and "all 6" in note for note in fit.plan.notes)

    def long(x: torch.Tensor) -> None:
        for i in pyro.plate("d", 100_000, subsample_size=2):
            pyro.sample(f"x_{i}", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 1.0), obs=x[0])

    with pytest.raises(ProgramError, match="plate 'd'.*100000"):
        infer.fit(long, None, ROWS[:6], **QUICK)


@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (3,), ()])
def test_an_observation_widens_to_its_plates(shape: tuple[int, ...], backend: str) -> None:
    lib = library(backend)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def model(x: Any) -> None:
        with lib.plate("columns", 3, dim=-1), lib.plate("rows", 4, dim=-2):
            lib.sample("x", lib.dist.Normal(lib.param("loc", lib.array(np.float32(0.3))), 1.0), obs=x)

    fit = infer.fit(model, None, {"x": lib.array(x)}, backend=backend, **QUICK)
    assert fit.losses[0] == pytest.approx(normal_loss(np.broadcast_to(x, (4, 3)), 0.3), rel=1e-5)


# -- programs of other shapes ----------------------------------------------------------------------------------------


def test_a_model_without_sites_runs(backend: str) -> None:
    with (
        pytest.warns(UserWarning, match="nothing to learn"),
        pytest.warns(UserWarning, match="nothing is learned from data"),
    ):
        fit = infer.fit(lambda: None, lambda: None, None, backend=backend, **QUICK)
    assert (fit.losses == 0).all()


def test_a_program_may_take_gradients_itself() -> None:
    """x ~ Normal(d/dz 2 sin z, 1): exact by quadrature; |z| < 4.5 (false alarm 7e-6), for Pathwise."""

    def model(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        (slope,) = torch.autograd.grad(2 * torch.sin(z), z, create_graph=True)
        pyro.sample("x", dist.Normal(slope, 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 0.7))

    x, grid = torch.tensor(0.8), np.linspace(-8, 8, 20_001)

    def loss(loc: float) -> float:
        q = np.exp(-0.5 * ((grid - loc) / 0.7) ** 2) / (0.7 * math.sqrt(2 * math.pi))
        return float(np.trapezoid(q * (0.5 * grid**2 + 0.5 * (0.8 - 2 * np.cos(grid)) ** 2), grid))

    exact = (loss(0.3 + 1e-4) - loss(0.3 - 1e-4)) / 2e-4
    draws = infer.gradient(model, guide, x, num_samples=2000)["loc"]
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - exact) < 4.5 * error < abs(exact)
    fit = infer.fit(model, None, x, **QUICK)  # an automatic guide is set up from draws of the prior
    assert fit.predict(x, 2)["x"].shape == (2,) and np.isfinite(fit.log_prob(x).value)


def test_a_captured_step_that_fails_goes_on_eagerly_and_says_where() -> None:
    """torch's LSTM hands its own backward pass a workspace that a graph does not keep."""
    rnn = nn.LSTM(3, 4, batch_first=True)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        pyro.module("rnn", rnn)
        scale = pyro.param("scale", torch.ones(()))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(rnn(x)[0][:, -1, 0], scale), obs=y)

    data = (torch.randn(5, 4, 3), torch.randn(5))
    fits = [infer.fit(model, None, data, compile=compile, **QUICK) for compile in ("auto", False)]
    np.testing.assert_allclose(fits[0].losses, fits[1].losses, rtol=1e-6)
    assert "test_library_programs.py:" in fits[0].plan.notes[-1] and "eager" in fits[0].plan.notes[-1]


def test_a_captured_step_that_fails_late_leaves_the_eager_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppl_gen.backends.torch import capture, replay

    norm = nn.BatchNorm1d(2)

    def model(x: torch.Tensor) -> None:
        pyro.module("norm", norm)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(norm(x).sum(-1) * z, 1.0), obs=x[:, 0])

    data, make = torch.randn(6, 2), capture.compiled

    def fails_later(graph: Any, steps: int, wanted: Any) -> Any:
        fast, how = make(graph, steps, wanted)
        calls = iter(range(1000))

        def call(*inputs: Any) -> Any:
            found = fast(*inputs)
            if next(calls) > 8:
                raise RuntimeError("out of order")
            return found

        return call, how

    eager = infer.fit(model, None, data, steps=20, compile=False, progress=False)
    monkeypatch.setattr(replay, "compiled", fails_later)
    fit = infer.fit(model, None, data, steps=20, progress=False)
    np.testing.assert_allclose(fit.losses, eager.losses, rtol=1e-4)
    assert "RuntimeError: out of order" in fit.plan.notes[-1]


def test_a_failed_capture_is_told_by_line_and_site() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.NanMaskedNormal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    note = infer.fit(model, None, torch.tensor([1.0, math.nan, 2.0]), **QUICK).plan.notes[-1]
    assert "test_library_programs.py:" in note and "site 'x'" in note


# -- parameters ------------------------------------------------------------------------------------------------------


def conjugate(x: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoGaussian])
def test_warm_start_fills_a_guide_that_the_fit_set_up(kind: Any) -> None:
    x, guide = torch.from_numpy(ROWS) + 3, kind(conjugate)
    infer.fit(conjugate, guide, x, steps=300, learning_rate=0.05, warm_start=True, progress=False)
    before = float(guide.median(x)["mu"])
    assert before == pytest.approx(float(x.mean()), abs=0.3)
    again = infer.fit(conjugate, guide, x, steps=1, learning_rate=1e-9, warm_start=True, progress=False)
    assert float(guide.median(x)["mu"]) == pytest.approx(before, abs=1e-4) and len(again.losses) == 1


def location(x: torch.Tensor) -> None:
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("mu", torch.tensor(0.3)), 1.0), obs=x)


def test_warm_start_starts_from_pyros_store_and_fills_it() -> None:
    pyro.param("mu", torch.tensor(7.0))
    fit = infer.fit(location, None, torch.from_numpy(ROWS), steps=2, warm_start=True, progress=False)
    assert fit.losses[0] == pytest.approx(normal_loss(ROWS, 7.0), rel=1e-5)
    assert pyro.param("mu").item() == fit.params["mu"] != 7.0
    elbo = pyro.infer.Trace_ELBO().loss(location, lambda x: None, torch.from_numpy(ROWS))
    assert elbo == pytest.approx(normal_loss(ROWS, fit.params["mu"]), rel=1e-5)


def test_without_warm_start_the_store_is_left_alone_and_the_plan_says_so() -> None:
    pyro.param("mu", torch.tensor(7.0))
    fit = infer.fit(location, None, torch.from_numpy(ROWS), steps=2, progress=False)
    assert fit.losses[0] == pytest.approx(normal_loss(ROWS, 0.3), rel=1e-5) and pyro.param("mu").item() == 7.0
    assert any("'mu'" in note and "warm_start=True" in note for note in fit.plan.notes)
    pyro.clear_param_store()
    infer.fit(location, None, torch.from_numpy(ROWS), steps=2, progress=False)
    assert not list(pyro.get_param_store())


def test_a_parameter_without_an_initial_value_is_the_stores() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, pyro.param("scale")), obs=x)

    with pytest.raises(ProgramError, match="param 'scale': expected an initial value"):
        infer.fit(model, None, torch.from_numpy(ROWS), **QUICK)
    pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    fit = infer.fit(model, None, torch.from_numpy(ROWS), **QUICK)
    assert fit.losses[0] == pytest.approx(normal_loss(ROWS, 0.0, 2.0), rel=1e-5)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [2.0, 1.0, 5.0]])
def test_a_simplex_parameter_is_scaled_to_sum_to_one(weights: list[float], backend: str) -> None:
    lib = library(backend)

    def model(y: Any) -> None:
        p = lib.param("p", lib.array(np.array(weights, np.float32)), constraint=lib.dist.constraints.simplex)
        with lib.plate("rows", len(y)):
            lib.sample("y", lib.dist.Categorical(p), obs=y)

    fit = infer.fit(model, None, lib.array(np.array([0, 1, 2, 2])), steps=0, backend=backend, progress=False)
    np.testing.assert_allclose(fit.params["p"], np.array(weights) / sum(weights), rtol=1e-5)


def test_an_initial_value_outside_its_constraint_is_shown_where_it_is(backend: str) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        start = lib.array(np.array([1, 2, 3, 4, -5], np.float32))
        scale = lib.param("scale", start, constraint=lib.dist.constraints.positive)
        with lib.plate("rows", 5):
            lib.sample("x", lib.dist.Normal(0.0, scale), obs=x)

    with pytest.raises(ProgramError, match=r"param 'scale': .*-5\.0 at index \(4,\)"):
        infer.fit(model, None, ROWS[:5], backend=backend, **QUICK)


# -- guides ----------------------------------------------------------------------------------------------------------


class Local(EasyGuide):
    """A proposal for each row."""

    def guide(self, x: torch.Tensor) -> None:
        with self.plate("rows", len(x)):
            loc = pyro.param("loc", torch.zeros(len(x)))
            pyro.sample("z", dist.Normal(loc, 1.0))


def test_a_trial_run_leaves_a_guides_own_caches_alone() -> None:
    """With a row less it stops midway, the plate of nine in its hands."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = Local(model)
    assert len(infer.fit(model, guide, ROWS[:10], **QUICK).losses) == 3
    assert guide.plates == {} and guide.frames["rows"].size == 10


def test_the_contents_of_a_programs_objects_are_given_back() -> None:
    from ppl_gen.backends.restore import as_they_were

    class Counter:
        def __init__(self) -> None:
            self.calls, self.seen, self.cache = 0, [1], {"a": 1}

        def __call__(self) -> None:
            self.calls, self.new = self.calls + 1, True
            self.seen.append(2)
            self.cache.clear()

    one = Counter()
    with as_they_were(lambda: one(), one):
        one()
    assert vars(one) == {"calls": 0, "seen": [1], "cache": {"a": 1}}


@pytest.mark.parametrize("kind", [AutoGaussian, AutoStructured])
def test_points_made_from_a_latent_of_the_guides_own_spread(kind: Any) -> None:
    """The estimate stays below the exact log p(x), and near it: of 400 draws, within half a nat."""
    fit = infer.fit(conjugate, kind(conjugate), torch.from_numpy(ROWS), steps=300, learning_rate=0.03, progress=False)
    x, n = ROWS.astype(float), len(ROWS)
    exact = -normal_loss(x, x.mean()) + 0.5 * math.log(2 * math.pi / n)
    exact -= normal_loss(x.mean(), 0.0, math.sqrt(100 + 1 / n))
    found = fit.log_prob(torch.from_numpy(ROWS), num_samples=400)
    assert found.kind == "lower_bound" and exact - 0.5 < float(found) < exact + 0.5
    point = infer.fit(conjugate, AutoDelta(conjugate), torch.from_numpy(ROWS), **QUICK)
    with pytest.raises(ProgramError, match="'mu'.*point"):
        point.log_prob(torch.from_numpy(ROWS))


def test_automatic_proposals_show_by_their_priors_names(backend: str) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        p = lib.sample("p", lib.dist.Dirichlet(lib.array(np.ones(3, np.float32))))
        scale = lib.sample("s", lib.dist.HalfNormal(1.0)) + lib.sample("l", lib.dist.LogNormal(0.0, 1.0))
        with lib.plate("rows", len(x)):
            lib.sample("x", lib.dist.Normal(p[0], scale), obs=x)

    plan = infer.plan(model, None, lib.array(ROWS), backend=backend)
    assert {row.site: row.distribution for row in plan.rows.values()} == {
        "p": "Dirichlet",
        "s": "HalfNormal",
        "l": "LogNormal",
    }


# -- one-hot latents, and tables that are too wide -------------------------------------------------------------------

ONE_HOT_LOC, ONE_HOT_PRIOR = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.2, 0.3, 0.5])
ONE_HOT_START, ONE_HOT_ROWS = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.5, -0.5]]), torch.tensor([0.4, -0.7])


def one_hot_model(x: torch.Tensor) -> None:
    with pyro.plate("rows", 2):
        z = pyro.sample("z", dist.OneHotCategorical(ONE_HOT_PRIOR))
        pyro.sample("x", dist.Normal(z @ ONE_HOT_LOC, pyro.param("scale", torch.ones(()))), obs=x)


def one_hot_guide(x: torch.Tensor) -> None:
    with pyro.plate("rows", 2):
        pyro.sample("z", dist.OneHotCategorical(logits=pyro.param("q", ONE_HOT_START)))


def one_hot_event_model(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.OneHotCategorical(ONE_HOT_PRIOR.expand(2, 3)).to_event(1))
    with pyro.plate("rows", 2):
        pyro.sample("x", dist.Normal(z @ ONE_HOT_LOC, pyro.param("scale", torch.ones(()))), obs=x)


def one_hot_event_guide(x: torch.Tensor) -> None:
    pyro.sample("z", dist.OneHotCategorical(logits=pyro.param("q", ONE_HOT_START)).to_event(1))


@pytest.mark.parametrize(
    "program", [(one_hot_model, one_hot_guide), (one_hot_event_model, one_hot_event_guide)], ids=["plate", "event"]
)
def test_one_hot_latents_are_enumerated_and_summed_out_exactly(program: Any) -> None:
    model, guide = program
    q = ONE_HOT_START.clone().requires_grad_()
    costs = dist.Normal(ONE_HOT_LOC, 1.0).log_prob(ONE_HOT_ROWS.unsqueeze(-1)) + ONE_HOT_PRIOR.log()
    mass = q.log_softmax(-1)
    (exact,) = torch.autograd.grad((mass.exp() * (mass - costs)).sum(), q)
    found = infer.gradient(model, guide, ONE_HOT_ROWS, estimators={"z": Enumerate()})["q"][0]
    np.testing.assert_allclose(found, exact.numpy(), atol=1e-5)
    alone = infer.fit(model, None, ONE_HOT_ROWS, steps=1, progress=False)
    assert alone.losses[0] == pytest.approx(-float(costs.logsumexp(-1).sum()), rel=1e-5)


def test_a_one_hot_latent_is_captured_and_checked() -> None:
    fit = infer.fit(one_hot_model, one_hot_guide, ONE_HOT_ROWS, **QUICK)
    assert fit._trainer.how.startswith("captured") and not fit.plan.notes
    report = infer.check(one_hot_model, one_hot_guide, ONE_HOT_ROWS, num_samples=200)
    assert "z" in str(report) and "biased" not in str(report)


def wide_one_hot(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.OneHotCategorical(torch.ones(100)))
    pyro.sample("x", dist.Normal(z.argmax(-1) + pyro.param("loc", torch.zeros(())), 1.0), obs=x)


def test_an_automatic_guide_knows_one_hot_latents() -> None:
    plan = infer.plan(wide_one_hot, None, torch.tensor(3.0))
    assert plan["z"].distribution == "OneHotCategorical"


def test_a_list_of_values_that_is_too_long_is_not_made() -> None:
    """200,000 one-hot vectors would take 160 GB."""

    def model(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(200_000)))
        pyro.sample("x", dist.Normal(z[..., :3].sum(), 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.sample("z", dist.OneHotCategorical(logits=pyro.param("q", torch.zeros(200_000))))

    assert infer.plan(model, guide, torch.tensor(3.0))["z"].estimator is not None


def test_elimination_keeps_its_tables_small() -> None:
    """One cause of many, summed first, would leave a table over all that hang on it: 2^40 numbers for 40."""
    from ppl_gen.elimination.sums import MOST_CELLS, _ordered
    from ppl_gen.program import Site

    sites = [Site("s", "model", "Categorical", size=3)]
    sites += [Site(f"z{i}", "model", "Bernoulli", size=2) for i in range(40)]
    star = [("s",), *(("s", f"z{i}") for i in range(40))]
    assert _ordered(sites, star)[-1].name in ("s", "z39")
    clique = [(f"z{i}", f"z{j}") for i in range(40) for j in range(i)]
    with pytest.raises(ProgramError, match=rf"{MOST_CELLS} numbers; got one of {2**40}"):
        _ordered(sites[1:], clique)


def test_warnings_of_a_fit_are_none() -> None:
    """Nothing above may warn in silence: a plain program of this file trains without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer.fit(location, None, torch.from_numpy(ROWS), **QUICK)


def test_random_numbers_that_start_a_parameter_are_no_noise() -> None:
    def model(x: Any) -> None:
        loc = pyro.param("loc", lambda: torch.randn(3))
        scale = pyro.param("scale", torch.rand(3) + 0.5, constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(loc[k], scale[k]), obs=x)

    plan = infer.plan(model, None, torch.tensor([0.7, -1.2, 0.1]))
    assert plan.facts.noise is None and "summed out exactly" in str(plan)
