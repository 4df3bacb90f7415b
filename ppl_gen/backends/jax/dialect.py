"""Portable statements as NumPyro's own primitives, and the array namespace over jax.numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import biject_to, constraints

from ppl_gen.backends.jax.density import Density
from ppl_gen.backends.jax.particles import each
from ppl_gen.program.arrays import Namespace

Array = Any
dist = numpyro.distributions


def _noise(draw: Callable[..., Array]) -> Callable[[tuple[int, ...]], Array]:
    return lambda shape: draw(numpyro.prng_key(), tuple(shape))


def _value_and_slope(function: Callable[[Array], tuple[Array, Array]], at: Array) -> tuple[Array, Array]:
    """(the second result, the derivative of the first, a scalar) of a function at a place."""
    slope, value = jax.grad(function, has_aux=True)(jax.lax.stop_gradient(at))
    return jax.lax.stop_gradient(value), jax.lax.stop_gradient(slope)


xp = Namespace(
    jnp,
    scan=jax.lax.scan,
    each=each,
    softplus=jax.nn.softplus,
    sigmoid=jax.nn.sigmoid,
    relu=jax.nn.relu,
    leaky_relu=lambda x, slope=0.01: jax.nn.leaky_relu(x, slope),
    log_sigmoid=jax.nn.log_sigmoid,
    softmax=lambda x, axis=-1: jax.nn.softmax(x, axis=axis),
    log_softmax=lambda x, axis=-1: jax.nn.log_softmax(x, axis=axis),
    logsumexp=lambda x, axis=-1, keepdims=False: jax.nn.logsumexp(x, axis=axis, keepdims=keepdims),
    one_hot=lambda indices, num: jax.nn.one_hot(indices.astype(int), num),
    int64=jax.dtypes.canonicalize_dtype("int64"),  # what JAX makes of them, without its warning
    float64=jax.dtypes.canonicalize_dtype("float64"),
    lgamma=jax.scipy.special.gammaln,
    erf=jax.scipy.special.erf,
    stop_gradient=jax.lax.stop_gradient,
    uniform_like=lambda key, like: jax.random.uniform(key, like.shape, minval=1e-7),
    split_key=lambda key, number: list(jax.random.split(key, number)),
    value_and_slope=_value_and_slope,
    random=Namespace(None, uniform=_noise(jax.random.uniform), normal=_noise(jax.random.normal)),
)
one_by_one = Namespace(xp, each=lambda function, keys: [function(key) for key in keys])  # values can be looked at


def sample(name: str, distribution: Any, obs: Array | None, infer: Mapping[str, Any] | None) -> Array:
    """See `ppl_gen.language.sample`."""
    return numpyro.sample(name, distribution, obs=obs, infer=dict(infer or {}))


def param(name: str, init: Array | Callable[[], Array] | None, constraint: Any) -> Array:
    """See `ppl_gen.language.param`."""
    start = (lambda key: init()) if callable(init) else init
    return numpyro.param(name, start, constraint=constraints.real if constraint is None else constraint)


def plate(name: str, size: int, subsample_size: int | None, dim: int | None) -> AbstractContextManager[Any]:
    """See `ppl_gen.language.plate`."""
    return numpyro.plate(name, size, subsample_size=subsample_size, dim=dim)


def module(name: str, network: Any) -> Any:
    """See `ppl_gen.language.module`."""
    from numpyro.contrib import module as modules

    if any(base.__module__.startswith("flax.nnx") for base in type(network).__mro__):
        return modules.nnx_module(name, network)
    if any(base.__module__.startswith("equinox") for base in type(network).__mro__):
        return modules.eqx_module(name, network)
    raise TypeError(
        f"module '{name}': expected a flax.nnx or equinox module on the jax backend; got {type(network).__name__}. "
        "Build the network with one of these, or from ppl_gen.nn layers."
    )


def deterministic(name: str, value: Array) -> Array:
    """See `ppl_gen.language.deterministic`."""
    return numpyro.deterministic(name, value)


def factor(name: str, log_factor: Array, has_rsample: bool | None = None) -> None:
    """See `ppl_gen.language.factor`."""
    if has_rsample is None:
        numpyro.factor(name, log_factor)
    else:  # NumPyro's own says nothing of it
        unit = dist.Unit(log_factor)
        infer = {"is_auxiliary": True, "has_rsample": has_rsample}
        numpyro.sample(name, unit, obs=unit.sample(None), infer=infer)


def density(
    name: str,
    log_prob: Callable[[Array], Array],
    draw: Callable[[], Array],
    obs: Array | None,
    infer: Mapping[str, Any] | None,
) -> Array:
    """See `ppl_gen.language.density`."""
    return numpyro.sample(name, Density(log_prob, draw, obs), obs=obs, infer=dict(infer or {}))


def normal_on(support: Any, loc: Array, scale: Array, event_dim: int) -> Any:
    """A normal pushed onto `support` by its bijection."""
    base = dist.Normal(loc, scale).to_event(biject_to(support).domain.event_dim)
    moved = base if support is constraints.real else dist.TransformedDistribution(base, biject_to(support))
    return moved.to_event(event_dim - len(moved.event_shape))


def unconstrained_shape(support: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the reals that stand for a value of `shape` on `support`."""
    return tuple(biject_to(support).inverse_shape(shape))
