"""Marks through primitives that move elements, or act on them one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ppl_gen.backends.jax.calls import shape_of
from ppl_gen.backends.jax.flows.words import (
    Constant,
    Present,
    Shape,
    Words,
    cut,
    everything,
    fitted,
    full,
    union,
)


def broadcast(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Into more dimensions."""
    words = ins[0]
    if words is None:
        return [None]
    shape = [1] * len(eqn.params["shape"])
    for size, axis in zip(words.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return [words.reshape(shape)]


def reshape(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Into another shape."""
    old, new = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    return [None if ins[0] is None else reshaped(ins[0], old, new)]


def reshaped(words: Present, old: Shape, new: Shape) -> Present:
    """Words of an array of shape `old` as those of shape `new`; what is the same along an axis stays so where it can."""
    if words.size == 1 or math.prod(new) == 0:
        return words.reshape(-1)[:1].reshape((1,) * len(new)) if words.size else np.zeros((1,) * len(new), np.int64)
    target: list[int] = []
    expanded: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        ends = _group(old, new, i, j)
        sizes, spread = words.shape[i : ends[0]], old[i : ends[0]]
        if all(size == 1 for size in sizes):
            expanded += sizes
            target += [1] * (ends[1] - j)
        else:
            expanded += spread
            target += new[j : ends[1]]
        i, j = ends
    result: Present = np.broadcast_to(words, expanded).reshape(target)
    return result


def _group(old: Shape, new: Shape, i: int, j: int) -> tuple[int, int]:
    """Ends of the shortest runs of axes from i and j on that hold as many elements."""
    first, second = old[i : i + 1], new[j : j + 1]
    while math.prod(first) != math.prod(second):
        if math.prod(first) < math.prod(second):
            first = old[i : i + len(first) + 1]
        else:
            second = new[j : j + len(second) + 1]
    return i + len(first), j + len(second)


def transpose(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Into another order of the axes."""
    return [None if ins[0] is None else ins[0].transpose(eqn.params["permutation"])]


def squeeze(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Without axes of length 1."""
    return [None if ins[0] is None else ins[0].squeeze(tuple(eqn.params["dimensions"]))]


def rev(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Backwards."""
    return [None if ins[0] is None else np.flip(ins[0], tuple(eqn.params["dimensions"]))]


def static_slice(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """A part at places that the program writes down."""
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return [None if ins[0] is None else cut(ins[0], list(map(slice, starts, limits, strides)))]


def pad(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """With a value around and between the elements."""
    words, value = ins
    config, shape = eqn.params["padding_config"], shape_of(eqn.outvars[0])
    if words is not None:
        padded = [axis for axis, (low, high, inner) in enumerate(config) if low or high or inner]
        old = shape_of(eqn.invars[0])
        words = np.broadcast_to(words, [old[a] if a in padded else s for a, s in enumerate(words.shape)])
        for axis in padded:
            low, _, inner = config[axis]
            places = low + np.arange(old[axis]) * (inner + 1)
            inside = (places >= 0) & (places < shape[axis])
            wide = np.zeros((*words.shape[:axis], shape[axis], *words.shape[axis + 1 :]), np.int64)
            wide[(slice(None),) * axis + (places[inside],)] = np.compress(inside, words, axis)
            words = wide
    return [union(words, fitted(value, len(shape)))]


def concatenate(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Arrays one after the other."""
    axis, ndim = eqn.params["dimension"], len(shape_of(eqn.outvars[0]))
    parts = [np.zeros((1,) * ndim, np.int64) if one is None else one for one in ins]
    common = list(np.broadcast_shapes(*(tuple(1 if i == axis else s for i, s in enumerate(p.shape)) for p in parts)))
    wide = []
    for part, atom in zip(parts, eqn.invars, strict=True):
        common[axis] = shape_of(atom)[axis]
        wide.append(np.broadcast_to(part, common))
    return [np.concatenate(wide, axis)]


def split(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """An array in pieces."""
    axis, outs, start = eqn.params["axis"], [], 0
    for size in eqn.params["sizes"]:
        parts = [slice(None)] * len(shape_of(eqn.invars[0]))
        parts[axis] = slice(start, start + size)
        outs.append(None if ins[0] is None else cut(ins[0], parts))
        start += size
    return outs


def stack(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Arrays along a new axis."""
    axis, ndim = eqn.params["axis"], len(shape_of(eqn.invars[0]))
    parts = [np.zeros((1,) * ndim, np.int64) if one is None else one for one in ins]
    return [np.stack(np.broadcast_arrays(*parts), axis)]


def unstack(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Slices of one axis, each by itself."""
    words, axis = ins[0], eqn.params["axis"]
    if words is None:
        return [None] * len(eqn.outvars)
    return [np.take(words, number if words.shape[axis] > 1 else 0, axis) for number in range(len(eqn.outvars))]


def tile(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """An array, repeated."""
    return [None if ins[0] is None else np.tile(full(ins[0], shape_of(eqn.invars[0])), eqn.params["reps"])]


def key_bits(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Each key to all that it gives."""
    if ins[0] is None:
        return [None]
    (out,) = eqn.outvars
    return [ins[0].reshape(ins[0].shape + (1,) * (len(shape_of(out)) - ins[0].ndim))]


def elementwise(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant] = ()) -> list[Words]:
    """One element of each operand to one of the result."""
    shapes = [shape_of(atom) for atom in eqn.invars]
    wide = {len(shape) for shape in shapes if shape}
    if len(wide) > 1:
        return everything(eqn, ins)
    word = union(*ins)
    return [fitted(word, len(shape_of(out))) for out in eqn.outvars]
