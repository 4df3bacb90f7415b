"""What is checked of a parameter's first value, and of values that it is given later. One text for both libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.interface import A, Library
from ppl_gen.errors import ProgramError


def refuse_late(name: str) -> ProgramError:
    """The error of a parameter that no first run met."""
    return ProgramError(
        f"param '{name}': expected every parameter in the first run; got a new one later. "
        "Make the program state the same parameters in every run."
    )


def inside(library: Library[A], name: str, constraint: Any, value: A) -> A:
    """An initial value, on a simplex scaled to sum to one.

    Raises:
        ProgramError: it does not satisfy the constraint.
    """
    known = library.to_host(value)  # in NumPy: JAX would compile each comparison
    if _is_simplex(constraint) and (known > 0).all() and np.isfinite(known).all():
        scaled: A = value / library.total(value, (-1,))
        return scaled
    fits = library.satisfies(constraint, value)
    if not fits.all():
        index = tuple(int(i) for i in np.argwhere(~fits)[0])
        raise ProgramError(
            f"param '{name}': expected an initial value in {constraint}; got {known[index].tolist()} at index {index}. "
            "Start it inside its constraint."
        )
    return value


def _is_simplex(constraint: object) -> bool:
    bare: Any = constraint
    while hasattr(bare, "base_constraint"):
        bare = bare.base_constraint
    return type(bare).__name__ == "_Simplex"


def fitting(leaves: Mapping[str, A], params: Mapping[str, Any]) -> Iterator[tuple[str, A, np.ndarray]]:
    """(name, the parameter as it is, the value it is to have) of every value.

    Raises:
        ValueError: an unknown name or another shape.
    """
    for name, value in params.items():
        leaf = leaves.get(name)
        if leaf is None or tuple(leaf.shape) != np.shape(value):
            expected = {n: tuple(p.shape) for n, p in leaves.items()}
            raise ValueError(
                f"params: expected names and shapes {expected}; got '{name}' with shape {np.shape(value)}."
            )
        yield name, leaf, np.asarray(value)
