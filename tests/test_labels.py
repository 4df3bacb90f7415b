"""What a program is called: exact, a bound, or no likelihood; marks that are not followed; models that see no data."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as dist
import pytest
import torch
from numpyro.contrib.control_flow import scan
from pyro.infer.autoguide import AutoDelta, AutoGaussian, AutoNormal, AutoStructured
from pyro.infer.reparam import LocScaleReparam, TransformReparam

import ppl_gen as pg
from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Enumerate, Score

X = np.array([0.5, 1.0], np.float32)
LIBRARIES: dict[str, tuple[Any, Any, Any]] = {
    "torch": (pyro, pyro.poutine, torch.as_tensor),
    "jax": (numpyro, numpyro.handlers, jnp.asarray),
}


def fitted(model: Any, guide: Any, data: Any, backend: str | None = None) -> infer.Fit:
    return infer.fit(model, guide, data, steps=0, backend=backend, progress=False)


def location(x: Any) -> None:
    """A normal mean under a standard normal."""
    z = pg.sample("z", pg.dist.Normal(0.0, 1.0))
    with pg.plate("data", len(x)):
        pg.sample("x", pg.dist.Normal(z, 1.0), obs=x)


# -- unnormalized guides -----------------------------------------------------------------------------------------------


def pushed(**declared: Any) -> Callable[[Any], None]:
    """A guide with a factor beside its draw."""

    def guide(x: Any) -> None:
        z = pg.sample("z", pg.dist.Normal(pg.param("m", lambda: pg.xp.asarray(0.2)), 1.0))
        pg.factor("push", 2.0 * z, **declared)

    return guide


def test_an_undeclared_factor_in_a_guide_is_refused_by_name(backend: str) -> None:
    for verb in (infer.plan, infer.fit):
        with pytest.raises(ProgramError, match=r"site 'push' \(factor\): expected a guide of normalized.*has_rsample"):
            verb(location, pushed(), X, backend=backend)


@pytest.mark.parametrize(("has_rsample", "backend"), [(True, "torch"), (False, "torch"), (True, "jax")])
def test_a_declared_factor_in_a_guide_trains_and_gives_no_likelihood(has_rsample: bool, backend: str) -> None:
    """The gradient of E[log p - log q - 2 z] by m, with x and z of unit variance: 2 - sum(x - m) + m; s.e. below 0.2."""
    guide = pushed(has_rsample=has_rsample)
    found = infer.fit(location, guide, X, steps=2, backend=backend, progress=False, compile=False)
    assert "no likelihood: site 'push' (factor)" in str(found.plan)
    with pytest.raises(ProgramError, match=r"site 'push' \(factor\): expected a normalized density.*the guide's"):
        found.log_prob(X)
    draws = infer.gradient(location, guide, X, backend=backend, num_samples=200)["m"]
    assert abs(draws.mean() - (2.0 - (X - 0.2).sum() + 0.2)) < 5 * draws.std() / np.sqrt(200) < 1.1


def test_a_numpyro_factor_is_declared_by_its_infer_dict() -> None:
    def model(x: Any) -> None:
        numpyro.sample("x", ndist.Normal(numpyro.sample("z", ndist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x: Any) -> None:
        z = numpyro.sample("z", ndist.Normal(numpyro.param("m", 0.2), 1.0))
        numpyro.factor("push", 2.0 * z)

    with pytest.raises(ProgramError, match="site 'push'"):
        infer.plan(model, guide, jnp.array(0.5))
    declared = numpyro.handlers.infer_config(
        guide, lambda site: {"has_rsample": True} if site["name"] == "push" else {}
    )
    assert "no likelihood: site 'push'" in str(infer.plan(model, declared, jnp.array(0.5)))


def test_an_observation_in_a_guide_is_refused_by_name(backend: str) -> None:
    def guide(x: Any) -> None:
        z = pg.sample("z", pg.dist.Normal(pg.param("m", lambda: pg.xp.asarray(0.2)), 1.0))
        pg.sample("seen", pg.dist.Normal(z, 1.0), obs=x[0])

    with pytest.raises(ProgramError, match=r"site 'seen' \(Normal\): expected the guide to observe nothing"):
        infer.plan(location, guide, X, backend=backend)


def scaled_location(x: torch.Tensor) -> None:
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    z = pyro.sample("z", dist.Normal(0.0, s))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("make", [AutoNormal, AutoStructured, AutoGaussian])
def test_guides_that_change_variables_keep_their_bound(make: Any) -> None:
    """Deltas that carry a density on: below the integral by quadrature, but for 5 standard errors of the draws."""
    x = torch.as_tensor(X)
    s, z = np.exp(np.linspace(-6, 6, 400)), np.linspace(-12, 12, 2001)
    prior = np.exp(-0.5 * (np.log(s)) ** 2)[:, None] * np.exp(-0.5 * (z / s[:, None]) ** 2) / s[:, None]
    joint = prior * np.exp(-0.5 * ((X[:, None, None] - z) ** 2).sum(0)) / (2 * np.pi) ** 2
    exact = np.log(np.trapezoid(np.trapezoid(joint, z), np.log(s)))
    found = fitted(scaled_location, make(scaled_location), x).log_prob(x, num_samples=500)
    assert found.kind == "lower_bound" and float(found) < exact + 5 * float(found.standard_error)


def test_a_reparametrized_model_keeps_its_bound_and_a_point_has_none() -> None:
    x = torch.as_tensor(X)

    def model(x: torch.Tensor) -> None:
        exp = dist.transforms.ExpTransform()
        s = pyro.sample("s", dist.TransformedDistribution(dist.Normal(0.0, 1.0), [exp]))
        z = pyro.sample("z", dist.Normal(0.0, s))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    moved = pyro.poutine.reparam(model, config={"s": TransformReparam(), "z": LocScaleReparam()})
    assert fitted(moved, None, x).log_prob(x).kind == "lower_bound"
    point = fitted(scaled_location, AutoDelta(scaled_location), x)
    with pytest.raises(ProgramError, match=r"site 's' \(Delta\).*one learned point"):
        point.log_prob(x)


def test_what_the_guide_alone_draws_adds_its_entropy_and_is_no_bound(backend: str) -> None:
    def guide(x: Any) -> None:
        coin = pg.sample("coin", pg.dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        pg.sample("z", pg.dist.Normal(pg.param("m", lambda: pg.xp.asarray(0.5)) + 0.0 * coin, 0.6))

    with pytest.raises(ProgramError, match=r"site 'coin' \(Bernoulli\).*the guide alone"):
        fitted(location, guide, X, backend).log_prob(X)


# -- masks -------------------------------------------------------------------------------------------------------------

SEEN = np.array([True, False, True, False])
COINS = np.array([1.0, 0.0, 1.0, 1.0], np.float32)


def half_seen(backend: str, mask: np.ndarray | None) -> tuple[Any, Any]:
    """Coins of which half are seen; where `mask` is given the guide counts only there."""
    lib, handlers, array = LIBRARIES[backend]

    def model(coins: Any, seen: Any) -> None:
        p = lib.param("p", array(0.3))
        with lib.plate("data", 4):
            coin = lib.sample("coin", lib.distributions.Bernoulli(p), obs=coins, obs_mask=seen)
            lib.sample("y", lib.distributions.Normal(1.0 * coin, 1.0), obs=coins)

    def guide(coins: Any, seen: Any) -> None:
        logits = lib.param("logits", array(np.zeros(4, np.float32)))
        with lib.plate("data", 4):
            if mask is None:
                lib.sample("coin_unobserved", lib.distributions.Bernoulli(logits=logits))
            else:
                with handlers.mask(mask=array(mask)):
                    lib.sample("coin_unobserved", lib.distributions.Bernoulli(logits=logits))

    return model, guide


@pytest.mark.parametrize("mask", [None, SEEN], ids=["unmasked", "another mask"])
def test_a_latent_masked_differently_in_model_and_guide_has_no_bound(mask: Any, backend: str) -> None:
    found = fitted(*half_seen(backend, mask), (COINS, SEEN), backend)
    assert "site 'coin_unobserved': the model" in str(found.plan) and "no bound" in str(found.plan)
    with pytest.raises(ProgramError, match=r"site 'coin_unobserved' \(Bernoulli\).*masked differently"):
        found.log_prob((COINS, SEEN))


def test_a_latent_masked_alike_keeps_its_bound(backend: str) -> None:
    """Against the four rows' sums; the weights of 4000 draws know each to 5 standard errors."""
    found = fitted(*half_seen(backend, ~SEEN), (COINS, SEEN), backend).log_prob((COINS, SEEN), num_samples=4000)

    def normal(gap: Any) -> Any:
        return np.exp(-0.5 * gap**2) / np.sqrt(2 * np.pi)

    seen = np.where(COINS == 1, 0.3, 0.7) * normal(0.0)
    exact = np.log(np.where(SEEN, seen, 0.3 * normal(COINS - 1) + 0.7 * normal(COINS)))
    assert found.kind == "lower_bound" and (np.abs(found.value - exact) <= 5 * found.standard_error + 1e-5).all()


