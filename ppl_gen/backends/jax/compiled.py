"""Functions of a batch, compiled: what of it is an argument, what Python may read, and which results are kept.

Data are arguments where they can be: then one compilation serves every batch of their shapes. A program that reads data on
the host (``int(np.max(group)) + 1``) gets those as constants, as in NumPyro: first its integers, then all.
"""

from __future__ import annotations

import hashlib
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.program import Batch

LEAVES_TRACER = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
)
NUMBERS, ARRAYS, REALS, NOTHING = range(4)  # what is an argument: numbers with a point and arrays, arrays, real arrays
KEPT = 16  # compiled functions


class HostArray(np.ndarray):
    """An array that Python may read, and that a traced index may cut all the same."""

    def __getitem__(self, index: Any) -> Any:
        """As in NumPy; a traced index gives a traced array."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(index)):
            return jnp.asarray(np.asarray(self))[index]
        return super().__getitem__(index)


def on_host(batch: Batch, level: int) -> Batch:
    """The batch with the arrays that are no arguments at this level as NumPy arrays; traced ones stay."""
    found = jax.tree.map(lambda leaf: _hosted(leaf, level), (batch.args, dict(batch.kwargs), batch.rows))
    return Batch(found[0], found[1], batch.scale, found[2])


def _hosted(leaf: Any, level: int) -> Any:
    return leaf if not _is_array(leaf) or _is_argument(leaf, level) else np.asarray(leaf).view(HostArray)


def _is_array(leaf: Any) -> TypeGuard[jax.Array | np.ndarray]:
    """Whether it is one whose values are known."""
    return isinstance(leaf, jax.Array | np.ndarray) and not isinstance(leaf, jax.core.Tracer)


def _is_argument(leaf: Any, level: int) -> bool:
    if isinstance(leaf, float):
        return level == NUMBERS
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return key or level <= ARRAYS or (level == REALS and jnp.issubdtype(leaf.dtype, jnp.inexact))


def split_batch(
    batch: Batch, level: int = ARRAYS
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Batch], Hashable]:
    """(arguments, what rebuilds the batch from them, all else: what a compiled function has burnt in)."""
    leaves, tree = jax.tree.flatten((batch.args, dict(batch.kwargs), batch.rows))
    is_argument = [_is_argument(leaf, level) for leaf in leaves]
    constants = [None if dynamic else _hosted(leaf, level) for leaf, dynamic in zip(leaves, is_argument, strict=True)]
    given = [leaf for leaf, dynamic in zip(leaves, is_argument, strict=True) if dynamic]

    def join(given: list[jax.Array]) -> Batch:
        supply = iter(given)
        full = [next(supply) if dynamic else c for c, dynamic in zip(constants, is_argument, strict=True)]
        args, kwargs, rows = jax.tree.unflatten(tree, full)
        return Batch(args, kwargs, batch.scale, rows)

    return given, join, (tuple(map(_content, constants)), tree, batch.scale, *shapes(given))


def _content(constant: Any) -> Hashable:
    """A constant as part of a key."""
    if not _is_array(constant):
        return type(constant), repr(constant)
    return constant.shape, str(constant.dtype), hashlib.sha1(np.ascontiguousarray(constant).data).digest()


def shapes(given: list[jax.Array]) -> list[Hashable]:
    """Shapes and types of arguments; every plain number is like every other."""
    return [(a.shape, str(a.dtype)) if hasattr(a, "shape") else float for a in given]


class Same:
    """An object as part of a key: equal to itself only."""

    def __init__(self, *objects: Any) -> None:
        self._objects = objects

    def __hash__(self) -> int:
        return hash(tuple(map(id, self._objects)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and all(a is b for a, b in zip(self._objects, other._objects, strict=True))


class Compiled:
    """Compiled functions, the last `KEPT` of them.

    Args:
        level: of what is an argument; it rises where a program reads data on the host.
    """

    def __init__(self, level: int = NUMBERS) -> None:
        self.level = level
        self._kept: OrderedDict[Hashable, Callable[..., Any]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The compiled function of this key, made where it is not known."""
        if key not in self._kept:
            self._kept[key] = jax.jit(make())
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def call(self, name: Hashable, function: Callable[..., Any], batch: Batch, *rest: Any) -> Any:
        """``function(batch, *rest)``; one `name` always means the same function and the same kinds of `rest`."""
        while True:
            given, join, key = split_batch(batch, self.level)
            quick = self.get((name, key), lambda: lambda given, *rest: function(join(given), *rest))  # noqa: B023
            try:
                return quick(given, *rest)
            except LEAVES_TRACER:
                if self.level == NOTHING:
                    raise
                self.level += 1


def user_line(error: BaseException) -> str:
    """Where in the user's own text an error arose, as ``"model.py:12: TracerBoolConversionError"``."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    own = [f for f in frames if "/ppl_gen/" not in f.filename] or frames
    return f"{own[-1].filename.rsplit('/', 1)[-1]}:{own[-1].lineno}: {type(error).__name__}"
