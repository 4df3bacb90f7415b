"""What a NumPyro distribution is made of: its arrays, its parameters as features, its support."""

from __future__ import annotations

import copy
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, biject_to, constraints
from numpyro.distributions.constraints import Constraint

from ppl_gen.backends.divergence import finite_divergence
from ppl_gen.backends.held import held
from ppl_gen.backends.wrappers import Wrappers

WRAPPERS = Wrappers(dist.MaskedDistribution, dist.Independent, dist.ExpandedDistribution)
named, unmasked, is_unchecked = WRAPPERS.named, WRAPPERS.unmasked, WRAPPERS.is_unchecked


def arrays(thing: object) -> list[Array]:
    """Every array inside a distribution or constraint (both are pytrees)."""
    return [leaf for leaf in jax.tree.leaves(thing) if isinstance(leaf, jax.Array)]


def held_arrays(distribution: Distribution) -> list[Array]:
    """The arrays that functions inside a distribution hold (the drift of a stochastic differential equation)."""
    return arrays(list(held(distribution, jax.Array)))


def satisfies(constraint: Constraint, value: ArrayLike) -> np.ndarray:
    """Where a value lies in a constraint, by NumPy where it can: an eager operation of JAX compiles for every shape."""
    known = np.asarray(value)
    try:
        return np.asarray(constraint(known))
    except (AttributeError, TypeError):  # what only JAX's arrays have
        return np.asarray(constraint(jnp.asarray(known)))


def bad_argument(distribution: Distribution) -> tuple[str, str, Any] | None:
    """(name, constraint, value) of the first argument, of what it is built from too, that is not as it should be."""
    own = {} if is_unchecked(distribution) else distribution.get_args()
    for name, value in own.items():
        constraint = distribution.arg_constraints[name]
        if not constraints.is_dependent(constraint) and not np.all(inside := satisfies(constraint, value)):
            whole = np.asarray(value)
            worst = whole[~inside].flat[0] if np.shape(inside) == whole.shape else whole.tolist()
            return name, str(constraint), worst
    parts = jax.tree.leaves(distribution, is_leaf=lambda node: node is not distribution and _is_distribution(node))
    return next((bad for part in parts if _is_distribution(part) and (bad := bad_argument(part))), None)


def _is_distribution(node: object) -> bool:
    return isinstance(node, dist.Distribution)


def seen(distribution: Distribution, value: Array | np.ndarray) -> Array:
    """The value with something feasible wherever a mask keeps it from counting, as NumPyro's own masked density has it."""
    found: Any = value
    support = unmasked(distribution).support
    while isinstance(distribution, WRAPPERS.all):
        if isinstance(distribution, dist.MaskedDistribution) and distribution._mask is not True:
            mask = jnp.asarray(distribution._mask)
            mask = mask.reshape(mask.shape + (1,) * len(distribution.event_shape))
            found = jnp.where(mask, found, support.feasible_like(found).astype(found.dtype))
        distribution = distribution.base_dist
    return found


def corrected(distribution: Distribution) -> Distribution:
    """The distribution with Bernoulli and binomial logits moved off an exact zero, by 1e-30.

    NumPyro 0.22 writes their log density with max(logits, 0) and |logits|, whose derivatives at 0 do not add up: the
    gradient there is 1 - y instead of 1/2 - y. Zero is where most parameters start.
    """
    broken = (dist.BernoulliLogits, dist.BinomialLogits)

    def mend(node: object) -> object:
        if not isinstance(node, broken):
            return node
        mended = copy.copy(node)
        logits = jnp.asarray(node.logits, dtype=jnp.result_type(float))
        mended.logits = logits + jnp.where(logits == 0, 1e-30, 0.0)
        return mended

    return jax.tree.map(mend, distribution, is_leaf=lambda node: isinstance(node, broken))


def features(distribution: Distribution) -> Array | None:
    """The distribution's parameters as one constant array, batch shape + (features,); None where it has none."""
    base, batch = named(distribution), tuple(distribution.batch_shape)
    parts = []
    for name, constraint in base.arg_constraints.items():
        value = vars(base).get(name)
        if value is None or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            continue
        value = jax.lax.stop_gradient(jnp.asarray(value))
        num_event = _event_dim(constraint, base, value)
        event = value.shape[value.ndim - num_event :]
        full = jnp.broadcast_shapes(tuple(base.batch_shape), value.shape[: value.ndim - num_event])
        if full[: len(batch)] != batch:
            if full and math.prod(full) != 1:
                continue
            value, full = value.reshape(event), batch
        parts.append(jnp.broadcast_to(value, full + event).reshape(batch + (-1,)))
    return jnp.concatenate(parts, -1) if parts else None


