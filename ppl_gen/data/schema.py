"""Schemas: which variables a table has, and the codes 0, 1, ... their values get."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_gen.data.coding import check_codes, code_column, single
from ppl_gen.data.columns import Name, Rows, Table, as_table, factorize, is_frame, show, to_array, to_series
from ppl_gen.data.inference import infer_levels
from ppl_gen.data.variable import Variable

Form = Literal["array", "frame"]
Codes = NDArray[np.float64]

_TIER = 0.05  # share of missing rows that puts a column one tier later


@dataclass(frozen=True, repr=False)
class Schema:
    """The variables of a table, in the order of its columns.

    Codes are floats of shape (rows, variables): the position of the value in the variable's levels, NaN where
    the value is missing or not given.

    Attributes:
        variables: at least one, of distinct names.
        form: what `decode` returns, "array" or "frame"; None means an array if the names are 0, 1, ..., else
            a frame. Takes no part in comparisons.

    Raises:
        ValueError: no variables, two of one name, or an unknown form.

    Example:
        >>> sex = Variable("sex", "binary", ("Female", "Male"))
        >>> schema = Schema((sex, Variable("n", "categorical", (1, 2, 5))))
        >>> schema.encode_evidence({"n": 5})
        array([[nan,  2.]])
    """

    variables: tuple[Variable, ...]
    form: Form | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check the variables and settle the form."""
        object.__setattr__(self, "variables", tuple(self.variables))
        names = self.names
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"data.Schema: expected at least one variable, of distinct names; got {show(names)}. Name each once."
            )
        if self.form is None:
            object.__setattr__(self, "form", "array" if names == tuple(range(len(names))) else "frame")
        elif self.form not in get_args(Form):
            raise ValueError(f"data.Schema: expected form 'array' or 'frame'; got {self.form!r}. Use one of the two.")

    @classmethod
    def of(cls, rows: Rows) -> Schema:
        """Infer names, kinds and levels from an array or a pandas DataFrame of shape (rows, variables).

        Columns of a frame keep their names, those of an array are called 0, 1, .... Levels are the values
        that occur, sorted; a pandas categorical gives its categories in order, booleans give False and True.
        Two levels make a binary variable, any other number a categorical one. Values that do not occur in
        `rows` are unknown afterwards: for bits that are constant in the training rows use `Schema.binary`.

        Raises:
            TypeError: rows is neither, or holds dates, complex numbers or other objects.
            ValueError: no rows, repeated column names, infinity, a column without values, or a real-valued
                one (not whole, or more than 256 values): real variables are not supported yet.
        """
        table = as_table(rows, "data.Schema.of")
        names: list[Any] = table.columns.tolist() if is_frame(table) else list(range(table.shape[1]))
        variables = []
        for name, column in zip(names, _columns(table, names), strict=True):
            where = f"data.Schema.of: column {name!r}"
            factors = factorize(column, where)
            recorded = float(np.mean(factors.codes >= 0))
            variables.append(Variable.of_levels(name, infer_levels(factors, where), factors.dtype, recorded))
        return cls(tuple(variables), "frame" if is_frame(table) else "array")

    @classmethod
    def binary(cls, num_variables: int) -> Schema:
        """Binary variables 0, 1, ..., num_variables - 1 with levels 0 and 1, as an array."""
        return cls(tuple(Variable(name, "binary", (0, 1)) for name in range(num_variables)), "array")

    @property
    def names(self) -> tuple[Name, ...]:
        """The names, in column order."""
        return tuple(variable.name for variable in self.variables)

    @property
    def tiers(self) -> NDArray[np.intp]:
        """Which columns are visited first in a joint distribution, shape (variables,): 0 has no gaps.

        One tier is five percent of the rows, so a table whose columns have about as many gaps has one tier.
        """
        missing = np.array([1 - variable.recorded for variable in self.variables])
        return np.ceil(np.round(missing / _TIER, 9)).astype(np.intp)

    def with_gaps_of(self, codes: Codes) -> Schema:
        """The same variables, with the share of rows in which each is recorded taken from these codes.

        Args:
            codes: shape (rows, variables), NaN where missing.
        """
        shares = (~np.isnan(codes)).mean(axis=0)
        pairs = zip(self.variables, shares, strict=True)
        return Schema(tuple(replace(variable, recorded=float(share)) for variable, share in pairs), self.form)

    @cached_property
    def _positions(self) -> dict[Name, int]:
        return {name: column for column, name in enumerate(self.names)}

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """The number of levels of each variable."""
        return tuple(len(variable.levels) for variable in self.variables)

    def __len__(self) -> int:
        """The number of variables."""
        return len(self.variables)

    def __repr__(self) -> str:
        """Counts only: a schema of pixels has hundreds of variables."""
        num_binary = sum(variable.kind == "binary" for variable in self.variables)
        return f"Schema({len(self)} variables: {num_binary} binary, {len(self) - num_binary} categorical)"

    def index(self, name: Name) -> int:
        """The column of a variable.

        Raises:
            ValueError: there is no such variable.
        """
        self._check_known([name], "index")
        return self._positions[name]

    def select(self, names: Iterable[Name]) -> Schema:
        """The schema of some of the variables, in the order given and in the same form.

        Raises:
            ValueError: a name is unknown or given twice.
        """
        return Schema(tuple(self.variables[self.index(name)] for name in names), self.form)

    def encode(self, rows: Rows) -> Codes:
        """Codes of whole rows.

        Args:
            rows: an array of shape (rows, variables) in column order, or a DataFrame with exactly these
                columns in any order; None, NaN and pandas.NA are missing.

        Returns:
            Codes of shape (rows, variables), NaN where missing.

        Raises:
            TypeError: rows is neither.
            ValueError: no rows, columns missing, unknown or repeated, or a value that is not a level.
        """
        table = as_table(rows, "data.Schema.encode")
        if is_frame(table) and (absent := [name for name in self.names if name not in table.columns]):
            raise ValueError(
                f"data.Schema.encode: expected columns {show(self.names)}; got none called {show(absent)}. "
                "Add them, with None where values are missing."
            )
        return self._encode(table, "encode")

    def encode_evidence(self, given: Mapping[Any, object] | Rows | None = None) -> Codes:
        """Codes of what is known, for a query.

        Args:
            given: a dict from name to value, which is one row; an array of shape (rows, variables); a
                DataFrame with some of the columns; or None for one row of nothing. Missing values are
                not given.

        Returns:
            Codes of shape (rows, variables), NaN where nothing is given.

        Raises:
            TypeError: given is none of these, or a value in the dict is not a single one.
            ValueError: as for `encode`, but columns may be left out.
        """
        if given is not None and not isinstance(given, Mapping):
            return self._encode(as_table(given, "data.Schema.encode_evidence"), "encode_evidence")
        given = given or {}
        self._check_known(given, "encode_evidence")
        codes = np.full((1, len(self)), np.nan)
        for name, value in given.items():
            column = self._positions[name]
            codes[:, column] = code_column(self.variables[column], single(name, value))
        return codes

    def decode(self, codes: ArrayLike | Sequence[object]) -> Any:
        """Values of codes: the inverse of `encode`, and in the form its rows came in.

        Args:
            codes: whole numbers, NaN where missing, of shape (rows, variables); for the form "array"
                also (..., variables).

        Returns:
            A DataFrame, or an array of the shape of `codes`, of the dtypes the columns came in where those
            can hold missing values; else floats with NaN, or objects with None.

        Raises:
            ValueError: another shape, or a code that no level has.
        """
        codes = np.asarray(codes, dtype=np.float64)
        check_codes(codes, self.variables, as_frame=self.form == "frame")
        if self.form == "array":
            return to_array(codes, [v.levels for v in self.variables], [v.dtype for v in self.variables])
        try:
            import pandas as pd
        except ImportError as error:
            error.add_note("Decoding to a DataFrame needs pandas: pip install ppl_gen[table].")
            raise
        columns = [to_series(codes[:, j], v.levels, v.dtype) for j, v in enumerate(self.variables)]
        return pd.concat(columns, axis=1, keys=list(self.names))

    def to_json(self) -> str:
        """The schema as JSON text; names and levels keep their types."""
        variables = [variable.to_json() for variable in self.variables]
        return json.dumps({"form": self.form, "variables": variables})

    @classmethod
    def from_json(cls, text: str) -> Schema:
        """The schema that `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            record = json.loads(text)
            variables = tuple(Variable.from_json(variable) for variable in record["variables"])
            return cls(variables, record["form"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"data.Schema.from_json: expected text written by Schema.to_json; got {text[:60]!r} "
                f"({error!r}). Write it again."
            ) from error

    def _encode(self, table: Table, method: str) -> Codes:
        names: list[Any]
        if is_frame(table):
            names = table.columns.tolist()
            self._check_known(names, method)
        elif table.shape[1] == len(self):
            names = list(self.names)
        else:
            raise ValueError(
                f"data.Schema.{method}: expected {len(self)} columns, one per variable; got "
                f"{table.shape[1]}. Pass every variable, with NaN where nothing is known."
            )
        codes = np.full((len(table), len(self)), np.nan)
        for name, column in zip(names, _columns(table, names), strict=True):
            position = self._positions[name]
            factors = factorize(column, f"data.Schema.{method}: column {name!r}")
            codes[:, position] = code_column(self.variables[position], factors)
        return codes

    def _check_known(self, names: Iterable[Any], method: str) -> None:
        if unknown := [name for name in names if name not in self._positions]:
            raise ValueError(
                f"data.Schema.{method}: expected names among {show(self.names)}; got {show(unknown)}. Use a "
                "name of the schema."
            )


def _columns(table: Table, names: list[Any]) -> list[Any]:
    return [table[name] for name in names] if is_frame(table) else list(table.T)
