"""Between the values of single columns and their codes, with the errors for values that do not fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ppl_gen.data.columns import Factors, Name, is_missing, show
from ppl_gen.data.variable import Variable


def single(name: Name, value: object) -> Factors:
    """One value as a column of one row.

    Raises:
        TypeError: the value is a sequence or an array.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if (hasattr(value, "__len__") or hasattr(value, "shape")) and not isinstance(value, str):
        raise TypeError(
            f"data.Schema.encode_evidence: variable {name!r}: expected a single value; got "
            f"{type(value).__name__}. A dict is one row: pass an array or a DataFrame for several."
        )
    return Factors([], np.array([-1]), "") if is_missing(value) else Factors([value], np.array([0]), "")


def code_column(variable: Variable, factors: Factors) -> NDArray[np.float64]:
    """Codes of a column, shape (rows,), NaN where missing.

    Raises:
        ValueError: a value is not a level of the variable.
    """
    codes = {level: code for code, level in enumerate(variable.levels)}
    if unknown := [value for value in factors.values if value not in codes]:
        raise ValueError(
            f"data.Schema: variable {variable.name!r}: expected one of the levels {show(variable.levels)}; "
            f"got {show(unknown)}. Use None or NaN for missing; a level that can occur must be in the schema."
        )
    by_position = np.array([*(codes[value] for value in factors.values), np.nan])
    return by_position[factors.codes]


def check_codes(codes: NDArray[np.float64], variables: Sequence[Variable], as_frame: bool) -> None:
    """Check that codes have the shape (..., variables), or (rows, variables) for a frame, and a level each.

    Raises:
        ValueError: they do not.
    """
    if codes.ndim < 1 or codes.shape[-1] != len(variables) or (as_frame and codes.ndim != 2):
        raise ValueError(
            f"data.Schema.decode: expected shape (rows, {len(variables)}); got {codes.shape}. Select the "
            "variables first."
        )
    cardinalities = np.array([len(variable.levels) for variable in variables])
    wrong = ~np.isnan(codes) & ((codes < 0) | (codes >= cardinalities) | (codes != np.floor(codes)))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        variable = variables[where[-1]]
        raise ValueError(
            f"data.Schema.decode: expected codes 0..{len(variable.levels) - 1} or NaN for variable "
            f"{variable.name!r}; got {codes[where]}. Pass codes, not values."
        )
