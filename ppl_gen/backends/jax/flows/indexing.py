"""Marks through indices: exact where the positions are known, else anything may come from, or go, anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn
from numpy.typing import NDArray

from ppl_gen.backends.jax.calls import shape_of
from ppl_gen.backends.jax.flows.words import (
    Constant,
    Present,
    Shape,
    Words,
    cut,
    fitted,
    full,
    gathered,
    union,
    values_of,
)


def dynamic_slice(eqn: JaxprEqn, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    """A part at places that may depend on values."""
    words, *starts = ins
    whole, sizes = shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
    known = values_of(constants[1:]) if words is not None else None
    if words is not None and known is not None:
        firsts = [min(max(int(k), 0), n - size) for k, n, size in zip(known, whole, sizes, strict=True)]
        words = cut(words, [slice(k, k + size) for k, size in zip(firsts, sizes, strict=True)])
    else:
        words = gathered(
            words, [i for i, (n, size) in enumerate(zip(whole, sizes, strict=True)) if n != size], keep=True
        )
    return [union(words, fitted(union(*starts), len(sizes)))]


def dynamic_update_slice(eqn: JaxprEqn, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    """A part is written at places that may depend on values."""
    words, update, *starts = ins
    whole, sizes = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])
    known = values_of(constants[2:]) if update is not None else None
    if update is not None and known is not None:
        firsts = [min(max(int(k), 0), n - size) for k, n, size in zip(known, whole, sizes, strict=True)]
        wide = full(words, whole).copy()
        wide[tuple(slice(k, k + size) for k, size in zip(firsts, sizes, strict=True))] = update
        words = wide
    else:
        parts = [i for i, (n, size) in enumerate(zip(whole, sizes, strict=True)) if n != size]
        words = union(words, gathered(update, parts, keep=True))
    return [union(words, fitted(union(*starts), len(whole)))]


def gather(eqn: JaxprEqn, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    """Slices at positions that an array holds."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    words, index = ins
    batch = shape_of(eqn.invars[1])[:-1]
    pairs = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    window = [axis for axis in range(len(sizes)) if axis not in numbers.collapsed_slice_dims and axis not in pairs]
    found: Words = None
    if words is not None and constants[1] is not None:
        places = _places(constants[1](), batch, shape_of(eqn.invars[0]), sizes, numbers.start_index_map, pairs, window)
        found = full(words, shape_of(eqn.invars[0]))[tuple(places)]
    elif words is not None:
        reduced = gathered(words, list(numbers.start_index_map), keep=True)
        assert reduced is not None
        reduced = cut(
            reduced, [slice(0, size) if axis not in pairs else slice(None) for axis, size in enumerate(sizes)]
        )
        rows = {dim: axis for axis, dim in pairs.items()}
        order = [rows[dim] for dim in sorted(rows)] + window
        rest = [axis for axis in range(len(sizes)) if axis not in order]
        front = [reduced.shape[rows[dim]] if dim in rows else 1 for dim in range(len(batch))]
        found = reduced.transpose(order + rest).reshape(front + [reduced.shape[axis] for axis in window])
    if index is not None:
        own = gathered(index, [-1])
        assert own is not None
        found = union(found, own.reshape(own.shape + (1,) * len(window)))
    return [None if found is None else _placed(found, len(batch), numbers.offset_dims)]


def _places(
    index: NDArray[Any],
    batch: Shape,
    whole: Shape,
    sizes: Shape,
    mapped: Sequence[int],
    pairs: dict[int, int],
    window: list[int],
) -> list[NDArray[Any]]:
    """For each axis of the operand the position that is read or written, as arrays that broadcast to batch + window."""
    places = []
    for axis in range(len(whole)):
        place = np.zeros((1,) * (len(batch) + len(window)), int)
        if axis in mapped:
            first = np.clip(index[..., list(mapped).index(axis)].astype(int), 0, whole[axis] - sizes[axis])
            place = first.reshape(batch + (1,) * len(window))
        elif axis in pairs:
            shape = [1] * (len(batch) + len(window))
            shape[pairs[axis]] = batch[pairs[axis]]
            place = np.arange(batch[pairs[axis]]).reshape(shape)
        if axis in window:
            shape = [1] * (len(batch) + len(window))
            shape[len(batch) + window.index(axis)] = sizes[axis]
            place = place + np.arange(sizes[axis]).reshape(shape)
        places.append(place)
    return places


def _placed(words: Present, width: int, offsets: Sequence[int]) -> Present:
    """Axes in the order of a gather's result: those of the window at `offsets`, those of the batch around them."""
    order: list[int] = []
    batch, window = iter(range(width)), iter(range(width, words.ndim))
    for axis in range(words.ndim):
        order.append(next(window) if axis in offsets else next(batch))
    return words.transpose(order)


def scatter(eqn: JaxprEqn, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    """Slices are written at positions that an array holds."""
    numbers = eqn.params["dimension_numbers"]
    words, index, updates = ins
    whole, batch = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])[:-1]
    pairs = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    window = [axis for axis in range(len(whole)) if axis not in numbers.inserted_window_dims and axis not in pairs]
    mapped = numbers.scatter_dims_to_operand_dims
    inside = list(numbers.update_window_dims)
    outside = [axis for axis in range(len(shape_of(eqn.invars[2]))) if axis not in inside]
    if updates is not None:
        updates = updates.transpose(outside + inside)
        lengths = [shape_of(eqn.invars[2])[axis] for axis in inside]
        sizes = tuple(lengths[window.index(axis)] if axis in window else 1 for axis in range(len(whole)))
        if constants[1] is not None:
            places = _places(constants[1](), batch, whole, sizes, mapped, pairs, window)
            wide = full(words, whole).copy()
            np.bitwise_or.at(wide, tuple(places), np.broadcast_to(updates, (*batch, *lengths)))
            words = wide
        else:
            moved = {axis for axis in window if axis in mapped or sizes[axis] != whole[axis]}
            words = union(
                words, _spread(updates, len(batch), whole, pairs, [a if a not in moved else None for a in window])
            )
    if index is not None:
        own = gathered(index, [-1])
        assert own is not None
        words = union(words, _spread(own, len(batch), whole, pairs, []))
    return [words]


def _spread(words: Present, width: int, whole: Shape, pairs: dict[int, int], window: list[int | None]) -> Words:
    """Words of batch + window axes over an operand that they may be written into anywhere; None among the axes: anywhere in it."""
    kept = {dim: axis for axis, dim in pairs.items()} | {width + i: a for i, a in enumerate(window) if a is not None}
    reduced = gathered(words, [dim for dim in range(words.ndim) if dim not in kept], keep=True)
    assert reduced is not None
    shape = [1] * len(whole)
    for dim, axis in kept.items():
        shape[axis] = reduced.shape[dim]
    order = sorted(kept, key=lambda dim: kept[dim])
    rest = [dim for dim in range(words.ndim) if dim not in kept]
    return reduced.transpose(order + rest).reshape(shape)
