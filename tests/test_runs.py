"""Runs that are looked into, cut in pieces, continued or fed with unlike batches give what plain ones give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.evaluate.measure import _warmed
from ppl_gen.infer.reading import read
from ppl_gen.language import dist, param, plate, sample, xp
from ppl_gen.objectives import ELBO, ImportanceWeighted

X = np.array([-1.0, 0.0, 1.0, 3.0], np.float32)
TINY: dict[str, Any] = {"learning_rate": 1e-9, "progress": False}


def half_squares(x: Any) -> float:
    """Minus the log density of standard normals."""
    return float((0.5 * np.square(x) + 0.5 * np.log(2 * np.pi)).sum())


def nothing(*args: Any) -> None:
    """A guide of no latents."""


def mean(x: Any) -> None:
    """One unknown mean."""
    with plate("data", len(x)):
        sample("x", dist.Normal(param("m", lambda: xp.asarray(0.0)), 1.0), obs=x)


# -- looking into a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", ["params", "log_prob", "module"])
def test_a_callback_that_looks_does_not_touch_the_run(look: str) -> None:
    """The user's own network stays as it was, and the fit ends where it ends without a look."""
    net, x = torch.nn.Linear(1, 1), torch.tensor(X)
    start = {name: value.clone() for name, value in net.state_dict().items()}

    def model(x: Any) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(net(torch.ones(len(x), 1))[:, 0], 1.0), obs=x)

    looks: dict[str, Any] = {
        "params": lambda now: now.fit.params,
        "log_prob": lambda now: now.fit.log_prob(x),
        "module": lambda now: now.fit.module("net"),
    }
    plain, seen = (
        infer.fit(model, nothing, x, steps=6, learning_rate=0.1, callbacks=callbacks, progress=False)
        for callbacks in ([], [looks[look]])
    )
    np.testing.assert_array_equal(plain.losses, seen.losses)
    for name, value in plain.params.items():
        np.testing.assert_array_equal(value, seen.params[name])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, start[name])


def test_measuring_leaves_a_networks_running_averages_alone() -> None:
    norm = torch.nn.BatchNorm1d(1)

    def model(x: Any) -> None:
        pyro.module("norm", norm)
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", pyro.distributions.Bernoulli(0.4))
            pyro.sample("x", pyro.distributions.Normal(norm(x[:, None])[:, 0] + b, 1.0), obs=x)

    def guide(x: Any) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("b", pyro.distributions.Bernoulli(logits=pyro.param("q", torch.tensor(0.2))))

    prepared, batch = read(model, guide, torch.tensor(X), "torch", None)
    before = {name: value.clone() for name, value in prepared.program.buffers.items()}
    _warmed(prepared, batch, 0, ELBO(), 5)
    assert before and all(torch.equal(value, before[name]) for name, value in prepared.program.buffers.items())


# -- batches that are unlike one another -----------------------------------------------------------------------------


def test_arrays_that_are_no_rows_are_read_anew_in_every_batch(backend: str) -> None:
    """A number and a vector of another length, each in an array of its own, and one inside a dict."""

    def model(x: Any, shift: Any, more: Any, inside: Any) -> None:
        with plate("data", len(x)):
            loc = param("m", lambda: xp.asarray(0.0)) + shift + xp.sum(more) + inside["a"]
            sample("x", dist.Normal(loc, 1.0), obs=x)

    array: Any = jnp.array if backend == "jax" else torch.tensor
    x = np.zeros(2, np.float32)
    shifts = [(0.0, 0.0, 0.0), (10.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 4.0)]
    data = [(x, array(a), array([b, b, b]), {"a": array(c)}) for a, b, c in shifts]
    losses = infer.fit(model, nothing, data, steps=8, backend=backend, **TINY).losses
    expected = [4 * half_squares([a + 3 * b + c] * 2) for a, b, c in shifts]
    np.testing.assert_allclose(losses, expected * 2, rtol=1e-5)


def test_validation_batches_differ_in_what_is_no_array(backend: str) -> None:
    def model(x: Any, far: bool) -> None:
        with plate("data", len(x)):
            sample("x", dist.Normal(param("m", lambda: xp.asarray(0.0)) + (10.0 if far else 0.0), 1.0), obs=x)

    x = np.zeros(2, np.float32)
    fit = infer.fit(model, nothing, (x, False), steps=1, validation=[(x, False), (x, True)], backend=backend, **TINY)
    expected = half_squares([0.0, 0.0]) + half_squares([10.0, 10.0])
    np.testing.assert_allclose([loss for _, loss in fit.validation_losses], expected, rtol=1e-5)


@pytest.mark.parametrize("first", ["seen", "unseen"])
def test_a_site_that_is_seen_in_some_batches_only_is_refused(first: str, backend: str) -> None:
    lib: Any = pyro if backend == "torch" else numpyro

    def model(x: Any, y: Any) -> None:
        with lib.plate("data", len(x)):
            c = lib.sample("c", lib.distributions.Bernoulli(0.3), obs=y)
            lib.sample("x", lib.distributions.Normal(param("m", lambda: xp.asarray(2.0)) * c, 1.0), obs=x)

    def guide(x: Any, y: Any) -> None:
        with lib.plate("data", len(x)):
            lib.sample("c", lib.distributions.Bernoulli(logits=param("q", lambda: xp.asarray(0.3))))

    x, y = np.array([0.0, 2.0], np.float32), np.array([0.0, 1.0], np.float32)
    data = [(x, y), (x, None)] if first == "seen" else [(x, None), (x, y)]
    for proposal in (nothing, guide):
        with pytest.raises(ProgramError, match=r"site 'c'.*(observed|obs_mask|model observes)"):
            infer.fit(model, proposal, data, steps=4, backend=backend, **TINY)


