"""What `ppl_gen.backends.interface.Library` asks of NumPyro."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from ppl_gen.backends.interface import Distribution, Message
from ppl_gen.backends.jax.distributions import (
    bad_argument,
    choose,
    corrected,
    divergence,
    features,
    is_unchecked,
    log_masses,
    num_values,
    parameters,
    satisfies,
    seen,
    support,
    unmasked,
)
from ppl_gen.errors import ProgramError

__all__ = [
    "as_now",
    "check_distribution",
    "choose",
    "constraint_of",
    "counted",
    "cut",
    "divergence",
    "features",
    "is_reparametrized",
    "is_unchecked",
    "log_density",
    "log_masses",
    "num_features",
    "num_values",
    "parameters",
    "satisfies",
    "support",
    "to_host",
    "total",
    "unmasked",
    "weigh",
]


def log_density(message: Message[jax.Array], distribution: Distribution) -> jax.Array:
    """The log density of a site's value, nats, before the scales around it."""
    return jnp.asarray(corrected(distribution).log_prob(message.value, *message.args, **message.kwargs))


def weigh(log_prob: jax.Array, scale: jax.Array | float, mask: jax.Array | bool | None) -> jax.Array:
    """A log density, scaled; NumPyro's masks are in the distribution."""
    return log_prob * scale


def total(array: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum over these axes, which are kept with size 1."""
    return array.sum(axes, keepdims=True)


def cut(value: jax.Array) -> jax.Array:
    """The same value, which passes no gradient."""
    return jax.lax.stop_gradient(value)


def as_now(value: jax.Array | float) -> jax.Array | float:
    """A scale as it is now: arrays do not change."""
    return value


def num_features(distribution: Distribution) -> int | None:
    """The width of `features`."""
    inputs = jax.eval_shape(lambda: features(distribution))
    return None if inputs is None else int(inputs.shape[-1])


def is_reparametrized(distribution: Distribution) -> bool:
    """Whether the distribution's own sampler passes the whole gradient."""
    return bool(distribution.has_rsample)


def constraint_of(distribution: Distribution) -> Any:
    """The constraint that observations are held to: the support, or the reals for a class that states none."""
    return unmasked(distribution).support or constraints.real


def counted(message: Message[jax.Array]) -> jax.Array:
    """A site's value with something feasible wherever it does not count."""
    return seen(message.distribution, np.asarray(message.value))


def check_distribution(message: Message[jax.Array]) -> None:
    """Raise on a distribution whose parameters are not as they should be."""
    bad = bad_argument(message.distribution)
    if bad is not None:
        name, constraint, value = bad
        raise ProgramError(
            f"{message.where}: expected its {name} to be {constraint}; got {value}. Check what the site depends on, and its "
            "constraints."
        )


def to_host(value: object) -> np.ndarray:
    """An array, or a plain number, as a NumPy array."""
    return np.asarray(value)
