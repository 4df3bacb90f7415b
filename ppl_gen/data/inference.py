"""From the values of a column to the levels of a variable."""

from __future__ import annotations

import math
from typing import Any

from ppl_gen.data.columns import Factors, show

MAX_LEVELS = 256  # a byte: the grey levels of an image are still categories

_REAL = "Real-valued variables are not supported yet: drop the column or bin its values."


def infer_levels(factors: Factors, where: str) -> list[Any]:
    """The levels a column says itself, or else the values that occur, sorted.

    Raises:
        TypeError: a value is not a string, number or boolean.
        ValueError: no values, infinity, values that are not whole, too many, or strings among numbers.
    """
    values = factors.values
    if factors.levels is not None:
        return factors.levels
    if not values:
        raise ValueError(f"{where}: expected at least one value; got only missing ones. Drop the column.")
    kinds = {type(value) for value in values}
    if not kinds <= {str, int, float, bool}:
        names = sorted(kind.__name__ for kind in kinds - {str, int, float, bool})
        raise TypeError(f"{where}: expected strings, numbers or booleans; got {', '.join(names)}. Convert it first.")
    if str in kinds and len(kinds) > 1:
        raise ValueError(f"{where}: expected values of one type; got {show(values)}. Convert numbers to strings.")
    _check_whole(values, where)
    if len(values) > MAX_LEVELS:
        advice = "Group rare strings or drop the column." if str in kinds else _REAL
        raise ValueError(f"{where}: expected at most {MAX_LEVELS} levels; got {len(values)}. {advice}")
    return [False, True] if kinds == {bool} else sorted(values)


def _check_whole(values: list[Any], where: str) -> None:
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{where}: expected finite values; got {value}. Use NaN or None for missing.")
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"{where}: expected whole numbers; got {value}. {_REAL}")
