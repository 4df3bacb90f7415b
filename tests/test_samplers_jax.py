"""Samplers that a user wrote for NumPyro: what their classes say of themselves is looked at, not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")

import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from jax import random  # noqa: E402
from numpyro.distributions import constraints, transforms  # noqa: E402
from numpyro.distributions.flows import InverseAutoregressiveTransform  # noqa: E402

from ppl_gen import infer  # noqa: E402
from ppl_gen.errors import ProgramError  # noqa: E402
from ppl_gen.estimators import Pathwise, Score  # noqa: E402

X = np.float32(0.7)
START = 0.3


class Own(dist.Distribution):
    """A class that says it is reparametrized."""

    arg_constraints = {"loc": constraints.real}
    support = constraints.real
    reparametrized_params = ["loc"]

    def __init__(self, loc: Any, validate_args: Any = None) -> None:
        self.loc, self.extra = loc, 1.0  # an attribute that no pytree of it holds
        super().__init__(jnp.shape(loc), (), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.extra * self.loc + random.normal(key, sample_shape + self.batch_shape)

    def log_prob(self, value: Any) -> Any:
        return dist.Normal(self.loc, 1.0).log_prob(value)


class Mixture(Own):
    """Two pieces, which a comparison picks."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        first, second = random.split(key)
        noise = random.normal(first, sample_shape + self.batch_shape)
        return jnp.where(random.uniform(second, noise.shape) < jax.nn.sigmoid(self.loc), noise + 1, noise - 1)

    def log_prob(self, value: Any) -> Any:
        weights = jax.nn.log_sigmoid(jnp.stack([self.loc, -self.loc]))
        pieces = [dist.Normal(side, 1.0).log_prob(value) for side in (1.0, -1.0)]
        return jnp.logaddexp(weights[0] + pieces[0], weights[1] + pieces[1])


class Partly(Own):
    """One way is smooth, and the other jumps."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return super().sample(key, sample_shape) + jnp.floor(self.loc)


class Stopped(Own):
    """No derivative at all."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return jax.lax.stop_gradient(super().sample(key, sample_shape))


class OnHost(Own):
    """A sampler that JAX cannot trace."""

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return jnp.asarray(np.asarray(self.loc)) + random.normal(key, sample_shape + self.batch_shape)


class Renamed(dist.StudentT):
    """NumPyro's own sampler, which divides by a random number."""

    def log_prob(self, value: Any) -> Any:
        return super().log_prob(value)


class Stretch(transforms.Transform):
    """A smooth transform."""

    domain = codomain = constraints.real

    def __call__(self, x: Any) -> Any:
        return jnp.sinh(x)

    def _inverse(self, y: Any) -> Any:
        return jnp.arcsinh(y)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Any:
        return jnp.log(jnp.cosh(x))

    def tree_flatten(self) -> Any:
        return (), ((), {})


class Swap(Stretch):
    """What lies outside of (-1, 1) changes sides."""

    def __call__(self, x: Any) -> Any:
        return jnp.where(jnp.abs(x) < 1, x, -x)

    def _inverse(self, y: Any) -> Any:
        return jnp.where(jnp.abs(y) < 1, y, -y)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Any:
        return jnp.zeros(jnp.shape(x))


def jumpy_net(x: Any) -> tuple[Any, Any]:
    """A user's function inside NumPyro's own transform: shift and log scale, each by the elements before."""
    before = jnp.concatenate([jnp.zeros_like(x[..., :1]), jnp.cumsum(x, -1)[..., :-1]], -1)
    return jnp.sign(before), 0.0 * before


def transformed(base: Any, *parts: Any) -> Any:
    return dist.TransformedDistribution(base, list(parts))


ROUGH: dict[str, Callable[[Any], Any]] = {
    "mixture": Mixture,
    "in an event": lambda loc: Mixture(loc).expand([3]).to_event(1),
    "masked": lambda loc: Mixture(loc).mask(True),
    "base": lambda loc: transformed(Mixture(loc), transforms.AffineTransform(1.0, 2.0)),
    "partly": Partly,
    "stopped": Stopped,
    "on the host": OnHost,
    "transform": lambda loc: transformed(dist.Normal(loc, 1.0), Swap()),
    "transform, composed": lambda loc: transformed(dist.Normal(loc, 1.0), transforms.ComposeTransform([Swap()])),
    "function": lambda loc: transformed(
        dist.Normal(loc, 1.0).expand([3]).to_event(1), InverseAutoregressiveTransform(jumpy_net)
    ),
}
SMOOTH: dict[str, Callable[[Any], Any]] = {
    "plain": Own,
    "in an event": lambda loc: Own(loc).expand([3]).to_event(1),
    "base": lambda loc: transformed(Own(loc), transforms.AffineTransform(1.0, 2.0)),
    "transform": lambda loc: transformed(dist.Normal(loc, 1.0), Stretch()),
    "inherited": lambda loc: Renamed(3.0, loc, 1.0),
    "behind a jump of its own": lambda loc: Own(jnp.where(loc > 0, 1.0, 2.0) * loc),
}


