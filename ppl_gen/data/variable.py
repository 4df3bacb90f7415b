"""One named variable of a table: what it is called and which values it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ppl_gen.data.columns import Level, Name, show

Kind = Literal["binary", "categorical"]
_KINDS = ("binary", "categorical")


@dataclass(frozen=True)
class Variable:
    """A variable with finitely many values.

    Attributes:
        name: a string for a column of a frame, an integer for a column of an array.
        kind: "binary" (exactly two levels) or "categorical" (one or more).
        levels: the values in the order of their codes 0, 1, ...; strings, integers, floats or booleans.
        dtype: what the column was stored as, so that it is given back so; "" leaves the choice open. It says
            nothing about the values and takes no part in comparisons.
        recorded: share of the rows in which the column has a value, from 0 to 1; takes no part in comparisons.

    Raises:
        TypeError: the name is neither a string nor an integer, or a level is none of the four types.
        ValueError: the kind is unknown or not yet supported, or the levels are missing, repeated or infinite.
    """

    name: Name
    kind: Kind
    levels: tuple[Level, ...]
    dtype: str = field(default="", compare=False)
    recorded: float = field(default=1.0, compare=False)

    def __post_init__(self) -> None:
        """Check name, kind and levels."""
        _check_name(self.name)
        _check_kind(self)
        object.__setattr__(self, "levels", tuple(self.levels))
        _check_levels(self)
        _check_recorded(self)

    @classmethod
    def of_levels(cls, name: Name, levels: Sequence[Level], dtype: str = "", recorded: float = 1.0) -> Variable:
        """A binary variable if there are two levels, else a categorical one."""
        return cls(name, "binary" if len(levels) == 2 else "categorical", tuple(levels), dtype, recorded)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of values that JSON holds with their types."""
        fixed = {"name": self.name, "kind": self.kind, "levels": list(self.levels), "dtype": self.dtype}
        return fixed | ({"recorded": self.recorded} if self.recorded < 1 else {})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Variable:
        """The variable that `to_json` wrote."""
        recorded = record.get("recorded", 1.0)
        return cls(record["name"], record["kind"], tuple(record["levels"]), record["dtype"], recorded)


def _check_name(name: object) -> None:
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise TypeError(
            f"data.Variable: expected a name that is a string or an integer; got {name!r} "
            f"({type(name).__name__}). Rename the column."
        )


def _check_kind(variable: Variable) -> None:
    if str(variable.kind) == "real":
        raise ValueError(
            f"data.Variable {variable.name!r}: expected kind 'binary' or 'categorical'; got 'real'. "
            "Real-valued variables are not supported yet: drop the column or bin its values."
        )
    if variable.kind not in _KINDS:
        raise ValueError(
            f"data.Variable {variable.name!r}: expected kind 'binary' or 'categorical'; got "
            f"{variable.kind!r}. Use one of the two."
        )


def _check_recorded(variable: Variable) -> None:
    share = variable.recorded
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(
            f"data.Variable {variable.name!r}: expected a share of recorded rows from 0 to 1; got {share!r}. "
            "Leave it out for a column without gaps."
        )


def _check_levels(variable: Variable) -> None:
    where, levels = f"data.Variable {variable.name!r}", variable.levels
    for level in levels:
        if type(level) not in (str, int, float, bool):
            raise TypeError(
                f"{where}: expected levels that are strings, integers, floats or booleans; got {level!r} "
                f"({type(level).__name__}). Convert the column first."
            )
        if isinstance(level, float) and not math.isfinite(level):
            raise ValueError(f"{where}: expected finite levels; got {level}. Use None or NaN for missing.")
    if len(set(levels)) != len(levels):  # 1, 1.0 and True are one value
        raise ValueError(f"{where}: expected distinct levels; got {show(levels)}. Name each level once.")
    if not levels or (variable.kind == "binary" and len(levels) != 2):
        count = "two levels" if variable.kind == "binary" else "at least one level"
        raise ValueError(f"{where}: expected {count}; got {show(levels)}. Use kind 'categorical' or list them all.")
