"""Fits reach known answers, take data in every form, repeat by seed, and leave nothing behind."""

import functools
import itertools
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import optax
import pandas as pd
import pyro
import pytest
import torch

import ppl_gen as pg
from ppl_gen import infer
from ppl_gen.errors import NonFinite, ProgramError

RNG = np.random.default_rng(0)
Y = RNG.normal(1.0, 1.0, 30)
BITS = (RNG.random((10, 4)) < 0.4).astype(np.float64)
PRIOR = 2.0  # standard deviation of the mean


def quick(*args: Any, **options: Any) -> infer.Fit:
    """A fit of a few steps."""
    return infer.fit(*args, **({"steps": 4, "learning_rate": 0.05} | options))


# -- programs --------------------------------------------------------------------------------------------------------


def normal_mean(y: Any) -> None:
    """Conjugate: mu ~ N(0, 2), y ~ N(mu, 1)."""
    mu = pg.sample("mu", pg.dist.Normal(0.0, PRIOR))
    with pg.plate("data", len(y)):
        pg.sample("y", pg.dist.Normal(mu, 1.0), obs=y)


def normal_proposal(y: Any) -> None:
    scale = pg.param("scale", pg.xp.ones(()), pg.dist.constraints.positive)
    pg.sample("mu", pg.dist.Normal(pg.param("loc", pg.xp.zeros(())), scale))


def likelihood(y: Any) -> None:
    """No latents: mean and log standard deviation by maximum likelihood."""
    with pg.plate("data", len(y)):
        scale = pg.param("scale", pg.xp.ones(()), pg.dist.constraints.positive)
        pg.sample("y", pg.dist.Normal(pg.param("mean", pg.xp.zeros(())), scale), obs=y)


def bits(x: Any) -> None:
    """Two hidden bits per row: 4 joint states, so everything can be summed."""
    with pg.plate("data", len(x)):
        h = pg.sample("h", pg.dist.Bernoulli(logits=pg.param("top", pg.xp.zeros(2))).to_event(1))
        h = pg.xp.astype(h, pg.xp.float32)
        pg.sample("x", pg.dist.Bernoulli(logits=pg.nn.linear("down", h, 4)).to_event(1), obs=x)


def bits_proposal(x: Any) -> None:
    with pg.plate("data", len(x)):
        pg.sample("h", pg.dist.Bernoulli(logits=pg.nn.linear("up", x, 2)).to_event(1))