# -- parts of the rows -----------------------------------------------------------------------------------------------


def test_a_latent_that_follows_the_rows_outside_their_plate_is_refused(backend: str) -> None:
    def model(x: Any) -> None:
        z = sample("z", dist.Bernoulli(xp.full((len(x),), 0.2)).to_event(1))
        with plate("data", len(x)):
            sample("x", dist.Normal(xp.astype(z, xp.float32), 1.0), obs=x)

    def guide(x: Any) -> None:
        sample("z", dist.Bernoulli(logits=param("w", lambda: xp.asarray(2.0)) * x).to_event(1))

    infer.fit(model, guide, X, steps=1, backend=backend, **TINY)
    with pytest.raises(ProgramError, match="site 'z': expected a plate over the rows of the batch"):
        infer.fit(model, guide, X, steps=1, batch_size=2, backend=backend, **TINY)


def test_validation_without_batches_is_taken_whole(backend: str) -> None:
    """More rows than are taken at once elsewhere, and a bound that knows no parts: it is that of training."""
    y = np.repeat(np.array([0.0, 1.0], np.float32), 600)

    def model(y: Any) -> None:
        m = sample("m", dist.Bernoulli(xp.asarray(0.5)))
        with plate("data", len(y)):
            sample("y", dist.Normal(xp.astype(m, xp.float32), 1.0), obs=y)

    def guide(y: Any) -> None:
        sample("m", dist.Bernoulli(logits=param("q", lambda: xp.asarray(0.0))))

    options: dict[str, Any] = {"num_particles": 2, "objective": ImportanceWeighted(), "backend": backend}
    fit = infer.fit(model, guide, y, steps=1, validation=y, **options, **TINY)
    expected = half_squares(y)  # either value of m has this likelihood
    np.testing.assert_allclose(fit.losses[0], expected, rtol=1e-5)
    np.testing.assert_allclose(fit.validation_losses[-1][1], expected, rtol=1e-5)


@pytest.mark.parametrize("latent", [False, True])
def test_a_plate_that_draws_gives_no_likelihood(latent: bool, backend: str) -> None:
    lib: Any = pyro if backend == "torch" else numpyro

    def model(x: Any) -> None:
        m = param("m", lambda: xp.asarray(0.0))
        m = lib.sample("z", lib.distributions.Normal(m, 1.0)) if latent else m
        with lib.plate("data", len(x), subsample_size=2) as rows:
            lib.sample("x", lib.distributions.Normal(m, 1.0), obs=x[rows])

    fit = infer.fit(model, None, X, steps=1, backend=backend, **TINY)
    with pytest.raises(ProgramError, match=r"plate 'data'.*draws some.*batch_size="):
        fit.log_prob(X)


# -- continued runs --------------------------------------------------------------------------------------------------


def test_a_run_continued_without_validation_keeps_what_it_learns(tmp_path: Path, backend: str) -> None:
    options: dict[str, Any] = {
        "learning_rate": 0.05,
        "checkpoint": tmp_path / "run.ckpt",
        "backend": backend,
        "progress": False,
    }
    infer.fit(mean, nothing, X + 4, steps=10, validation=X + 4, **options)
    fit = infer.fit(mean, nothing, X + 4, steps=300, **options)
    np.testing.assert_allclose(fit.params["m"], (X + 4).mean(), atol=0.05)


# -- no guide --------------------------------------------------------------------------------------------------------


def test_a_fit_without_a_guide_trains_what_the_plan_says(backend: str) -> None:
    """A mixture is summed out, whole and in batches; a global choice only where all rows are seen at once."""

    def mixture(x: Any) -> None:
        locs = param("locs", lambda: xp.asarray([-1.0, 1.0]))
        with plate("data", len(x)):
            k = sample("k", dist.Categorical(logits=xp.zeros(2)))
            sample("x", dist.Normal(xp.take(locs, k), 1.0), obs=x)

    fit = infer.fit(mixture, None, X, steps=1, backend=backend, **TINY)
    assert str(fit.plan) == str(infer.plan(mixture, None, X, backend=backend)) and "summed out" in str(fit.plan)
    exact = np.log(np.exp(-0.5 * (X[:, None] - np.array([-1.0, 1.0])) ** 2).mean(1) / np.sqrt(2 * np.pi))
    np.testing.assert_allclose(fit.log_prob(X).value, exact, atol=1e-5)
    assert set(fit.predict(X)) == {"x"}
    assert "summed out" in str(infer.fit(mixture, None, X, steps=1, batch_size=2, backend=backend, **TINY).plan)


def test_a_global_choice_is_proposed_where_batches_cannot_sum_it_out(tmp_path: Path, backend: str) -> None:
    def choice(x: Any) -> None:
        c = sample("c", dist.Bernoulli(xp.asarray(0.5)))
        with plate("data", len(x)):
            loc = param("t", lambda: xp.asarray(1.0)) * xp.astype(c, xp.float32)
            sample("x", dist.Normal(loc, 1.0), obs=x)

    whole = infer.fit(choice, None, X, steps=1, backend=backend, **TINY)
    assert "summed out" in str(whole.plan)
    with pytest.raises(ProgramError, match="site 'c' .*all elements of plate 'data' at once"):
        infer.fit(choice, nothing, X, steps=1, batch_size=2, backend=backend, **TINY)
    batched = infer.fit(choice, None, X, steps=1, batch_size=2, backend=backend, **TINY)
    assert set(batched.plan) == {"c"}
    for number, fit in enumerate((whole, batched)):
        fit.save(tmp_path / f"{number}.fit")
        assert set(infer.load(tmp_path / f"{number}.fit", choice).plan) == set(fit.plan)
