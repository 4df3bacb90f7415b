"""JAX's primitives as NumPy has them: name -> function of the primitive's parameters and its operands.

Each gives what JAX gives, but for the last digit; `NotImplemented` where NumPy's way differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Function = Callable[..., Any]
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _iota(params: Any) -> Array:
    shape, axis = params["shape"], params["dimension"]
    ones = [1] * len(shape)
    ones[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis]).reshape(ones), shape)


def _broadcast(params: Any, value: Array) -> Array:
    shape = [1] * len(params["shape"])
    for size, axis in zip(value.shape, params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return np.broadcast_to(value.reshape(shape), params["shape"])


def _slice(params: Any, value: Array) -> Array:
    starts, limits = params["start_indices"], params["limit_indices"]
    found: Array = value[tuple(map(slice, starts, limits, params["strides"] or (1,) * len(starts)))]
    return found


def _dynamic_slice(params: Any, value: Array, *starts: Array) -> Array:
    sizes = params["slice_sizes"]
    first = [min(max(int(s), 0), n - size) for s, n, size in zip(starts, value.shape, sizes, strict=True)]
    found: Array = value[tuple(slice(s, s + size) for s, size in zip(first, sizes, strict=True))]
    return found


def _select(params: Any, which: Array, *cases: Array) -> Array:
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 else NotImplemented


def _convert(params: Any, value: Array) -> Any:
    """JAX has rules of its own for a number that no integer holds."""
    integer = np.issubdtype(params["new_dtype"], np.integer)
    return NotImplemented if integer and value.dtype.kind == "f" else value


def _divide(params: Any, a: Array, b: Array) -> Any:
    return a / b if a.dtype.kind == "f" else NotImplemented


def _power(params: Any, a: Array, b: Array) -> Any:
    return a**b if a.dtype.kind == b.dtype.kind == "f" else NotImplemented


def _integer_power(params: Any, a: Array) -> Any:
    power = params["y"]
    return a**power if power >= 0 else 1 / a**-power if a.dtype.kind == "f" else NotImplemented


def _logistic(params: Any, a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def _bitcast(params: Any, value: Array) -> Any:
    kind = np.dtype(params["new_dtype"])
    return value.view(kind) if kind.itemsize == value.dtype.itemsize else NotImplemented


def _shift(function: Function) -> Function:
    """A logical shift, which leaves nothing where it is as wide as the number."""

    def shifted(params: Any, value: Array, by: Array) -> Array:
        width = value.dtype.itemsize * 8
        bits, by = value.view(f"u{width // 8}"), by.view(f"u{width // 8}")
        return np.where(by < width, function(bits, np.minimum(by, width - 1)), 0).view(value.dtype)

    return shifted


def _remainder(params: Any, a: Array, b: Array) -> Any:
    return np.fmod(a, b) if a.dtype.kind == "f" or b.all() else NotImplemented


def _erf(params: Any, a: Array) -> Array:
    from scipy.special import erf  # which JAX has loaded

    found: Array = erf(a)
    return found


def _dot(params: Any, a: Array, b: Array) -> Any:
    """One matrix product: dimensions in the order batch, those of `a`, those of `b`."""
    if a.dtype != b.dtype or params["preferred_element_type"] not in (None, a.dtype):
        return NotImplemented  # XLA adds up in the type of the result
    (sum_a, sum_b), (batch_a, batch_b) = params["dimension_numbers"]
    free_a = [i for i in range(a.ndim) if i not in (*sum_a, *batch_a)]
    free_b = [i for i in range(b.ndim) if i not in (*sum_b, *batch_b)]
    batch, left, right = ([v.shape[i] for i in p] for v, p in ((a, batch_a), (a, free_a), (b, free_b)))
    width = math.prod(a.shape[i] for i in sum_a)
    a = a.transpose(*batch_a, *free_a, *sum_a).reshape((*batch, math.prod(left), width))
    b = b.transpose(*batch_b, *sum_b, *free_b).reshape((*batch, width, math.prod(right)))
    return (a @ b).reshape((*batch, *left, *right))


def _reduce(function: Function) -> Function:
    return lambda params, value: function(value, axis=tuple(params["axes"]))


def _first(function: Function) -> Function:
    return lambda params, value: function(value, axis=params["axes"][0])


def _scan(function: Function) -> Function:
    def along(params: Any, value: Array) -> Array:
        axis = params["axis"]
        found: Array = (
            np.flip(function(np.flip(value, axis), axis=axis), axis)
            if params["reverse"]
            else function(value, axis=axis)
        )
        return found

    return along


def _counts(params: Any) -> tuple[Array, Array]:
    """The upper and the lower half of the positions in an array."""
    shape = params["shape"]
    counts = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    return counts >> np.uint64(32), counts & np.uint64(0xFFFFFFFF)


def _unstack(params: Any, value: Array) -> tuple[Array, ...]:
    return tuple(np.moveaxis(value, params["axis"], 0))


def _threefry(params: Any, key: Array, other: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Source: Salmon et al. 2011, Threefry-2x32 of 20 rounds."""
    keys = (key, other, key ^ other ^ np.uint32(0x1BD11BDA))
    a, b = a + keys[0], b + keys[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
        a, b = a + keys[(group + 1) % 3], b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


def _inverse_erf(params: Any, x: Array) -> Any:
    """Source: Giles 2010, the polynomials that XLA has for single precision."""
    if x.dtype != np.float32:
        return NotImplemented
    w = -np.log1p(-x * x)
    near = np.polyval(np.array(NEAR, np.float32), w - np.float32(2.5))
    far = np.polyval(np.array(FAR, np.float32), np.sqrt(w) - np.float32(3))
    return np.where(np.abs(x) == 1, x * np.float32(np.inf), np.where(w < 5, near, far) * x)


NEAR = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
        0.246640727, 1.50140941)  # fmt: skip
