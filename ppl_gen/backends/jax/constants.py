"""Values of a jaxpr that depend on no input, worked out by NumPy where it is as simple: positions, masks, permutations.

JAX would compile every operation first, which takes longer than all the rest of reading a program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal
from numpy.typing import NDArray

from ppl_gen.backends.jax.calls import Atom, Function, called, opened
from ppl_gen.backends.jax.known import dtype_of

Array = NDArray[Any]


def evaluate(eqn: JaxprEqn, operands: Sequence[Array]) -> list[Array]:
    """The results of an equation."""
    inner = called(eqn)
    if inner is not None:
        return _run(inner, operands)
    function = FUNCTIONS.get(eqn.primitive.name)
    if function is not None:
        return [np.asarray(function(eqn, *operands), dtype_of(eqn.outvars[0]))]
    results = eqn.primitive.bind(*operands, **eqn.params)
    return list(map(np.asarray, results if eqn.primitive.multiple_results else [results]))


def _run(function: Function, operands: Sequence[Array]) -> list[Array]:
    jaxpr, constants = opened(function)
    values = dict(zip(jaxpr.invars, operands, strict=True))
    values |= {var: np.asarray(value) for var, value in zip(jaxpr.constvars, constants, strict=True)}

    def value_of(atom: Atom) -> Array:
        return np.asarray(atom.val) if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, evaluate(eqn, [value_of(atom) for atom in eqn.invars]), strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def _iota(eqn: JaxprEqn) -> Array:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    ones = [1] * len(shape)
    ones[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis]).reshape(ones), shape)


def _broadcast(eqn: JaxprEqn, value: Array) -> Array:
    shape = [1] * len(eqn.params["shape"])
    for size, axis in zip(value.shape, eqn.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return np.broadcast_to(value.reshape(shape), eqn.params["shape"])


def _slice(eqn: JaxprEqn, value: Array) -> Array:
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    found: Array = value[tuple(map(slice, starts, limits, eqn.params["strides"] or (1,) * len(starts)))]
    return found


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: lambda eqn, a, b, function=function: function(a, b)
        for name, function in {
            "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "lt": np.less,
            "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
            "and": np.bitwise_and, "or": np.bitwise_or,
        }.items()
    },
    "not": lambda eqn, a: np.invert(a),
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "reshape": lambda eqn, a: a.reshape(eqn.params["new_sizes"]),
    "squeeze": lambda eqn, a: a.squeeze(tuple(eqn.params["dimensions"])),
    "transpose": lambda eqn, a: a.transpose(eqn.params["permutation"]),
    "rev": lambda eqn, a: np.flip(a, tuple(eqn.params["dimensions"])),
    "concatenate": lambda eqn, *parts: np.concatenate(parts, eqn.params["dimension"]),
    "convert_element_type": lambda eqn, a: a,
    "select_n": lambda eqn, which, *cases: np.choose(which.astype(int), cases),
}  # fmt: skip
"""Primitives that NumPy has too."""
