"""Values of a jaxpr that depend on no input, worked out by NumPy where it is as simple: positions, masks, permutations.

JAX would compile every operation first, which takes longer than all the rest of reading a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal
from numpy.typing import NDArray

from ppl_gen.backends.jax.calls import called
from ppl_gen.backends.jax.operations import apply

Array = NDArray[Any]


def evaluate(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """The results of an equation."""
    inner = called(eqn)
    if inner is not None:
        return _run(inner, operands)
    shapes = [(out.aval.shape, out.aval.dtype) for out in eqn.outvars]
    found = apply(eqn.primitive.name, eqn.params, operands, shapes)
    if found:
        return found
    results = eqn.primitive.bind(*operands, **eqn.params)
    return list(map(np.asarray, results if eqn.primitive.multiple_results else [results]))


def _run(closed: Any, operands: Sequence[Array]) -> list[Array]:
    jaxpr = getattr(closed, "jaxpr", closed)
    values = dict(zip(jaxpr.invars, operands, strict=True))
    values |= {
        var: np.asarray(value) for var, value in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True)
    }

    def read(atom: Any) -> Array:
        return np.asarray(atom.val) if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, evaluate(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]
