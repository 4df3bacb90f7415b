"""Marks through indices: exact where the positions are known, else anything may come from, or go, anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        words = cut(words, _slices(known, whole, sizes))
    else:
        words = gathered(words, _partial(whole, sizes), keep=True)
    return [union(words, fitted(union(*starts), len(sizes)))]


def dynamic_update_slice(eqn: JaxprEqn, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    """A part is written at places that may depend on values."""
    words, update, *starts = ins
    whole, sizes = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])
    known = values_of(constants[2:]) if update is not None else None
    if update is not None and known is not None:
        wide = full(words, whole).copy()
        wide[tuple(_slices(known, whole, sizes))] = update
        words = wide
    else:
        words = union(words, gathered(update, _partial(whole, sizes), keep=True))
    return [union(words, fitted(union(*starts), len(whole)))]


def _slices(starts: Sequence[NDArray[Any]], whole: Shape, sizes: Shape) -> list[slice]:
    """A slice of each axis, moved inside of the array."""
    firsts = [min(max(int(k), 0), n - size) for k, n, size in zip(starts, whole, sizes, strict=True)]
    return [slice(k, k + size) for k, size in zip(firsts, sizes, strict=True)]


def _partial(whole: Shape, sizes: Shape) -> list[int]:
    """The axes of which a slice is but a part."""
    return [axis for axis, (n, size) in enumerate(zip(whole, sizes, strict=True)) if n != size]


@dataclass(frozen=True)
class _Layout:
    """How slices lie in an operand, and beside the array that holds their positions.

    Attributes:
        whole: shape of the operand.
        sizes: of a slice, along each axis of the operand.
        batch: shape of the array of positions, its last axis left out.
        mapped: the axes of the operand along which a position moves a slice.
        pairs: axis of the operand -> axis of the batch, along which each slice stays in its own row.
        window: the other axes of the operand that a slice keeps.
    """

    whole: Shape
    sizes: Shape
    batch: Shape
    mapped: Sequence[int]
    pairs: Mapping[int, int]
    window: Sequence[int]

    def places(self, index: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """For each axis of the operand the positions that are read or written, to broadcast to batch + window."""
        return tuple(self._place(axis, index) for axis in range(len(self.whole)))

    def _place(self, axis: int, index: NDArray[Any]) -> NDArray[Any]:
        width = len(self.batch)
        place = np.zeros((1,) * (width + len(self.window)), int)
        if axis in self.mapped:
            first = index[..., list(self.mapped).index(axis)].astype(int)
            last = self.whole[axis] - self.sizes[axis]
            place = np.clip(first, 0, last).reshape(self.batch + (1,) * len(self.window))
        elif axis in self.pairs:
            place = self._along(self.pairs[axis], self.batch[self.pairs[axis]])
        if axis in self.window:
            place = place + self._along(width + self.window.index(axis), self.sizes[axis])
        return place

    def _along(self, dim: int, size: int) -> NDArray[Any]:
        """Positions along one of the axes of batch + window."""
        shape = [1] * (len(self.batch) + len(self.window))
        shape[dim] = size
        return np.arange(size).reshape(shape)

    def taken(self, words: Present) -> Present:
        """Words of batch + window axes of what may be read from anywhere along the mapped axes."""
        loose = gathered(words, list(self.mapped), keep=True)
        assert loose is not None
        parts = [slice(None) if axis in self.pairs else slice(0, size) for axis, size in enumerate(self.sizes)]
        loose = cut(loose, parts)
        rows = {dim: axis for axis, dim in self.pairs.items()}
        order = [*(rows[dim] for dim in sorted(rows)), *self.window]
        rest = [axis for axis in range(len(self.sizes)) if axis not in order]
        front = [loose.shape[rows[dim]] if dim in rows else 1 for dim in range(len(self.batch))]
        return loose.transpose(order + rest).reshape(front + [loose.shape[axis] for axis in self.window])

    def spread(self, words: Present, window: Sequence[int | None] = ()) -> Present:
        """Words of batch + window axes over the operand, where they may be written anywhere; `window`: as `still`."""
        width = len(self.batch)
        kept = {dim: axis for axis, dim in self.pairs.items()}
        kept |= {width + i: axis for i, axis in enumerate(window) if axis is not None}
        reduced = gathered(words, [dim for dim in range(words.ndim) if dim not in kept], keep=True)
        assert reduced is not None
        shape = [1] * len(self.whole)
        for dim, axis in kept.items():
            shape[axis] = reduced.shape[dim]
        order = sorted(kept, key=lambda dim: kept[dim])
        rest = [dim for dim in range(words.ndim) if dim not in kept]
        return reduced.transpose(order + rest).reshape(shape)

    @property
    def still(self) -> list[int | None]:
        """The axes of the window; None for one along which a slice may lie anywhere."""
        return [None if a in self.mapped or self.sizes[a] != self.whole[a] else a for a in self.window]


def gather(eqn: JaxprEqn, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    """Slices at positions that an array holds."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    words, index = ins
    pairs = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    window = [axis for axis in range(len(sizes)) if axis not in numbers.collapsed_slice_dims and axis not in pairs]
    whole, batch = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])[:-1]
    layout = _Layout(whole, sizes, batch, numbers.start_index_map, pairs, window)
    found: Words = None
    if words is not None:
        known = constants[1]
        found = layout.taken(words) if known is None else full(words, whole)[layout.places(known())]
    own = gathered(index, [-1])
    if own is not None:
        found = union(found, own.reshape(own.shape + (1,) * len(window)))
    return [None if found is None else _placed(found, len(batch), numbers.offset_dims)]


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
    whole, given = shape_of(eqn.invars[0]), shape_of(eqn.invars[2])
    pairs = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    window = [axis for axis in range(len(whole)) if axis not in numbers.inserted_window_dims and axis not in pairs]
    inside = list(numbers.update_window_dims)
    lengths = dict(zip(window, (given[axis] for axis in inside), strict=True))
    sizes = tuple(lengths.get(axis, 1) for axis in range(len(whole)))
    batch = shape_of(eqn.invars[1])[:-1]
    layout = _Layout(whole, sizes, batch, numbers.scatter_dims_to_operand_dims, pairs, window)
    if updates is not None:
        updates = updates.transpose([axis for axis in range(len(given)) if axis not in inside] + inside)
        words = _written(words, updates, layout, constants[1])
    own = gathered(index, [-1])
    return [words if own is None else union(words, layout.spread(own))]


def _written(words: Words, updates: Present, layout: _Layout, index: Constant) -> Words:
    """Words of an operand after updates, of batch + window axes, were written into it."""
    if index is None:
        return union(words, layout.spread(updates, layout.still))
    wide = full(words, layout.whole).copy()
    lengths = [layout.sizes[axis] for axis in layout.window]
    np.bitwise_or.at(wide, layout.places(index()), np.broadcast_to(updates, (*layout.batch, *lengths)))
    return wide
