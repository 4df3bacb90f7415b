"""What single primitives do to words of marks, element by element: see `ppl_gen.program.independence`.

Words are *compact*: an array of as many dimensions as the value it tells of, a dimension being of length 1 where all elements
along it carry the same marks. None stands for no marks at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64] | None
Present = NDArray[np.int64]
Shape = tuple[int, ...]
Constant = Callable[[], NDArray[Any]] | None  # what gives a value that depends on no input, once it is asked for
Rule = Callable[[Any, list[Words], Sequence[Constant]], list[Words]]

ELEMENTWISE = frozenset(
    "add sub mul div neg exp exp2 log log1p expm1 tanh logistic sin cos tan sinh cosh asin acos atan asinh acosh atanh atan2 "
    "sqrt rsqrt cbrt pow integer_pow square abs sign floor ceil round max min and or xor not eq ne lt le gt ge eq_to le_to lt_to "
    "is_finite erf erfc erf_inv lgamma digamma polygamma zeta igamma igammac igamma_grad_a random_gamma_grad "
    "regularized_incomplete_beta bessel_i0e bessel_i1e select_n convert_element_type clamp rem nextafter stop_gradient copy copy_p "
    "real imag conj complex population_count clz shift_left shift_right_logical shift_right_arithmetic reduce_precision add_any "
    "mulhi device_put optimization_barrier sharding_constraint threefry2x32 random_gamma name pvary tie".split()
)


def shape_of(atom: Any) -> Shape:
    """Of a variable or literal."""
    return tuple(atom.aval.shape)


def union(*words: Words) -> Words:
    """The marks of several arrays of one shape."""
    found: Words = None
    for one in words:
        if one is not None:
            found = one if found is None else found | one
    return found


def gathered(words: Words, axes: Sequence[int], keep: bool = False) -> Words:
    """The marks of all elements along some axes together."""
    if words is None:
        return None
    places = tuple(axes)
    if not places:
        return words
    reduced: Present = np.bitwise_or.reduce(words, axis=places)
    return np.expand_dims(reduced, places) if keep else reduced


def all_of(words: Words) -> Words:
    """The marks of all elements, as one number."""
    return None if words is None else np.asarray(np.bitwise_or.reduce(words, axis=None), np.int64)


def fitted(words: Words, ndim: int) -> Words:
    """Of so many dimensions: a lone number is the same for all elements."""
    return None if words is None else words.reshape((1,) * (ndim - words.ndim) + words.shape)


def full(words: Words, shape: Shape) -> Present:
    """The word of every element."""
    return np.broadcast_to(np.int64(0) if words is None else words, shape)


def everything(eqn: Any, ins: list[Words], _: Sequence[Constant] = ()) -> list[Words]:
    """Every element of every output carries all marks: what is unknown may do anything."""
    word = union(*map(all_of, ins))
    return [fitted(word, len(shape_of(out))) for out in eqn.outvars]


def elementwise(eqn: Any, ins: list[Words], _: Sequence[Constant] = ()) -> list[Words]:
    """One element of each operand to one of the result."""
    shapes = [shape_of(atom) for atom in eqn.invars]
    wide = {len(shape) for shape in shapes if shape}
    if len(wide) > 1:
        return everything(eqn, ins)
    word = union(*ins)
    return [fitted(word, len(shape_of(out))) for out in eqn.outvars]


def _reduce(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    axes = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    number = len(eqn.outvars)  # a general reduction has as many starting values, which are numbers
    word = union(*(gathered(one, axes) for one in ins[:number]), *ins[number:])
    return [fitted(word, len(shape_of(out))) for out in eqn.outvars]


def _cumulative(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    (words,), axis = ins, eqn.params["axis"]
    if words is None or words.shape[axis] == 1:
        return ins
    if not eqn.params["reverse"]:
        return [np.bitwise_or.accumulate(words, axis=axis)]
    return [np.flip(np.bitwise_or.accumulate(np.flip(words, axis), axis=axis), axis)]


def _broadcast(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    words = ins[0]
    if words is None:
        return [None]
    shape = [1] * len(eqn.params["shape"])
    for size, axis in zip(words.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return [words.reshape(shape)]


def _reshape(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
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


def _transpose(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    return [None if ins[0] is None else ins[0].transpose(eqn.params["permutation"])]


def _squeeze(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    return [None if ins[0] is None else ins[0].squeeze(tuple(eqn.params["dimensions"]))]


def _rev(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    return [None if ins[0] is None else np.flip(ins[0], tuple(eqn.params["dimensions"]))]


def _slice(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    return [None if ins[0] is None else _cut(ins[0], list(map(slice, starts, limits, strides)))]


def _cut(words: Present, parts: Sequence[slice]) -> Present:
    """A part of an array, of which axes that hold one word for all elements stay as they are."""
    own = tuple(slice(None) if size == 1 else part for size, part in zip(words.shape, parts, strict=True))
    return words[own]


def _pad(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
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


def _concatenate(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    axis, ndim = eqn.params["dimension"], len(shape_of(eqn.outvars[0]))
    parts = [np.zeros((1,) * ndim, np.int64) if one is None else one for one in ins]
    common = list(np.broadcast_shapes(*(tuple(1 if i == axis else s for i, s in enumerate(p.shape)) for p in parts)))
    wide = []
    for part, atom in zip(parts, eqn.invars, strict=True):
        common[axis] = shape_of(atom)[axis]
        wide.append(np.broadcast_to(part, common))
    return [np.concatenate(wide, axis)]


def _split(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    axis, outs, start = eqn.params["axis"], [], 0
    for size in eqn.params["sizes"]:
        parts = [slice(None)] * len(shape_of(eqn.invars[0]))
        parts[axis] = slice(start, start + size)
        outs.append(None if ins[0] is None else _cut(ins[0], parts))
        start += size
    return outs


def values_of(constants: Sequence[Constant]) -> list[NDArray[Any]] | None:
    """All these values; None where one is not known."""
    known = [constant() for constant in constants if constant is not None]
    return known if len(known) == len(constants) else None


def _dynamic_slice(eqn: Any, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
    words, *starts = ins
    whole, sizes = shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
    known = values_of(constants[1:]) if words is not None else None
    if words is not None and known is not None:
        firsts = [min(max(int(k), 0), n - size) for k, n, size in zip(known, whole, sizes, strict=True)]
        words = _cut(words, [slice(k, k + size) for k, size in zip(firsts, sizes, strict=True)])
    else:
        words = gathered(
            words, [i for i, (n, size) in enumerate(zip(whole, sizes, strict=True)) if n != size], keep=True
        )
    return [union(words, fitted(union(*starts), len(sizes)))]


def _dynamic_update_slice(eqn: Any, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
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


def _dot(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
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


def _convolution(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    if eqn.params["batch_group_count"] != 1:
        return everything(eqn, ins)
    numbers, ndim = eqn.params["dimension_numbers"], len(shape_of(eqn.outvars[0]))
    rows = numbers.lhs_spec[0]
    inputs = gathered(ins[0], [axis for axis in range(ndim) if axis != rows])
    shape = [1] * ndim
    shape[numbers.out_spec[0]] = -1
    return [union(None if inputs is None else inputs.reshape(shape), fitted(all_of(ins[1]), ndim))]


def _window(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
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


def _sort(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    word = gathered(union(*ins), [eqn.params["dimension"]], keep=True)
    return [word] * len(eqn.outvars)


def _top(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    word = gathered(ins[0], [eqn.params.get("axis", -1)], keep=True)
    return [word] * len(eqn.outvars)


def _fft(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    return [gathered(ins[0], [-1 - i for i in range(len(eqn.params["fft_lengths"]))], keep=True)]


def _matrices(width: int) -> Rule:
    """Linear algebra on the last `width` dimensions of the first operand, one matrix at a time."""

    def rule(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
        batch = len(shape_of(eqn.invars[0])) - width
        word = union(*(None if one is None else gathered(one, range(batch, one.ndim)) for one in ins))
        outs = [len(shape_of(out)) - batch for out in eqn.outvars]
        return [None if word is None else word.reshape(word.shape + (1,) * rest) for rest in outs]

    return rule


def _gather(eqn: Any, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
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
        reduced = _cut(
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


def _scatter(eqn: Any, ins: list[Words], constants: Sequence[Constant]) -> list[Words]:
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


def _key_bits(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    if ins[0] is None:
        return [None]
    (out,) = eqn.outvars
    return [ins[0].reshape(ins[0].shape + (1,) * (len(shape_of(out)) - ins[0].ndim))]


def _stack(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    axis, ndim = eqn.params["axis"], len(shape_of(eqn.invars[0]))
    parts = [np.zeros((1,) * ndim, np.int64) if one is None else one for one in ins]
    return [np.stack(np.broadcast_arrays(*parts), axis)]


def _unstack(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    words, axis = ins[0], eqn.params["axis"]
    if words is None:
        return [None] * len(eqn.outvars)
    return [np.take(words, number if words.shape[axis] > 1 else 0, axis) for number in range(len(eqn.outvars))]


def _tile(eqn: Any, ins: list[Words], _: Sequence[Constant]) -> list[Words]:
    return [None if ins[0] is None else np.tile(full(ins[0], shape_of(eqn.invars[0])), eqn.params["reps"])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(
        "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin reduce".split(), _reduce
    ),
    **dict.fromkeys("cumsum cumprod cummax cummin cumlogsumexp".split(), _cumulative),
    **dict.fromkeys("reduce_window reduce_window_sum reduce_window_max reduce_window_min".split(), _window),
    **dict.fromkeys(
        "cholesky cholesky_update eig eigh svd lu qr geqrf geqp3 householder_product schur hessenberg tridiagonal "
        "triangular_solve symmetric_product".split(),
        _matrices(2),
    ),
    **dict.fromkeys("tridiagonal_solve lu_pivots_to_permutation".split(), _matrices(1)),
    **dict.fromkeys("scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max".split(), _scatter),
    "gather": _gather,
    **dict.fromkeys("random_bits random_unwrap".split(), _key_bits),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "rev": _rev,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "split": _split,
    "tile": _tile,
    "stack": _stack,
    "unstack": _unstack,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "sort": _sort,
    "top_k": _top,
    "fft": _fft,
}  # fmt: skip
"""Primitive -> what it does to words; one that is not here does `everything`."""