# -- costs that are no density -----------------------------------------------------------------------------------------


def bare(x: Any) -> None:
    pg.factor("cost", -((pg.param("m", lambda: pg.xp.asarray(0.3)) - pg.xp.mean(x)) ** 2))


def beside(x: Any) -> None:
    pg.sample("x", pg.dist.Normal(pg.param("m", lambda: pg.xp.asarray(0.3)), 1.0).expand([2]).to_event(1), obs=x)
    pg.factor("cost", -(pg.param("m") ** 2))


def emitted(x: Any) -> None:
    pg.sample("x", pg.dist.Delta(pg.param("m", lambda: pg.xp.asarray(0.3)) * x), obs=x)


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (bare, r"site 'cost' \(factor\).*a factor"),
        (beside, r"site 'cost' \(factor\).*a factor"),
        (emitted, r"site 'x' \(Delta\).*no density at the data"),
    ],
)
def test_a_cost_that_is_no_density_is_not_called_exact(model: Any, where: str, backend: str) -> None:
    found = fitted(model, None, X, backend)
    said = str(found.plan) + found.summary()
    assert "exact" not in said and "no likelihood: site" in said
    with pytest.raises(ProgramError, match=where):
        found.log_prob(X)


def test_a_deterministic_site_leaves_a_likelihood_exact(backend: str) -> None:
    def model(x: Any) -> None:
        m = pg.deterministic("twice", 2.0 * pg.param("m", lambda: pg.xp.asarray(0.3)))
        with pg.plate("data", len(x)):
            same = m + 0.0 * x
            pg.sample("same", pg.dist.Delta(same), obs=same)
            pg.sample("x", pg.dist.Normal(m, 1.0), obs=x)

    found = fitted(model, None, X, backend)
    assert "exact likelihood" in str(found.plan) and found.log_prob(X).kind == "exact"


