"""States as trees of arrays: their types, their names in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppl_gen.errors import ProgramError


def strong(tree: Any) -> Any:
    """The same arrays without weak types, which would compile a function of them anew."""
    return jax.tree.map(_strong, tree)


def _strong(leaf: Any) -> Array:
    if isinstance(leaf, jax.core.Tracer):
        return leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, leaf.dtype)
    weak = getattr(leaf, "weak_type", not isinstance(leaf, Array))
    return jnp.asarray(np.asarray(leaf, dtype=jnp.result_type(leaf))) if weak else leaf


def like_before(buffers: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The state that the program itself carries on, as arrays of the types it had before.

    Raises:
        ProgramError: it is of another form, which no compiled loop can carry.
    """
    for name, old in before.items():
        found, expected = _form(buffers[name]), _form(old)
        if found != expected:
            raise ProgramError(
                f"mutable '{name}': expected state of one form at every step, {expected[0]}; got {found[0]}. Start it with arrays of "
                "the shapes and types that it has later."
            )
    return {
        name: jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), buffers[name], before[name]) for name in before
    }


def _form(tree: Any) -> tuple[list[str], Any]:
    """(type and shape of every leaf, the containers)."""
    leaves, containers = jax.tree.flatten(tree)
    return [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in leaves], containers


def flatten(state: Any) -> dict[str, np.ndarray]:
    """Name in a file -> leaf, a random key as the words it is made of."""
    return {name: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for name, leaf in _named(state)}


def unflatten(state: Any, flat: Mapping[str, np.ndarray]) -> Any:
    """The state with these leaves."""

    def loaded(leaf: Array, value: np.ndarray) -> Array:
        return jax.random.wrap_key_data(jnp.asarray(value)) if _is_key(leaf) else jnp.asarray(value, leaf.dtype)

    leaves = [loaded(leaf, flat[name]) for name, leaf in _named(state)]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def _is_key(leaf: Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _named(state: Any) -> Iterable[tuple[str, Array]]:
    """(name in a file, leaf); the random state is called key there."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)
        yield ("key" if name == "random" else name), leaf
