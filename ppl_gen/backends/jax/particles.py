"""Several runs of a program as one batch: a run is a pytree, the distributions that it holds included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import Partial, PyTreeDef
from numpyro.distributions import Distribution

from ppl_gen.backends.jax.distributions import held_arrays
from ppl_gen.program import Run

CALLS = ("masses", "parameters", "divergences")  # what a run can be asked later, by functions that hold distributions
NAMES = tuple(field.name for field in fields(Run))


def each(function: Callable[[Array], Any], keys: Sequence[Array] | Array) -> list[Any]:
    """What `function` gives for every key of a list or an array of them, all run as one batch where that is possible.

    Whatever of a result is no array is the same for all keys.
    """
    if len(keys) == 1:
        return [function(keys[0])]
    kept: list[_Rest] = []

    def arrays(key: Array) -> list[Array | np.ndarray]:
        leaves, rest = _divided(function(key))
        kept[:] = [rest]
        return leaves

    try:
        found = jax.vmap(arrays)(keys if isinstance(keys, jax.Array) else jnp.stack(list(keys)))
    except NotImplementedError:  # a callback to the host that cannot be batched, or a function inside a distribution
        return [function(key) for key in keys]
    parts = [jnp.unstack(leaf) for leaf in found]
    return [_joined([part[k] for part in parts], kept[0]) for k in range(len(keys))]


_Rest = tuple[PyTreeDef, list[tuple[bool, object]]]
"""What is left of a tree without its arrays: its structure; of each leaf whether it is one, else the leaf."""


def _divided(tree: object) -> tuple[list[Array | np.ndarray], _Rest]:
    """The arrays of a tree, and the rest."""
    leaves, structure = jax.tree.flatten(tree)
    found = [leaf for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray)]
    rest = [(is_array := isinstance(leaf, jax.Array | np.ndarray), None if is_array else leaf) for leaf in leaves]
    return found, (structure, rest)


def _joined(arrays: Sequence[Array], rest: _Rest) -> Any:
    """A tree of these arrays and the rest."""
    structure, kept = rest
    supply = iter(arrays)
    return jax.tree.unflatten(structure, [next(supply) if is_array else leaf for is_array, leaf in kept])


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