@pytest.mark.parametrize("what", ["data", "latent"])
def test_a_scaled_density_has_no_likelihood_whatever_the_scale_was_at_first(what: str, backend: str) -> None:
    """Trained with a scale of one, asked with another: the label is that of the batch at hand."""
    lib, handlers, array = LIBRARIES[backend]

    def model(x: Any, scale: float) -> None:
        with handlers.scale(scale=scale if what == "latent" else 1.0):
            z = lib.sample("z", lib.distributions.Normal(0.0, 1.0))
        with handlers.scale(scale=scale if what == "data" else 1.0), lib.plate("data", 2):
            lib.sample("x", lib.distributions.Normal(z, 1.0), obs=x)

    def guide(x: Any, scale: float) -> None:
        lib.sample("z", lib.distributions.Normal(lib.param("m", array(0.3)), 1.0))

    found = fitted(model, guide, (X, 1.0), backend)
    assert found.log_prob((X, 1.0), num_samples=5).kind == "lower_bound" and "no likelihood" not in str(found.plan)
    with pytest.raises(ProgramError, match=r"\(Normal\).*scaled"):
        found.log_prob((X, 0.5))
    assert "no likelihood: site" in str(infer.plan(model, guide, (X, 0.5), backend=backend))


# -- marks -------------------------------------------------------------------------------------------------------------

MARK: Any = {"enumerate": "parallel"}