def exact_bits(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """log p(x) per row of `bits`, by enumeration; nats."""

    def log_bernoulli(value: Any, logits: np.ndarray) -> np.ndarray:
        return np.asarray(value * logits - np.logaddexp(0, logits)).sum(-1)

    joint = [
        log_bernoulli(np.array(h), params["top"])
        + log_bernoulli(x, np.array(h) @ params["down.weight"] + params["down.bias"])
        for h in itertools.product((0.0, 1.0), repeat=2)
    ]
    return np.logaddexp.reduce(joint)


@functools.cache
def mean_fit(backend: str) -> infer.Fit:
    """The conjugate mean, trained to the end."""
    return infer.fit(normal_mean, normal_proposal, Y, backend=backend, steps=700, learning_rate=0.02, num_particles=2)


@functools.cache
def exact_fit(backend: str) -> infer.Fit:
    """Maximum likelihood of a Gaussian."""
    return infer.fit(likelihood, data=Y, backend=backend, steps=300, learning_rate=0.05)


@functools.cache
def bits_fit(backend: str) -> infer.Fit:
    """Batches of 4, 4 and 2 of the 10 rows."""
    return infer.fit(bits, bits_proposal, BITS, backend=backend, steps=30, batch_size=4, learning_rate=0.05, seed=1)


# -- known answers ---------------------------------------------------------------------------------------------------


def test_the_elbo_finds_the_posterior_of_a_conjugate_mean(backend: str) -> None:
    precision = 1 / PRIOR**2 + len(Y)
    params = mean_fit(backend).params
    # Adam at 0.02 with 2 particles keeps wandering by about 0.02; the prior alone, or the mean without it, is 5 sd off
    assert params["loc"] == pytest.approx(Y.sum() / precision, abs=0.05)
    assert params["scale"] == pytest.approx(precision**-0.5, rel=0.1)


def test_maximum_likelihood_without_latents_has_the_closed_form(backend: str) -> None:
    fit = exact_fit(backend)
    assert fit.params["mean"] == pytest.approx(Y.mean(), abs=1e-3)
    assert fit.params["scale"] == pytest.approx(Y.std(), rel=2e-3)
    best = 0.5 * len(Y) * (np.log(2 * np.pi * Y.var()) + 1)
    assert fit.losses[-1] == pytest.approx(best, abs=1e-2)


def test_the_exact_log_likelihood_comes_per_row_and_says_so(backend: str) -> None:
    fit = exact_fit(backend)
    mean, scale = fit.params["mean"], fit.params["scale"]
    found = fit.log_prob(Y)
    expected = -0.5 * ((Y - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.value, expected, rtol=1e-4)
    assert found.kind == "exact" and not found.standard_error.any()


def test_beta_bernoulli_has_its_posterior_mean(backend: str) -> None:
    flips = np.array([1.0, 1, 1, 0, 1, 1, 0, 1])

    def coin(y: Any) -> None:
        p = pg.sample("p", pg.dist.Beta(2.0, 2.0))
        with pg.plate("data", len(y)):
            pg.sample("y", pg.dist.Bernoulli(probs=p), obs=y)

    def proposal(y: Any) -> None:
        a = pg.param("a", 5.0 * pg.xp.ones(()), pg.dist.constraints.positive)
        b = pg.param("b", 5.0 * pg.xp.ones(()), pg.dist.constraints.positive)
        pg.sample("p", pg.dist.Beta(a, b))

    fit = infer.fit(coin, proposal, flips, backend=backend, steps=300, learning_rate=0.02, num_particles=4)
    a, b = fit.params["a"], fit.params["b"]
    assert a / (a + b) == pytest.approx(8 / 12, abs=0.03)  # the prior's is 0.5, the data's 0.75
    assert a + b == pytest.approx(12, rel=0.25)


def test_mean_field_finds_global_and_per_row_discrete_latents_in_batches(backend: str) -> None:
    """y ~ N(mu + 6 k, 1): the two groups are far apart, so each row's bit is known and mu is their common offset."""
    kind = np.arange(40) % 2
    y = RNG.normal(6.0 * kind, 1.0)

    def groups(y: Any) -> None:
        mu = pg.sample("mu", pg.dist.Normal(0.0, 1.0))
        with pg.plate("data", len(y)):
            k = pg.sample("k", pg.dist.Bernoulli(probs=0.5 * pg.xp.ones(())))
            pg.sample("y", pg.dist.Normal(mu + 6.0 * pg.xp.astype(k, pg.xp.float32), 1.0), obs=y)

    asked = {"k": pg.estimators.Score()}  # a latent that is asked for is proposed, not summed out
    fit = infer.fit(groups, data=y, backend=backend, steps=400, batch_size=10, learning_rate=0.05, estimators=asked)
    assert fit.params["k.logits"].shape == (40,)
    np.testing.assert_array_equal(fit.params["k.logits"] > 0, kind == 1)
    mean, sd = (y - 6 * kind).sum() / 41, 41**-0.5
    assert abs(fit.params["mu.loc"] - mean) < 3 * sd / 2
    assert sd / 1.5 < fit.params["mu.scale"] < sd * 1.5  # unscaled batches would give twice the sd
    assert fit.posterior(y, 2)["k"].shape == (2, 40)
    with pytest.raises(ProgramError, match="validation: .* parameters for each training row"):
        quick(groups, data=y, backend=backend, batch_size=10, validation=y[:5], estimators=asked)
    with pytest.raises(ProgramError, match="expected arrays"):
        quick(groups, data=[y[:20], y[20:]], backend=backend, estimators=asked)


# -- scaling ---------------------------------------------------------------------------------------------------------


def test_batches_estimate_the_loss_of_all_rows(backend: str) -> None:
    """Constant parameters (no latents): the mean over the batches of one pass is the full-batch loss exactly."""
    still: dict[str, Any] = {"learning_rate": 1e-12, "backend": backend}
    whole = infer.fit(likelihood, data=Y, steps=1, **still).losses
    parts = infer.fit(likelihood, data=Y, steps=6, batch_size=10, **still).losses
    assert parts[:3].mean() == pytest.approx(whole[0], rel=1e-5)
    assert parts[3:].mean() == pytest.approx(whole[0], rel=1e-5)
    assert np.abs(parts - whole).max() > 1  # the batches do differ


def test_the_smaller_last_batch_is_used_and_scaled(backend: str) -> None:
    sizes: list[int] = []
    fit = infer.fit(likelihood, data=Y, backend=backend, steps=4, batch_size=20, learning_rate=1e-12)
    table: Any = fit._source
    sizes = [len(table.rows(step)) for step in range(4)]
    assert sizes == [20, 10, 20, 10]
    whole = infer.fit(likelihood, data=Y, backend=backend, steps=1, learning_rate=1e-12).losses[0]
    assert (20 * fit.losses[0] + 10 * fit.losses[1]) / 30 == pytest.approx(whole, rel=1e-5)
    assert sorted(np.concatenate([table.rows(0), table.rows(1)])) == list(range(30))
    assert not np.array_equal(table.rows(0), table.rows(2))  # a new order at each pass


def test_a_global_latent_counts_once_in_every_batch(backend: str) -> None:
    """E[batch loss] = full loss with a latent outside the plate: mean over 300 steps, z < 4.5 (false alarm 1e-5)."""
    options: dict[str, Any] = {"backend": backend, "learning_rate": 1e-12, "steps": 300}
    batches = infer.fit(normal_mean, normal_proposal, Y, batch_size=10, **options).losses
    whole = infer.fit(normal_mean, normal_proposal, Y, **options).losses
    error = np.sqrt(batches.var() / 300 + whole.var() / 300)
    assert abs(batches.mean() - whole.mean()) < 4.5 * error
    assert 4.5 * error < 0.5 * whole.mean()  # power: unscaled terms would be a third of it


def test_a_global_latent_without_a_plate_is_refused_with_batches(backend: str) -> None:
    def no_plate(y: Any) -> None:
        mu = pg.sample("mu", pg.dist.Normal(0.0, 1.0))
        pg.sample("y", pg.dist.Normal(mu * pg.xp.ones(len(y)), 1.0).to_event(1), obs=y)

    with pytest.raises(ProgramError, match="site 'mu': expected a plate over the rows"):
        quick(no_plate, normal_proposal, Y, backend=backend, batch_size=10)
    assert len(quick(no_plate, normal_proposal, Y, backend=backend, compile=False, steps=1).losses) == 1


# -- data ------------------------------------------------------------------------------------------------------------


def line(x: Any, y: Any = None, shift: bool = False, *, power: int = 1) -> None:
    """Regression; `shift` and `power` are not arrays."""
    slope = pg.param("slope", pg.xp.zeros(()))
    with pg.plate("data", len(x)):
        pg.sample("y", pg.dist.Normal(slope * x**power + (5.0 if shift else 0.0), 1.0), obs=y)


@pytest.fixture(scope="module")
def xy() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(5).normal(size=12)
    return x, 2 * x + 0.1


def test_data_come_in_every_form(backend: str, xy: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = xy
    same: dict[str, Any] = {"backend": backend, "compile": False, "steps": 2}
    losses = quick(line, data=xy, **same).losses
    np.testing.assert_allclose(losses[0], 0.5 * (y**2).sum() + 6 * np.log(2 * np.pi), rtol=1e-5)
    forms = {
        "flags": (x, y, False),
        "dict": {"x": x, "y": y},
        "dict with a number": {"x": x, "y": y, "power": 1},
        "one batch in a list": [(x, y)],
        "a loader's lists": [[x, y]],
        "batches as dicts": [{"x": x, "y": y}],
        "generator": ((x, y) for _ in range(2)),
        "integers": ((x * 0 + 1).astype(int), y),
    }
    for name, data in forms.items():
        found = quick(line, data=data, **same).losses
        assert found[0] == pytest.approx(losses[0], rel=1e-5), name
    assert quick(line, data=(x, y, True), **same).losses[0] > losses[0] + 10
    frame = pd.DataFrame({"a": x, "b": y})

    def columns(rows: Any) -> None:
        line(rows[:, 0], rows[:, 1])

    np.testing.assert_allclose(quick(columns, data=frame, **same).losses, losses, rtol=1e-5)


def test_a_list_of_batches_stands_for_all_its_rows(backend: str, xy: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = xy
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    fit = infer.fit(line, data=batches, backend=backend, steps=4, learning_rate=1e-12, validation=batches)
    whole = 0.5 * (y**2).sum() + 6 * np.log(2 * np.pi)
    assert (4 * fit.losses[0] + 8 * fit.losses[1]) / 12 == pytest.approx(whole, rel=1e-5)
    np.testing.assert_allclose(fit.losses[:2], fit.losses[2:], rtol=1e-6)
    assert fit.validation_losses[0][1] == pytest.approx(whole, rel=1e-5)
    assert "per row" in fit.summary() and fit.predict(batches[0])["y"].shape == (1, 4)
    fit.sample(2)  # asks for the first batch again


def test_a_generator_that_ends_ends_the_run(xy: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.warns(UserWarning, match="the batches ended after 3 of 4 steps"):
        fit = quick(line, data=(xy for _ in range(3)), backend="torch")
    assert len(fit.losses) == 3
    with pytest.raises(ProgramError, match="expected a batch for step 0"):
        quick(line, data=iter(()), backend="torch")
    with pytest.raises(ProgramError, match="expected at least one batch"):
        quick(line, data=[], backend="torch")
    with pytest.raises(ValueError, match="batch_size: expected None, as the data come in batches"):
        quick(line, data=[xy], backend="torch", batch_size=2)


def test_a_torch_loader_is_shuffled_by_the_fits_own_seed(xy: tuple[np.ndarray, np.ndarray]) -> None:
    rows = torch.utils.data.TensorDataset(*(torch.tensor(v, dtype=torch.float32) for v in xy))
    loader = torch.utils.data.DataLoader(rows, batch_size=4, shuffle=True)
    torch.manual_seed(1)
    first = quick(line, data=loader)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, third = quick(line, data=loader), quick(line, data=loader, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first.losses, second.losses)
    assert not np.array_equal(first.losses, third.losses)


def test_a_torch_loaders_batches_stand_for_the_rows_of_one_pass(
    backend: str, xy: tuple[np.ndarray, np.ndarray]
) -> None:
    from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

    x, y = xy
    rows = TensorDataset(*(torch.tensor(v, dtype=torch.float32) for v in xy))
    loader = DataLoader(rows, batch_size=4)
    fit = infer.fit(line, data=loader, backend=backend, steps=4, learning_rate=1e-12, validation=loader)
    listed = infer.fit(line, data=list(loader), backend=backend, steps=4, learning_rate=1e-12, validation=list(loader))
    np.testing.assert_allclose(fit.losses, listed.losses, rtol=1e-6)
    assert fit.validation_losses == listed.validation_losses
    part = DataLoader(rows, batch_size=3, sampler=SubsetRandomSampler([0, 1, 2, 3, 4, 5]))
    half = infer.fit(line, data=part, backend=backend, steps=2, learning_rate=1e-12)
    assert half.losses.mean() == pytest.approx(0.5 * (y[:6] ** 2).sum() + 3 * np.log(2 * np.pi), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps: expected"),
        ({"steps": 1.5}, "steps: expected"),
        ({"learning_rate": 0.0}, "learning_rate: expected"),
        ({"learning_rate": float("nan")}, "learning_rate: expected"),
        ({"batch_size": 0}, "batch_size: expected"),
        ({"patience": 2}, "patience: expected validation data"),
        ({"patience": 0, "validation": Y}, "patience: expected 1"),
        ({"compile": "yes"}, "compile: expected"),
        ({"num_particles": 0}, "num_particles: expected"),
        ({"device": "abacus"}, "device: expected"),
        ({"backend": "abacus"}, "backend"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(likelihood, data=Y, **({"backend": "torch"} | options))


# -- the loop --------------------------------------------------------------------------------------------------------


def test_validation_keeps_the_best_and_patience_stops(backend: str) -> None:
    """The held-out rows lie at the start's optimum: training makes them worse from the first step on."""
    seen: list[int] = []

    def watch(state: infer.Running) -> None:
        seen.append(state.step)
        assert state.fit.losses.shape == (state.step,) and state.steps == 50
        assert {"mean", "scale"} == set(state.fit.params)

    held_out = np.tile([-1.0, 1.0], 5)
    fit = quick(
        likelihood,
        data=Y + 5,
        backend=backend,
        steps=50,
        validation=held_out,
        patience=3,
        callbacks=[watch],
        learning_rate=0.2,
    )
    values = [loss for _, loss in fit.validation_losses]
    best = int(np.argmin(values))
    assert len(values) == best + 1 + 3 and len(fit.losses) == len(values) == seen[-1] < 50
    now = -fit.log_prob(held_out).value.sum()
    assert now == pytest.approx(values[best], rel=1e-5) and now < values[-1] - 1
    assert f"validation: best {values[best]:.3f} nats, at step {best + 1}" in fit.summary()


def test_a_callback_can_stop_the_run(backend: str) -> None:
    def stop(state: infer.Running) -> None:
        state.stop = state.step >= 3

    assert len(quick(likelihood, data=Y, backend=backend, steps=90, callbacks=[stop]).losses) == 3


def test_validation_in_chunks_counts_a_global_latent_once() -> None:
    """2500 rows go in chunks of 1000: the loss at fixed parameters is that of one batch."""
    y = np.random.default_rng(2).normal(size=2500)
    options: dict[str, Any] = {"backend": "torch", "steps": 1, "learning_rate": 1e-12}

    def narrow(y: Any) -> None:
        pg.sample("mu", pg.dist.Normal(pg.param("loc", 50.0 * pg.xp.ones(())), 1e-6))

    chunked = infer.fit(normal_mean, narrow, y[:30], batch_size=10, validation=y, **options).validation_losses[0][1]
    expected = (
        0.5 * ((y - 50) ** 2).sum()
        + 1250 * np.log(2 * np.pi)
        + 0.5 * (50 / PRIOR) ** 2
        + np.log(PRIOR)
        - np.log(1e-6)
        - 0.5
    )
    assert chunked == pytest.approx(expected, rel=2e-5)  # counting mu's terms three times adds 640 of 3,130,000 nats
    assert 640 > 2e-5 * 2 * expected


def test_progress_is_silent_without_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(likelihood, data=Y, backend="torch")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    quick(likelihood, data=Y, backend="torch", validation=Y)
    shown = capfd.readouterr()
    assert (
        shown.out == ""
        and "exact likelihood: 100%" in shown.err
        and "nats/row" in shown.err
        and "validation" in shown.err
    )
    quick(likelihood, data=Y, backend="torch", progress=False)
    assert capfd.readouterr() == ("", "")


def test_optimizers_in_every_form_and_wrong_ones() -> None:
    options: dict[str, Any] = {"data": Y, "compile": False, "steps": 2}
    sgd = infer.fit(likelihood, backend="torch", optimizer=torch.optim.SGD, learning_rate=1e-3, **options)
    partial = infer.fit(likelihood, backend="torch", optimizer=functools.partial(torch.optim.SGD, lr=1e-3), **options)
    optaxed = infer.fit(likelihood, backend="jax", optimizer=optax.sgd(1e-3), **options)
    np.testing.assert_array_equal(sgd.losses, partial.losses)
    np.testing.assert_allclose(sgd.losses, optaxed.losses, rtol=1e-5)
    assert sgd.params["mean"] == pytest.approx(1e-3 * Y.sum() * 2, rel=0.1)  # two plain gradient steps
    for backend, wrong in (("torch", "adam"), ("torch", optax.sgd(0.1)), ("jax", torch.optim.SGD), ("jax", 0.1)):
        with pytest.raises(TypeError, match="optimizer: expected"):
            quick(likelihood, data=Y, backend=backend, optimizer=wrong)


# -- seeds -----------------------------------------------------------------------------------------------------------

REPEAT = """
import sys
sys.path.insert(0, {root!r})
from tests.test_fit import digest
print(digest({backend!r}))
"""


def digest(backend: str) -> str:
    """Losses and parameters of a short fit with random batches and choices, to the last bit."""
    fit = quick(bits, bits_proposal, BITS, backend=backend, batch_size=5, steps=7, seed=2)
    return "".join(value.tobytes().hex() for value in (fit.losses, *dict(sorted(fit.params.items())).values()))


def test_a_seed_means_one_result_in_every_process(backend: str) -> None:
    text = REPEAT.format(root=str(Path(__file__).parents[1]), backend=backend)
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as fresh:
        first = digest(backend)
        np.random.rand(3), torch.rand(3), random.random()
        assert digest(backend) == first
        assert fresh.communicate()[0].strip() == first


def test_another_seed_means_another_result() -> None:
    first, second = (quick(bits, bits_proposal, BITS, backend="torch", seed=seed).losses for seed in (0, 1))
    assert not np.array_equal(first, second)


# -- what a fit can do -----------------------------------------------------------------------------------------------


def test_posterior_predict_and_sample_have_their_shapes_and_values(backend: str) -> None:
    fit = mean_fit(backend)
    mu = fit.posterior(Y, 2000)["mu"]
    loc, scale = fit.params["loc"], fit.params["scale"]
    assert mu.shape == (2000,) and abs(mu.mean() - loc) < 4.5 * scale / 2000**0.5
    assert mu.std() == pytest.approx(scale, rel=0.1)  # 6 s.e.
    predicted = fit.predict(Y, 400)
    assert set(predicted) == {"y"} and predicted["y"].shape == (400, 30)
    assert abs(predicted["y"].mean() - loc) < 4.5 * np.sqrt(scale**2 / 400 + 1 / 12000)
    drawn = fit.sample(300)
    assert drawn["mu"].shape == (300,) and drawn["y"].shape == (300, 30)
    assert drawn["mu"].std() == pytest.approx(PRIOR, rel=0.25)  # the prior's, not the posterior's
    again, other = fit.posterior(Y, 3, seed=5)["mu"], fit.posterior(Y, 3, seed=6)["mu"]
    np.testing.assert_array_equal(again, fit.posterior(Y, 3, seed=5)["mu"])
    assert not np.array_equal(again, other)


def test_programs_with_all_sites_in_the_rows_give_rows(backend: str) -> None:
    fit = bits_fit(backend)
    drawn = fit.sample(17)
    assert drawn["h"].shape == (17, 2) and drawn["x"].shape == (17, 4)
    assert fit.posterior(BITS[:3], 2)["h"].shape == (2, 3, 2) and fit.predict(BITS[:3], 2)["x"].shape == (2, 3, 4)
    with pytest.raises(ValueError, match="answers no queries"):
        fit.sample(2, given={"x": 1})
    with pytest.raises(TypeError, match="answers no queries|expected a model of named variables"):
        fit.query([0])


def test_the_log_likelihood_bound_approaches_the_enumerated_one(backend: str) -> None:
    fit = bits_fit(backend)
    found, exact = fit.log_prob(BITS, num_samples=1000), exact_bits(fit.params, BITS)
    assert found.kind == "lower_bound" and found.shape == (10,)
    assert (np.abs(found.value - exact) < 4.5 * found.standard_error + 1e-5).all()  # 10 rows: false alarm 7e-5
    assert found.standard_error.max() < 0.1
    loose = fit.log_prob(BITS, num_samples=1).value.mean()
    assert loose < exact.mean()


def test_a_global_latent_gives_one_value_for_all_rows(backend: str) -> None:
    found = mean_fit(backend).log_prob(Y, num_samples=500)
    covariance = np.eye(len(Y)) + PRIOR**2
    exact = -0.5 * (Y @ np.linalg.solve(covariance, Y) + np.linalg.slogdet(covariance)[1] + len(Y) * np.log(2 * np.pi))
    assert found.shape == () and abs(float(found) - exact) < 4.5 * float(found.standard_error) + 1e-3
    assert float(found.standard_error) < 0.2


def test_the_summary_and_the_plot_tell_what_was_done(backend: str) -> None:
    fit = mean_fit(backend)
    for part in (backend, "700 steps", "Pathwise", "seed 0", "per row", "parameters: 2 in 2 arrays"):
        assert part in fit.summary() and part in repr(fit)
    figure = fit.plot()
    (axes,) = figure.axes
    assert axes.get_ylabel() == "loss, nats" and len(axes.lines[0].get_ydata()) == 700
    assert len(quick(likelihood, data=Y, backend=backend, steps=0).plot().axes) == 1


# -- networks --------------------------------------------------------------------------------------------------------


def network_model(net: torch.nn.Module) -> Callable[..., None]:
    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("y", pyro.distributions.Normal(net(x)[:, 0], 1.0), obs=y)

    return model


def small_net() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1)
        )


def contents(net: torch.nn.Module) -> dict[str, Any]:
    return {name: value.tolist() for name, value in net.state_dict().items()}


def test_a_trained_copy_is_handed_out_and_the_users_network_stays(xy: tuple[np.ndarray, np.ndarray]) -> None:
    net, data = small_net(), (xy[0][:, None], xy[1])
    before, storage = contents(net), [p.data_ptr() for p in net.parameters()]
    fit = quick(network_model(net), data=data, backend="torch")
    trained = fit.module("net")
    assert contents(net) == before and [p.data_ptr() for p in net.parameters()] == storage
    assert trained is not net and contents(trained) != before
    for name, value in trained.named_parameters():
        np.testing.assert_array_equal(value.detach().numpy(), fit.params[f"net.{name}"])
    assert int(trained.state_dict()["1.num_batches_tracked"]) == 4
    with pytest.raises(KeyError, match="expected a network of the program, one of \\['net'\\]; got 'nett'"):
        fit.module("nett")


def test_warm_start_writes_back_and_goes_on(xy: tuple[np.ndarray, np.ndarray]) -> None:
    net, data = small_net(), (xy[0][:, None], xy[1])
    before = contents(net)
    fit = quick(network_model(net), data=data, backend="torch", warm_start=True)
    assert contents(net) != before and contents(net) == contents(fit.module("net"))
    assert int(net[1].num_batches_tracked) == 4  # type: ignore[index]
    after = infer.fit(network_model(net), data=data, backend="torch", steps=0)
    np.testing.assert_array_equal(after.params["net.0.weight"], fit.params["net.0.weight"])


def test_a_trained_jax_network_is_handed_out(xy: tuple[np.ndarray, np.ndarray]) -> None:
    import flax.linen
    from numpyro.contrib.module import flax_module

    def model(x: Any, y: Any) -> None:
        net = flax_module("net", flax.linen.Dense(1), input_shape=(1, 1))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", numpyro.distributions.Normal(net(x)[:, 0], 1.0), obs=y)

    data = (xy[0][:, None], xy[1])
    fit = quick(model, data=data, backend="jax", compile=False)
    tree = fit.module("net")
    np.testing.assert_array_equal(tree["kernel"], fit.params["net.kernel"])
    with pytest.raises(ValueError, match="warm_start: expected torch modules"):
        quick(model, data=data, backend="jax", warm_start=True, callbacks=[lambda state: pytest.fail("ran")])


# -- not finite, and nothing left behind -----------------------------------------------------------------------------


def poisoned(y: Any) -> None:
    """The scale falls by about 0.11 a step and is not constrained: after five steps the density is not finite."""
    with pg.plate("data", len(y)):
        scale = pg.param("scale", 0.5 * pg.xp.ones(()))
        pg.sample("y", pg.dist.Normal(0.0, scale), obs=0.0 * y)


@pytest.mark.parametrize("compile", ["auto", False])
def test_not_finite_is_named_and_the_last_good_state_is_kept(backend: str, compile: Any) -> None:
    options: dict[str, Any] = {"learning_rate": 0.11, "compile": compile, "backend": backend}
    with pytest.raises(NonFinite, match=r"^step 5: site 'y' \(model\): expected the log density of") as caught:
        infer.fit(poisoned, data=Y, steps=40, **options)
    fit = caught.value.fit
    assert len(fit.losses) == 5 == len(caught.value.losses) and np.isfinite(fit.losses).all()
    assert -0.1 < fit.params["scale"] < 0.0  # five whole steps, and no sixth
    assert fit.posterior(Y) == {} and "5 steps" in fit.summary()
    with pytest.raises(NonFinite, match="^step 5: validation: expected a finite loss"):
        infer.fit(poisoned, data=Y, steps=5, validation=Y, **(options | {"compile": False}))


def global_state() -> dict[str, Any]:
    """All that is shared in the process and that a fit could touch."""
    return {
        "pyro store": dict(pyro.get_param_store().items()),
        "pyro stack": list(pyro.poutine.runtime._PYRO_STACK),
        "numpyro stack": list(numpyro.primitives._PYRO_STACK),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": [np.asarray(part).tolist() for part in np.random.get_state()],
        "python random": random.getstate(),
        "torch dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "pyro settings": pyro.settings.get(),
        "numpyro validation": numpyro.distributions.Distribution._validate_args,
        "jax 64": jax.config.read("jax_enable_x64"),
        "warnings": list(warnings.filters),
        "hooks": len(torch.nn.modules.module._global_forward_pre_hooks),
    }


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    before = global_state()
    yield
    after = global_state()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.parametrize("ending", ["success", "not finite", "exception"])
def test_a_fit_leaves_nothing_behind_on_torch(ending: str, xy: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("sympy")  # torch's; its first import adds a filter of warnings
    net, offset, calls = small_net(), torch.nn.Parameter(torch.tensor(0.5)), itertools.count()
    net.eval()
    net[0].train()  # type: ignore[index]
    offset.grad = torch.tensor(7.0)
    armed: list[bool] = []

    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        pyro.param("offset", offset)
        next(calls)
        if ending == "exception" and armed:
            raise RuntimeError("in the model")
        random.random(), np.random.rand()
        bad = float("nan") if ending == "not finite" and armed else 0.0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(net(x)[:, 0] + pyro.param("offset"), 1.0))
            pyro.sample("y", pyro.distributions.Normal(z + bad, 1.0), obs=y)

    def guide(x: Any, y: Any) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(pyro.param("loc", torch.zeros(())), 1.0))

    pyro.get_param_store().setdefault("mine", torch.ones(2))
    before = (
        contents(net),
        [m.training for m in net.modules()],
        [t.data_ptr() for t in (*net.parameters(), *net.buffers(), offset)],
    )
    expected = {"not finite": NonFinite, "exception": RuntimeError}.get(ending)
    try:
        with nothing_left_behind():
            options: dict[str, Any] = {"steps": 6, "compile": False}
            options["callbacks"] = [lambda s: armed.append(True) if s.step == 3 else None]
            if expected:
                with pytest.raises(expected):
                    infer.fit(model, guide, (xy[0][:, None], xy[1]), **options)
            else:
                assert len(infer.fit(model, guide, (xy[0][:, None], xy[1]), **options).losses) == 6
    finally:
        pyro.clear_param_store()
    assert armed == [True] and next(calls) > 3
    after = (
        contents(net),
        [m.training for m in net.modules()],
        [t.data_ptr() for t in (*net.parameters(), *net.buffers(), offset)],
    )
    assert after == before
    assert offset.item() == 0.5 and offset.grad.item() == 7.0 and offset.requires_grad
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.filterwarnings("ignore:the program draws from Python's")  # so that there is something to put back
@pytest.mark.parametrize("ending", ["success", "not finite", "exception"])
def test_a_fit_leaves_nothing_behind_on_jax(ending: str) -> None:
    armed: list[bool] = []

    def model(y: Any) -> None:
        if armed and ending == "exception":
            raise RuntimeError("in the model")
        np.random.rand(), random.random()
        scale = numpyro.param("scale", 0.5)
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", numpyro.distributions.Normal(0.0, scale), obs=0.0 * y)

    rate = 0.11 if ending == "not finite" else 0.01
    expected = {"not finite": NonFinite, "exception": RuntimeError}.get(ending)
    options: dict[str, Any] = {"backend": "jax", "steps": 7, "learning_rate": rate, "compile": False}
    options["callbacks"] = [lambda s: armed.append(True) if s.step == 3 else None]
    with nothing_left_behind():
        if expected:
            with pytest.raises(expected):
                infer.fit(model, data=Y, **options)
        else:
            assert len(infer.fit(model, data=Y, **options).losses) == 7
    assert armed == [True]


def test_each_of_pyros_checks_is_left_as_it_was() -> None:
    """They may differ from one another, which `pyro.validation_enabled` does not keep."""
    with pyro.settings.context(validate_distributions_torch=False, validate_infer=True):
        before = pyro.settings.get()
        infer.fit(pyro_only, None, np.ones(3, np.float32), steps=1, progress=False, backend="torch")
        assert pyro.settings.get() == before


def pyro_only(x: Any) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", pyro.distributions.Normal(pyro.param("m", torch.tensor(0.0)), 1.0), obs=x)
