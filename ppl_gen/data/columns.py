"""Columns of NumPy arrays and pandas frames as Python values, and back.

pandas is optional: a frame can only come from a program that has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

Name = str | int
Level = str | int | float | bool
Table: TypeAlias = "NDArray[Any] | pd.DataFrame"  # rows of named or numbered columns
Rows: TypeAlias = "ArrayLike | pd.DataFrame"  # what becomes one

MISSING = -1  # the code of a missing value in `Factors`
_EXACT = 2**53  # integers up to here survive a float64


class Factors(NamedTuple):
    """A column as its distinct values and, per row, which of them it holds.

    Attributes:
        values: the distinct values that are not missing, in no particular order.
        codes: positions in `values`, or MISSING; shape (rows,).
        dtype: what the column was stored as.
        levels: all possible values in order, where the column says them itself (booleans, pandas categories).
    """

    values: list[Any]
    codes: NDArray[np.intp]
    dtype: str
    levels: list[Any] | None = None


def is_frame(rows: object) -> TypeGuard[pd.DataFrame]:
    """Whether this is a pandas DataFrame; never imports pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def as_table(rows: Rows, where: str) -> Table:
    """The frame, or the array of shape (rows, variables), that came; a masked array with None where masked.

    Raises:
        TypeError: neither a frame nor an array.
        ValueError: no rows, no columns, not two axes, or columns of the same name.
    """
    table = rows if is_frame(rows) else _as_array(rows, where)
    if is_frame(table) and not table.columns.is_unique:
        twice = show(table.columns[table.columns.duplicated()].unique().tolist())
        raise ValueError(f"{where}: expected distinct column names; got {twice} more than once. Rename them.")
    if 0 in table.shape:
        raise ValueError(f"{where}: expected at least one row and one column; got shape {table.shape}. Pass some rows.")
    return table


def _as_array(rows: Rows, where: str) -> NDArray[Any]:
    if not hasattr(rows, "__array__"):
        raise TypeError(
            f"{where}: expected an array or a pandas DataFrame; got {type(rows).__name__}. Use "
            "numpy.asarray, with dtype=object if kinds of values are mixed."
        )
    if isinstance(rows, np.ma.MaskedArray):
        objects = rows.data.astype(object)
        objects[np.ma.getmaskarray(rows)] = None
        rows = objects
    array = np.asarray(rows)
    if array.ndim != 2:
        raise ValueError(
            f"{where}: expected an array of shape (rows, variables); got shape {array.shape}. Use "
            "x.reshape(len(x), -1) to make variables of pixels, x[None] for a single row."
        )
    return array


def factorize(column: NDArray[Any] | pd.Series[Any], where: str) -> Factors:
    """Distinct values and codes of one column, a pandas Series or an array of shape (rows,).

    Raises:
        TypeError: the values are dates, complex numbers, bytes or something that cannot be compared.
    """
    dtype = getattr(column, "dtype", None)
    name, levels = str(dtype), None
    if not isinstance(column, np.ndarray) and name == "category":
        levels = column.cat.categories.tolist()
        name = "category, ordered" if column.cat.ordered else name
    plain = column if isinstance(column, np.ndarray) else _to_numpy(column, dtype)
    if name in ("bool", "boolean"):
        levels = [False, True]
    if plain.dtype.kind in "biuf":
        return Factors(*_factorize_numbers(plain), name, levels)
    if plain.dtype.kind in "mMcSV":
        raise TypeError(f"{where}: expected strings, numbers or booleans; got dtype {plain.dtype}. Convert it first.")
    return Factors(*_factorize_objects(plain.astype(object), where), name, levels)


def _to_numpy(series: pd.Series[Any], dtype: object) -> NDArray[Any]:
    plain: NDArray[Any] = series.to_numpy() if isinstance(dtype, np.dtype) else series.to_numpy(dtype=object)
    return plain