def test_a_mark_inside_a_scan_is_not_followed_in_silence() -> None:
    def model(y: Any) -> None:
        logits, means = numpyro.param("logits", jnp.zeros((2, 2))), numpyro.param("means", jnp.array([-1.0, 1.0]))

        def step(before: Any, now: Any) -> tuple[Any, None]:
            z = numpyro.sample("z", ndist.Categorical(logits=logits[before]), infer=MARK)
            numpyro.sample("y", ndist.Normal(means[z], 1.0), obs=now)
            return z, None

        scan(step, 0, y)

    plan = infer.plan(model, None, jnp.asarray([0.3, -0.2, 1.0]))
    assert "site 'z': marked for enumeration in the model, which is not followed, as it cannot be summed out" in str(
        plan
    )
    assert "scan" in str(plan)


def normalized(guided: bool) -> tuple[Any, Any]:
    """Rows that batch normalization mixes."""
    norm = torch.nn.BatchNorm1d(2)

    def model(x: torch.Tensor) -> None:
        net, means = pyro.module("norm", norm), pyro.param("means", torch.tensor([-1.0, 1.0]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])), infer=MARK)
            pyro.sample("x", dist.Normal(net(torch.stack([means[k], x], -1)).sum(-1), 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(len(x), 2))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=logits), infer=MARK)

    return model, guide if guided else None


@pytest.mark.parametrize("guided", [True, False])
def test_a_mark_beside_batch_normalization_is_not_followed_in_silence(guided: bool) -> None:
    plan = str(infer.plan(*normalized(guided), torch.tensor([0.3, 0.1, 0.9])))
    role = "guide" if guided else "model"
    assert f"site 'k': marked for enumeration in the {role}, which is not followed, as" in plan
    assert "plate 'data'" in plan


def marked(size: int, infer_guide: Any) -> tuple[Any, Any]:
    def model(x: Any) -> None:
        k = pg.sample("k", pg.dist.Categorical(logits=pg.xp.zeros(size)), infer=MARK)
        pg.sample("x", pg.dist.Normal(1.0 * k, 1.0), obs=x)

    def guide(x: Any) -> None:
        pg.sample("k", pg.dist.Categorical(logits=pg.param("q", lambda: pg.xp.zeros(size))), infer=infer_guide)

    return model, guide


@pytest.mark.parametrize(
    ("size", "infer_guide", "asked", "why"),
    [
        (100, MARK, {}, "in the guide, which is not followed, as one element has 100 values"),
        (3, MARK, {"k": Score()}, r"in the guide, which is not followed, as Score\(.*\) is asked for"),
        (3, {}, {}, "in the model, which is not followed, as the guide proposes it, unmarked"),
    ],
)
def test_every_mark_is_followed_or_said_why_not(
    size: int, infer_guide: Any, asked: Any, why: str, backend: str
) -> None:
    plan = infer.plan(*marked(size, infer_guide), np.float32(0.3), estimators=asked, backend=backend)
    assert not isinstance(plan["k"].estimator, Enumerate)
    assert re.search("site 'k': marked for enumeration " + why, str(plan))


def test_a_mark_outlives_measuring() -> None:
    """What the program asks for is done, whatever has less variance for its runs."""
    plan = infer.plan(*marked(3, MARK), np.float32(0.3), backend="torch", measure=True)
    assert isinstance(plan["k"].estimator, Enumerate) and plan["k"].reason == "marked for enumeration in the program"
    assert "not followed" not in str(plan)


# -- nothing to learn from ---------------------------------------------------------------------------------------------


def test_a_model_without_data_says_so(backend: str) -> None:
    def model(x: Any) -> None:
        z = pg.sample("z", pg.dist.Normal(pg.param("m", lambda: pg.xp.asarray(0.3)), 1.0))
        pg.deterministic("twice", 2.0 * z)

    what = "model: expected a site that is given data, or a factor; got none"
    with pytest.warns(UserWarning, match=what):
        found = infer.fit(model, None, X, steps=1, backend=backend, progress=False)
    assert what in str(found.plan) and what in str(infer.plan(model, None, X, backend=backend))


@pytest.mark.parametrize("model", [bare, location])
def test_a_model_with_data_or_a_cost_is_not_warned_of(model: Any, backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = infer.fit(model, None, X, steps=1, backend=backend, progress=False)
    assert "nothing is learned" not in str(found.plan)
