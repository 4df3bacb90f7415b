"""Several runs of a program as one batch: a run is a pytree, the distributions that it holds included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from numpyro.distributions import Distribution

from ppl_gen.backends.jax.distributions import held_arrays
from ppl_gen.program import Run

Array = Any
CALLS = ("masses", "parameters", "divergences")  # what a run can be asked later, by functions that hold distributions
NAMES = tuple(field.name for field in fields(Run))


def each(function: Callable[[Array], Any], keys: Sequence[Array] | Array) -> list[Any]:
    """What `function` gives for every key of a list or an array of them, all run as one batch where that is possible.

    Whatever of a result is no array is the same for all keys.
    """
    if len(keys) == 1:
        return [function(keys[0])]
    kept: list[Any] = []

    def arrays(key: Array) -> list[Array]:
        leaves, tree = jax.tree.flatten(function(key))
        is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
        kept[:] = [tree, is_array, [None if a else leaf for leaf, a in zip(leaves, is_array, strict=True)]]
        return [leaf for leaf, a in zip(leaves, is_array, strict=True) if a]

    try:
        found = jax.vmap(arrays)(keys if isinstance(keys, jax.Array) else jnp.stack(list(keys)))
    except NotImplementedError:  # a callback to the host that cannot be batched, or a function inside a distribution
        return [function(key) for key in keys]
    tree, is_array, constants = kept
    parts = [jnp.unstack(leaf) for leaf in found]
    results = []
    for k in range(len(keys)):
        supply = (part[k] for part in parts)
        leaves = [next(supply) if a else c for a, c in zip(is_array, constants, strict=True)]
        results.append(jax.tree.unflatten(tree, leaves))
    return results


def _flatten(run: Run) -> tuple[list[Any], tuple[Any, ...]]:
    """A run's values, and their names in the order of the program, which a dict's own flattening would lose."""
    children, keys = [], []
    for name in NAMES:
        part = getattr(run, name)
        keys.append(tuple(part) if isinstance(part, Mapping) else None)
        values = list(part.values()) if isinstance(part, Mapping) else part
        children.append([_carried(call) for call in values] if name in CALLS else values)
    return children, tuple(keys)


def _unflatten(keys: tuple[Any, ...], children: Sequence[Any]) -> Run:
    run = Run()
    for name, own, part in zip(NAMES, keys, children, strict=True):
        setattr(run, name, part if own is None else dict(zip(own, part, strict=True)))
    return run


def _carried(call: Callable[..., Any]) -> Partial:
    """A function of distributions as a pytree.

    Raises:
        NotImplementedError: a distribution is not made of its arrays alone.
    """
    if isinstance(call, Partial):
        return call
    args = call.args if isinstance(call, partial) else ()
    for thing in args:
        if isinstance(thing, Distribution) and (held_arrays(thing) or not _is_known(thing)):
            raise NotImplementedError(f"{type(thing).__name__} in a batch of runs")
    return Partial(call.func, *args) if isinstance(call, partial) else Partial(call)


def _is_known(thing: Distribution) -> bool:
    """Whether it is NumPyro's own, of which all parts are declared."""
    return type(thing).__module__.startswith("numpyro.")


jax.tree_util.register_pytree_node(Run, _flatten, _unflatten)
