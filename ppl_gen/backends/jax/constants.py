"""Values of a jaxpr that depend on no input, worked out by NumPy where it is as simple: positions, masks, permutations.

JAX would compile every operation first, which takes longer than all the rest of reading a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Literal
from numpy.typing import NDArray

from ppl_gen.backends.jax.calls import Atom, Function, called, opened, shape_of
from ppl_gen.backends.jax.known import dtype_of
from ppl_gen.backends.jax.operations import apply

Array = NDArray[Any]


def evaluate(eqn: JaxprEqn, operands: Sequence[Array]) -> list[Array]:
    """The results of an equation."""
    inner = called(eqn)
    if inner is not None:
        return _run(inner, operands)
    shapes = [(shape_of(out), dtype_of(out)) for out in eqn.outvars]
    found = apply(eqn.primitive.name, eqn.params, operands, shapes)
    if found:
        return found
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
