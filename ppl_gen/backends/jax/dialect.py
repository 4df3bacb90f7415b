"""Portable statements as NumPyro's own primitives, and the array namespace over jax.numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array
from numpyro.distributions import Distribution, biject_to, constraints
from numpyro.distributions.constraints import Constraint

from ppl_gen.backends.jax.density import Density
from ppl_gen.backends.jax.particles import each
from ppl_gen.backends.statements import Statements
from ppl_gen.program.arrays import Namespace

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


statements: Statements[Array, Distribution, Constraint] = Statements(numpyro, biject_to, Density)
sample, plate, deterministic, density = (
    statements.sample,
    statements.plate,
    statements.deterministic,
    statements.density,
)
normal_on, unconstrained_shape = statements.normal_on, statements.unconstrained_shape


def param(name: str, init: Array | Callable[[], Array] | None, constraint: Constraint | None) -> Array:
    """See `ppl_gen.language.param`."""
    start = (lambda key: init()) if callable(init) else init
    return numpyro.param(name, start, constraint=constraints.real if constraint is None else constraint)


def module(name: str, network: object) -> Callable[..., Any]:
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


def factor(name: str, log_factor: Array, has_rsample: bool | None = None) -> None:
    """See `ppl_gen.language.factor`."""
    if has_rsample is None:
        numpyro.factor(name, log_factor)
    else:  # NumPyro's own says nothing of it
        unit = dist.Unit(log_factor)
        infer = {"is_auxiliary": True, "has_rsample": has_rsample}
        numpyro.sample(name, unit, obs=unit.sample(None), infer=infer)