FAR = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
       1.00167406, 2.83297682)  # fmt: skip

_PLAIN: Mapping[str, Function] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "neg": np.negative,
    "sign": np.sign, "abs": np.abs, "square": np.square, "floor": np.floor, "ceil": np.ceil, "is_finite": np.isfinite,
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt,
    "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "copy": np.asarray, "copy_p": np.asarray, "stage": np.asarray,
    "stop_gradient": np.asarray, "nextafter": np.nextafter,
}  # fmt: skip
FUNCTIONS: Mapping[str, Function] = {
    **{name: lambda params, *operands, function=function: function(*operands) for name, function in _PLAIN.items()},
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "reshape": lambda params, a: a.reshape(params["new_sizes"]),
    "squeeze": lambda params, a: a.squeeze(tuple(params["dimensions"])),
    "expand_dims": lambda params, a: np.expand_dims(a, tuple(params["dimensions"])),
    "transpose": lambda params, a: a.transpose(params["permutation"]),
    "rev": lambda params, a: np.flip(a, tuple(params["dimensions"])),
    "concatenate": lambda params, *parts: np.concatenate(parts, params["dimension"]),
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
    "select_n": _select,
    "clamp": lambda params, low, a, high: np.minimum(np.maximum(a, low), high),
    "div": _divide,
    "rem": _remainder,
    "pow": _power,
    "integer_pow": _integer_power,
    "rsqrt": lambda params, a: 1 / np.sqrt(a),
    "logistic": _logistic,
    "erf": _erf,
    "erf_inv": _inverse_erf,
    "shift_left": _shift(np.left_shift),
    "shift_right_logical": _shift(np.right_shift),
    "dot_general": _dot,
    "reduce_sum": _reduce(np.sum),
    "reduce_prod": _reduce(np.prod),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_and": _reduce(np.bitwise_and.reduce),
    "reduce_or": _reduce(np.bitwise_or.reduce),
    "argmax": _first(np.argmax),
    "argmin": _first(np.argmin),
    "cumsum": _scan(np.cumsum),
    "cumprod": _scan(np.cumprod),
    "stack": lambda params, *parts: np.stack(parts, params["axis"]),
    "unstack": _unstack,
    "split": lambda params, a: tuple(np.split(a, np.cumsum(params["sizes"])[:-1], params["axis"])),
    "iota_2x32_shape": _counts,
    "threefry2x32": _threefry,
}


def apply(name: str, params: Any, operands: Any, results: Any) -> list[Array]:
    """A primitive's results, of these types, by NumPy; none where it has no such function, or that one refuses.

    Args:
        name: of the primitive.
        params: of the primitive.
        operands: NumPy arrays.
        results: the shape and type of each result.
    """
    function = FUNCTIONS.get(name)
    with np.errstate(all="ignore"):
        try:
            found = NotImplemented if function is None else function(params, *operands)
        except (ArithmeticError, TypeError, ValueError):  # a maximum of nothing, a power that overflows
            return []
        if found is NotImplemented:
            return []
        many = found if isinstance(found, tuple) else (found,)
        return [np.asarray(one, kind).reshape(shape) for one, (shape, kind) in zip(many, results, strict=True)]
