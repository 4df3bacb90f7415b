"""Marks through reductions, products, convolutions, sorts and decompositions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from ppl_gen.backends.jax.calls import shape_of
from ppl_gen.backends.jax.flows.words import (
    Constant,
    Rule,
    Words,
    all_of,
    everything,
    fitted,
    gathered,
    union,
)


def reduction(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Over some axes, which the results have lost."""
    axes = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    number = len(eqn.outvars)  # a general reduction has as many starting values, which are numbers
    word = union(*(gathered(one, axes) for one in ins[:number]), *ins[number:])
    return [fitted(word, len(shape_of(out))) for out in eqn.outvars]


def cumulative(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Each element with all before it, or after it."""
    (words,), axis = ins, eqn.params["axis"]
    if words is None or words.shape[axis] == 1:
        return ins
    if not eqn.params["reverse"]:
        return [np.bitwise_or.accumulate(words, axis=axis)]
    return [np.flip(np.bitwise_or.accumulate(np.flip(words, axis), axis=axis), axis)]


def dot(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Products, summed over contracted axes."""
    contracted, batched = eqn.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(shape_of(eqn.invars[i]))) if axis not in (*contracted[i], *batched[i])]
        for i in (0, 1)
    ]
    found: Words = None
    for i in (0, 1):
        words = ins[i]
        if words is None:
            continue
        ordered = words.transpose([*batched[i], *free[i], *contracted[i]])
        reduced = gathered(ordered, range(len(batched[i]) + len(free[i]), ordered.ndim))
        assert reduced is not None
        batch = len(batched[i])
        ones = (1,) * len(free[1 - i])
        wide = (*reduced.shape, *ones) if i == 0 else (*reduced.shape[:batch], *ones, *reduced.shape[batch:])
        found = union(found, reduced.reshape(wide))
    return [found]


def convolution(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Rows of the batch are kept apart."""
    if eqn.params["batch_group_count"] != 1:
        return everything(eqn, ins)
    numbers, ndim = eqn.params["dimension_numbers"], len(shape_of(eqn.outvars[0]))
    rows = numbers.lhs_spec[0]
    inputs = gathered(ins[0], [axis for axis in range(ndim) if axis != rows])
    shape = [1] * ndim
    shape[numbers.out_spec[0]] = -1
    return [union(None if inputs is None else inputs.reshape(shape), fitted(all_of(ins[1]), ndim))]


def window(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """Over windows along some axes."""
    p, shape = eqn.params, shape_of(eqn.outvars[0])
    size, padding = p["window_dimensions"], p["padding"]
    mixed = [
        axis
        for axis in range(len(shape))
        if size[axis] != 1 or tuple(padding[axis]) != (0, 0) or shape_of(eqn.invars[0])[axis] != shape[axis]
    ]
    word = union(
        *(gathered(one, mixed, keep=True) if one is not None and one.ndim == len(shape) else one for one in ins)
    )
    return [fitted(word, len(shape)) for _ in eqn.outvars]


def sort(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """All along one axis."""
    word = gathered(union(*ins), [eqn.params["dimension"]], keep=True)
    return [word] * len(eqn.outvars)


def top(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """All along one axis, of which some are kept."""
    word = gathered(ins[0], [eqn.params.get("axis", -1)], keep=True)
    return [word] * len(eqn.outvars)


def fft(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    """All along the last axes."""
    return [gathered(ins[0], [-1 - i for i in range(len(eqn.params["fft_lengths"]))], keep=True)]


def matrices(width: int) -> Rule:
    """Linear algebra on the last `width` dimensions of the first operand, one matrix at a time."""

    def rule(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
        batch = len(shape_of(eqn.invars[0])) - width
        word = union(*(None if one is None else gathered(one, range(batch, one.ndim)) for one in ins))
        outs = [len(shape_of(out)) - batch for out in eqn.outvars]
        return [None if word is None else word.reshape(word.shape + (1,) * rest) for rest in outs]

    return rule