def _event_dim(constraint: Constraint, base: Distribution, value: Array) -> int:
    """Trailing dimensions of one parameter that belong to a single element of the batch."""
    try:
        return int(getattr(constraint, "event_dim", 0))
    except NotImplementedError:  # a Delta's value, say, whose constraint depends on the distribution's other parameters
        return min(len(base.event_shape), value.ndim)


def log_masses(distribution: Distribution) -> Array:
    """Log probability of every value of a finite distribution's elements, batch + event + (levels,), nats."""
    base = corrected(named(distribution))
    masses = jnp.moveaxis(base.log_prob(base.enumerate_support(expand=False)), 0, -1)
    return jnp.broadcast_to(masses, (*distribution.batch_shape, *distribution.event_shape, masses.shape[-1]))


def parameters(distribution: Distribution) -> dict[str, Array]:
    """A distribution's own scalar parameters by name, broadcast to batch + event."""
    base, shape = named(distribution), (*distribution.batch_shape, *distribution.event_shape)
    given = {name: vars(base).get(name) for name in base.arg_constraints}
    return {name: jnp.broadcast_to(value, shape) for name, value in given.items() if value is not None}


def divergence(q: Distribution, p: Distribution) -> Array | None:
    """KL(q || p), batch shape, nats; None where no formula is known."""
    if q.batch_shape != p.batch_shape or q.event_shape != p.event_shape:
        return None
    try:
        return dist.kl_divergence(q, p)
    except NotImplementedError:
        return _finite_divergence(q, p)


def _finite_divergence(q: Distribution, p: Distribution) -> Array | None:
    """KL(q || p) of binary or categorical elements of as many levels, of which NumPyro knows few."""
    kinds = {type(named(d)).__name__.removesuffix("Logits").removesuffix("Probs") for d in (q, p)}
    if kinds not in ({"Bernoulli"}, {"Categorical"}) or num_values(q) != num_values(p):
        return None
    return finite_divergence(jnp, log_masses(q), log_masses(p), len(q.event_shape))


def support(distribution: Distribution) -> tuple[str, int | None]:
    """("real" | "finite" | "countable", number of values of one batch element or None)."""
    constraint = distribution.support
    if constraint is None or not getattr(constraint, "is_discrete", False):
        return "real", None
    values = num_values(distribution)
    if values is None:
        return "countable", None
    num_elements = math.prod(distribution.event_shape) // math.prod(named(distribution).event_shape)
    return "finite", None if num_elements > 16 else int(values**num_elements)


def num_values(distribution: Distribution) -> int | None:
    """Number of values of one element of a finite support; None for others."""
    base = named(distribution)
    try:
        return int(base.enumerate_support(expand=False).shape[0]) if base.has_enumerate_support else None
    except NotImplementedError:  # binomials of several total counts
        return None


def choose(distribution: Distribution, index: int) -> Array:
    """The `index`-th value of a finite distribution, at every batch element."""
    base = named(distribution)
    values = base.enumerate_support(expand=False)
    values = values.reshape((len(values),) + tuple(base.event_shape))
    num_elements = math.prod(distribution.event_shape) // math.prod(base.event_shape)
    digits = jnp.array([(index // len(values) ** place) % len(values) for place in range(num_elements)])
    value = values[digits].reshape(distribution.event_shape)
    return jnp.broadcast_to(value, tuple(distribution.batch_shape) + tuple(distribution.event_shape))


def values_to_try(distribution: Distribution, value: Array, key: Array) -> list[Array]:
    """Other values to try: the next of a finite support at every element, its two ends, and fresh draws."""
    base, bare = named(distribution), unmasked(distribution)
    draws = [bare.sample(jax.random.fold_in(key, number)) for number in range(2)]
    if num_values(base) and not base.event_shape:
        # In NumPy, as JAX would compile each operation by itself.
        known, values = np.asarray(value), np.asarray(base.enumerate_support(expand=False)).reshape(-1)
        index = np.argmax(known[..., None] == values, -1)
        ends = [np.full_like(known, end) for end in (values[0], values[-1])]
        return [values[(index + 1) % len(values)], *ends, *draws]
    if getattr(bare.support, "is_discrete", False) or type(base).__name__ == "Delta":
        return draws
    shape = biject_to(bare.support).inverse_shape(tuple(bare.batch_shape) + tuple(bare.event_shape))
    return [*draws, *(biject_to(bare.support)(jnp.full(shape, 8.0 * sign)) for sign in (1, -1))]
