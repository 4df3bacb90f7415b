"""Changes to a program's text that must not change its gradient, whatever the exact value is.

Where every estimator is free of variance (`Enumerate`) or draws the same noise, gradients are compared digit by digit.
Elsewhere the means of two independent sets of draws are: |z| of each component stays below 5 by chance in all but 6e-7
of cases, 2e-5 for the 40 components here. `test_the_comparison_of_means_has_power` shows what the bound would catch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch

from ppl_gen import estimators as es
from ppl_gen import infer
from ppl_gen.language import dist, factor, param, plate, sample, xp
from tests.nightly import nightly
from tests.plan_table import library

BOUND = 5.0
NUM_SAMPLES = {"torch": 4000, "jax": 10_000}
MEANS = [nightly("torch"), "jax"]  # on torch, means of thousands of draws take minutes
X = np.array([0.4, -1.3, 2.1], dtype=np.float32)
Program = tuple[Callable[..., Any], Callable[..., Any]]


def gradient(program: Program, backend: str, **options: Any) -> Any:
    return infer.gradient(*program, X, backend=backend, **options)


def draws(program: Program, backend: str, seed: int = 0) -> Any:
    """Of the automatic choice with eight particles: enough to see a tenth."""
    return gradient(program, backend, num_samples=NUM_SAMPLES[backend], num_particles=8, seed=seed)


def assert_equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(value).max() > 1e-3, f"{name}: a gradient of zero shows nothing"
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def distances(one: Any, two: Any) -> np.ndarray:
    """z of the difference of the means, every component."""
    assert one.keys() == two.keys()
    found = []
    for name in one:
        error = np.sqrt(sum(each.var(0, ddof=1) / len(each) for each in (one[name], two[name])))
        found.append(np.ravel((one[name].mean(0) - two[name].mean(0)) / np.maximum(error, 1e-5)))
    return np.concatenate(found)


def real(value: Any) -> Any:
    return xp.astype(value, xp.float32)


# -- a constant in the cost ------------------------------------------------------------------------------------------


def bits(constant: float) -> Program:
    """Two bits for each row and one for all; `constant` nats on top."""

    def model(x: Any) -> None:
        top = real(sample("top", dist.Bernoulli(0.4)))
        with plate("rows", 3):
            z = real(sample("z", dist.Bernoulli(logits=xp.zeros(2)).to_event(1)))
            sample("x", dist.Normal(z[..., 0] - 2 * z[..., 1] + top + param("shift", xp.asarray(0.3)), 1.0), obs=x)
        factor("constant", xp.asarray(constant))

    def guide(x: Any) -> None:
        sample("top", dist.Bernoulli(logits=param("up", xp.asarray(0.2))))
        with plate("rows", 3):
            logits = param("logits", xp.asarray([0.3, -0.5])) + 0.5 * x[:, None]
            sample("z", dist.Bernoulli(logits=logits).to_event(1))

    return model, guide


DIFFERENCES = {
    "Enumerate": (es.Enumerate(), 1),
    "LeaveOneOut": (es.LeaveOneOut(), 2),
    "Arm": (es.Arm(), 1),
    "DisArm": (es.DisArm(), 1),
    "MeasureValued": (es.MeasureValued(), 1),
    "DoubleControl": (es.DoubleControl(), 2),
}


@pytest.mark.parametrize("name", list(DIFFERENCES))
def test_a_constant_leaves_differences_of_costs_alone(name: str, backend: str) -> None:
    estimator, particles = DIFFERENCES[name]
    options: dict[str, Any] = {"estimators": {"*": estimator}, "num_particles": particles, "num_samples": 5}
    assert_equal(gradient(bits(40.0), backend, **options), gradient(bits(0.0), backend, **options))


@pytest.mark.parametrize("backend", MEANS)
def test_a_constant_leaves_the_mean_of_the_automatic_choice_alone(backend: str) -> None:
    assert np.abs(distances(draws(bits(0.0), backend), draws(bits(3.0), backend, seed=1))).max() < BOUND


@pytest.mark.parametrize("backend", MEANS)
def test_the_comparison_of_means_has_power(backend: str) -> None:
    """A tenth off, or nothing at all, in the component that is known best; by Enumerate the gradient is known."""
    exact = gradient(bits(0.0), backend, estimators={"*": es.Enumerate()}, num_samples=1)
    rough = draws(bits(0.0), backend)
    assert np.abs(distances(rough, {name: np.repeat(v, 2, axis=0) for name, v in exact.items()})).max() < BOUND
    for factor_ in (0.9, 0.0):
        wrong = {name: factor_ * np.repeat(v, 2, axis=0) for name, v in exact.items()}
        assert np.abs(distances(rough, wrong)).max() > BOUND


# -- if and where ----------------------------------------------------------------------------------------------------


def branches(kind: str, how: str, backend: str) -> Program:
    """A latent that decides between two means, by a branch or by `where`."""
    lib = library(backend)
    d: Any = pyro.distributions if backend == "torch" else numpyro.distributions
    p: Any = pyro if backend == "torch" else numpyro

    def choose(z: Any) -> Any:
        low, high = lib.array([-1.0, 0.0, 1.0]), lib.array([2.0, 1.0, -2.0])
        if backend == "torch":
            return (high if z > 0.5 else low) if how == "branch" else torch.where(z > 0.5, high, low)
        if how == "branch":
            return jax.lax.cond(z > 0.5, lambda: high, lambda: low)
        return jnp.where(z > 0.5, high, low)

    def model(x: Any) -> None:
        z = p.sample("z", d.Bernoulli(0.4) if kind == "bit" else d.Normal(0.0, 1.0))
        with p.plate("rows", 3):
            p.sample("x", d.Normal(choose(z), 1.0), obs=x)

    def guide(x: Any) -> None:
        at = p.param("at", lib.array(0.3))
        p.sample("z", d.Bernoulli(logits=at) if kind == "bit" else d.Normal(at, 1.0))

    return model, guide


@pytest.mark.parametrize("kind", ["bit", "normal"])
def test_a_branch_is_a_where(kind: str, backend: str) -> None:
    one, two = branches(kind, "branch", backend), branches(kind, "where", backend)
    if kind == "bit":
        options: dict[str, Any] = {"estimators": {"z": es.Enumerate()}, "num_samples": 1}
        assert_equal(gradient(one, backend, **options), gradient(two, backend, **options))
    plans = [infer.plan(*program, X, backend=backend) for program in (one, two)]
    assert [type(plan["z"].estimator) for plan in plans] == [es.Score, es.Score]


@pytest.mark.parametrize("backend", MEANS)
@pytest.mark.parametrize("kind", ["bit", "normal"])
def test_a_branch_has_the_mean_of_a_where(kind: str, backend: str) -> None:
    one, two = branches(kind, "branch", backend), branches(kind, "where", backend)
    assert np.abs(distances(draws(one, backend), draws(two, backend, seed=1))).max() < BOUND


# -- one site or several, in whatever order --------------------------------------------------------------------------


def vector(together: bool, distribution: str) -> Program:
    """Three bits or normals, as one site or as three."""

    def draw(name: str, value: Any, k: Any) -> Any:
        if distribution == "bits":
            return dist.Bernoulli(logits=value[k])
        return dist.Normal(value[k], 0.7)

    def all_three(value: Any) -> Any:
        if together:
            return real(sample("z", draw("z", value, slice(None)).to_event(1)))
        return xp.stack([real(sample(f"z{k}", draw("z", value, k))) for k in range(3)])

    def model(x: Any) -> None:
        z = all_three(xp.asarray([0.2, -0.4, 0.1]))
        with plate("rows", 3):
            mean = z[0] * x + z[1] * z[2] + param("shift", xp.asarray(0.4))
            sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x: Any) -> None:
        all_three(param("at", xp.asarray([0.5, -0.3, 0.8])))

    return model, guide


def test_one_site_or_several_have_the_same_exact_gradient(backend: str) -> None:
    options: dict[str, Any] = {"estimators": {"*": es.Enumerate()}, "num_samples": 1}
    one, several = (gradient(vector(together, "bits"), backend, **options) for together in (True, False))
    assert_equal(several, one)


@pytest.mark.parametrize("backend", MEANS)
@pytest.mark.parametrize("distribution", ["bits", "normals"])
def test_one_site_or_several_have_the_same_mean(distribution: str, backend: str) -> None:
    one, several = vector(True, distribution), vector(False, distribution)
    assert np.abs(distances(draws(one, backend), draws(several, backend, seed=1))).max() < BOUND


def pair(first: str) -> Program:
    """Two latents that do not depend on one another, in either order; in the guide in the order of the model."""
    priors = {"a": lambda: dist.Bernoulli(0.3), "b": lambda: dist.Categorical(probs=xp.asarray([0.2, 0.5, 0.3]))}
    names = (first, "b" if first == "a" else "a")

    def model(x: Any) -> None:
        drawn = {name: real(sample(name, priors[name]())) for name in names}
        with plate("rows", 3):
            sample("x", dist.Normal(drawn["a"] - drawn["b"] * param("slope", xp.asarray(0.6)), 1.0), obs=x)

    def guide(x: Any) -> None:
        logits = {"a": param("qa", xp.asarray(1.2)), "b": param("qb", xp.asarray([0.1, 0.4, -0.2]))}
        for name in names:
            sample(name, (dist.Bernoulli if name == "a" else dist.Categorical)(logits=logits[name]))

    return model, guide


def test_independent_sites_may_come_in_any_order(backend: str) -> None:
    options: dict[str, Any] = {"estimators": {"*": es.Enumerate()}, "num_samples": 1}
    one, two = pair("a"), pair("b")
    assert_equal(gradient(two, backend, **options), gradient(one, backend, **options))
    rows = [infer.plan(*program, X, backend=backend).rows for program in (one, two)]
    for name in ("a", "b"):
        assert rows[0][name].terms == rows[1][name].terms
        assert repr(rows[0][name].estimator) == repr(rows[1][name].estimator)


@pytest.mark.parametrize("backend", MEANS)
def test_independent_sites_have_the_same_mean_in_any_order(backend: str) -> None:
    assert np.abs(distances(draws(pair("a"), backend), draws(pair("b"), backend, seed=1))).max() < BOUND


# -- compiled or not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Score", nightly("DisArm"), nightly("Rebar"), nightly("Enumerate")])
def test_compiled_steps_train_as_others_do(name: str, backend: str) -> None:
    """The same random numbers give the same losses and parameters, up to rounding."""
    fits = [
        infer.fit(
            *bits(0.0), X, backend=backend, steps=6, estimators={"*": getattr(es, name)()}, compile=how, progress=False
        )
        for how in ("auto", False)
    ]
    np.testing.assert_allclose(fits[0].losses, fits[1].losses, rtol=1e-4)
    assert_equal(fits[0].params, fits[1].params)