def programs(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    event = make(jnp.zeros(())).event_shape

    def model(x: Any) -> None:
        z = numpyro.sample("z", dist.Normal(0.0, 2.0).expand(event).to_event(len(event)))
        numpyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("z", make(numpyro.param("loc", START)))

    return model, guide


@pytest.mark.parametrize("name", ROUGH)
def test_a_users_sampler_that_jumps_is_scored(name: str) -> None:
    row = infer.plan(*programs(ROUGH[name]), (X,))["z"]
    assert isinstance(row.estimator, Score)
    assert "but its sampler (" in row.reason


@pytest.mark.parametrize("name", SMOOTH)
def test_a_users_smooth_sampler_is_pathwise(name: str) -> None:
    assert isinstance(infer.plan(*programs(SMOOTH[name]), (X,))["z"].estimator, Pathwise)


def test_the_users_word_for_a_sampler_is_taken_when_asked_for() -> None:
    asked = {"z": Pathwise(trusted=True)}
    assert infer.plan(*programs(Stopped), (X,), estimators=asked)["z"].estimator is asked["z"]
    with pytest.raises(ValueError, match=r"Mixture says that it is reparametrized, but its sampler \(Mixture\)"):
        infer.plan(*programs(Mixture), (X,), estimators={"z": Pathwise()})


@pytest.mark.parametrize("name", ["mixture", "transform"])
def test_the_gradient_of_a_users_sampler_is_right(name: str) -> None:
    """By quadrature; 5 standard errors, a false alarm in two million."""
    grid = jnp.linspace(-12.0, 12.0, 48001)

    def loss(loc: Any) -> Any:
        log_q = ROUGH[name](loc).log_prob(grid)
        log_p = dist.Normal(0.0, 2.0).log_prob(grid) + dist.Normal(grid, 1.0).log_prob(X)
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p)) * (grid[1] - grid[0])

    draws = infer.gradient(*programs(ROUGH[name]), (X,), num_samples=4000)["loc"]
    exact, error = float(jax.grad(loss)(START)), draws.std() / len(draws) ** 0.5
    assert abs(exact) > 10 * error
    assert abs(draws.mean() - exact) < 5 * error


class Likelihood(dist.Distribution):
    """A Normal around what its class makes of a location."""

    arg_constraints = {"loc": constraints.real}
    support = constraints.real

    def __init__(self, loc: Any, *, validate_args: Any = None) -> None:
        self.loc = loc
        super().__init__(jnp.shape(loc), (), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: Any = ()) -> Any:
        return self.loc + jax.random.normal(key, (*sample_shape, *self.batch_shape))


class Squared(Likelihood):
    def log_prob(self, value: Any) -> Any:
        return dist.Normal(self.loc**2, 1.0).log_prob(value)


class Floored(Likelihood):
    def log_prob(self, value: Any) -> Any:
        return dist.Normal(jnp.floor(self.loc), 1.0).log_prob(value)


class CutOff(Likelihood):
    def log_prob(self, value: Any) -> Any:
        return dist.Normal(jax.lax.stop_gradient(self.loc) ** 2, 1.0).log_prob(value)


class Tilted(dist.Normal):
    def log_prob(self, value: Any) -> Any:
        return super().log_prob(value) - 1.5 * (value > 0.3)


DENSITIES: dict[str, tuple[Any, Any, type]] = {
    "smooth": (dist.Normal, Squared, Pathwise),
    "a location that jumps": (dist.Normal, Floored, Score),
    "a location that is cut off": (dist.Normal, CutOff, Score),
    "a prior that jumps": (Tilted, Squared, Score),
}


@pytest.mark.parametrize("kind", DENSITIES)
def test_a_density_of_the_users_own_is_followed(kind: str) -> None:
    prior, likelihood, expected = DENSITIES[kind]

    def model(x: Any) -> None:
        numpyro.sample("x", likelihood(1.0 * numpyro.sample("v", prior(0.0, 1.0))), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("v", dist.Normal(numpyro.param("t", jnp.array(0.4)), 1.0))

    assert isinstance(infer.plan(model, guide, jnp.array(0.7))["v"].estimator, expected)


def test_a_parameter_that_reaches_a_density_by_a_jump_alone_is_refused() -> None:
    def model(x: Any) -> None:
        numpyro.sample("x", Floored(numpyro.param("t", jnp.array(0.4))), obs=x)

    with pytest.raises(ProgramError, match="'t'"):
        infer.fit(model, None, jnp.array(0.7), steps=2, progress=False)