def _factorize_numbers(column: NDArray[Any]) -> tuple[list[Any], NDArray[np.intp]]:
    codes = np.full(len(column), MISSING, dtype=np.intp)
    present = ~np.isnan(column) if column.dtype.kind == "f" else np.ones(len(column), dtype=bool)
    values, codes[present] = np.unique(column[present], return_inverse=True)
    return values.tolist(), codes


def _factorize_objects(column: NDArray[Any], where: str) -> tuple[list[Any], NDArray[np.intp]]:
    found: dict[Any, int] = {}
    values = [value.item() if isinstance(value, np.generic) else value for value in column]
    try:
        codes = [MISSING if is_missing(value) else found.setdefault(value, len(found)) for value in values]
    except TypeError as error:
        raise TypeError(
            f"{where}: expected strings, numbers or booleans; got another object ({error}). Convert it first."
        ) from error
    return list(found), np.array(codes, dtype=np.intp)


def is_missing(value: object) -> bool:
    """Whether a single value is None, NaN, NaT or pandas.NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def to_array(codes: NDArray[Any], levels: Sequence[Sequence[Level]], dtypes: Iterable[str]) -> NDArray[Any]:
    """Codes of shape (..., variables), NaN where missing, as values in an array of the same shape.

    The result has the dtype the columns came in if they agree and it can hold the values; else int64, float64
    with NaN where missing, bool or strings where all values are of that type, else object with None.
    """
    missing = bool(np.isnan(codes).any())
    all_levels = {level for column_levels in levels for level in column_levels}
    values = np.empty(codes.shape, _common_dtype(all_levels, set(dtypes), missing))
    for column, column_levels in enumerate(levels):
        values[..., column] = look_up(codes[..., column], column_levels, values.dtype)
    return values


def look_up(codes: NDArray[Any], levels: Sequence[Level], dtype: DTypeLike = object) -> NDArray[Any]:
    """The levels at integer-valued codes; None, or NaN in an array of floats, at NaN."""
    absent = np.isnan(codes)
    values = np.empty(len(levels) + 1, dtype)  # the last, at position -1, stands for missing
    values[:-1] = levels
    if absent.any():
        values[-1] = np.nan if values.dtype.kind == "f" else None
    return values[np.where(absent, MISSING, codes).astype(np.intp)]


def _common_dtype(levels: set[Level], dtypes: set[str], missing: bool) -> np.dtype[Any]:
    kinds = {type(level) for level in levels}
    came = _numpy_dtype(next(iter(dtypes))) if len(dtypes) == 1 else None
    if "object" in dtypes:
        return np.dtype(object)
    if came is not None and came.kind in ("f" if missing else "biuf"):
        return came
    if kinds <= {int, float} and all(abs(level) <= _EXACT for level in levels if isinstance(level, int)):
        return np.dtype(np.float64 if missing or float in kinds else np.int64)
    if kinds == {bool} and not missing:
        return np.dtype(bool)
    if kinds == {str} and not missing:
        return np.dtype(f"U{max(1, *(len(str(level)) for level in levels))}")
    return np.dtype(object)


def _numpy_dtype(name: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(name) if name else None
    except TypeError:  # a dtype of pandas
        return None


def to_series(codes: NDArray[Any], levels: Sequence[Level], dtype: str) -> pd.Series[Any]:
    """Codes of shape (rows,) as a pandas Series, of the dtype the values came in where that can hold them."""
    import pandas as pd

    values, missing = look_up(codes, levels), bool(np.isnan(codes).any())
    if dtype.startswith("category"):
        return pd.Series(values, dtype=pd.CategoricalDtype(list(levels), ordered=dtype.endswith("ordered")))
    came = _numpy_dtype(dtype)
    if missing and came is not None and came.kind in "iu":
        dtype = "float64"
    elif missing and came is not None and came.kind == "b":
        dtype = "object"
    return pd.Series(values, dtype=dtype) if dtype else pd.Series(values.tolist())


def show(values: Iterable[object], limit: int = 8) -> str:
    """A few values for an error message."""
    shown = list(values)
    more = f", ... {len(shown)} in all" if len(shown) > limit else ""
    return f"[{', '.join(map(repr, shown[:limit]))}{more}]"
