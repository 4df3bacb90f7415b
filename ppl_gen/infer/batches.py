"""Data as a sequence of batches, each a pure function of the step, so that a run can be continued exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.errors import ProgramError
from ppl_gen.infer.prepare import as_arguments, to_host
from ppl_gen.program import Batch

Convert = Callable[[Any], Any]


def is_array(value: Any) -> bool:
    """Whether `value` is some library's array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_stream(data: Any) -> bool:
    """Whether `data` is an iterable of batches rather than the data themselves."""
    plain = data is None or isinstance(data, tuple | Mapping | str) or is_array(data) or hasattr(data, "columns")
    return not plain and isinstance(data, Iterable)


class Table:
    """Data in memory: arrays whose leading axis is cut into batches, drawn in a new order at each pass.

    Args:
        data: an array, a tuple, a dict or a DataFrame.
        batch_size: rows per batch; None takes all at once.
        seed: of the order.
        convert: a host array to the backend's own.

    Attributes:
        num_rows: length of the leading axis of the first array; None without arrays.
        arrays: the arrays that are cut.
    """

    def __init__(self, data: Any, batch_size: int | None, seed: int, convert: Convert) -> None:
        args, kwargs = as_arguments(data)
        self._keys = [*range(len(args)), *kwargs]
        self._values = {key: convert(value) for key, value in zip(self._keys, [*args, *kwargs.values()], strict=True)}
        self._num_args, self.seed = len(args), seed
        arrays = [v for v in self._values.values() if is_array(v) and len(v.shape) > 0]
        self.num_rows: int | None = int(arrays[0].shape[0]) if arrays else None
        self._cut = [k for k, v in self._values.items() if is_array(v) and len(v.shape) > 0 and v.shape[0] == self.num_rows]
        self.arrays = [self._values[key] for key in self._cut]
        if batch_size is not None and (batch_size < 1 or self.num_rows is None):
            raise ValueError(f"batch_size: expected 1 or more rows of data to cut; got {batch_size} with {self.num_rows} rows.")
        self.batch_size = None if batch_size is None or batch_size >= (self.num_rows or 0) else batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    @property
    def first_rows(self) -> int | None:
        """Rows of the first batch; None without arrays."""
        return self.batch_size or self.num_rows

    @property
    def per_pass(self) -> int:
        """Steps in one pass over the data."""
        return 1 if self.batch_size is None else -(-(self.num_rows or 1) // self.batch_size)

    def rows(self, step: int) -> np.ndarray | None:
        """The rows of the batch at `step`; None means all."""
        if self.batch_size is None:
            return None
        epoch, place = divmod(step, self.per_pass)
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_rows))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def build(self, arrays: list[Any], rows: Any) -> Batch:
        """The batch of these rows of these arrays; nothing else is read, so it can be traced."""
        values = dict(self._values)
        for key, array in zip(self._cut, arrays, strict=True):
            values[key] = array if rows is None else array[rows]
        args = tuple(values[i] for i in range(self._num_args))
        scale = 1.0 if rows is None else (self.num_rows or 1) / rows.shape[0]
        return Batch(args, {k: v for k, v in values.items() if not isinstance(k, int)}, scale, rows)

    def at(self, step: int) -> tuple[list[Any], np.ndarray | None]:
        """(arrays, rows) of the batch at `step`, for `build`."""
        return self.arrays, self.rows(step)

    def first(self, num_rows: int | None = None) -> Batch:
        """The leading rows as a batch of the size that is trained on, or of `num_rows`."""
        size = self.batch_size if num_rows is None else num_rows
        return self.build(self.arrays, None if size is None else np.arange(size))

    def passes(self, chunk: int = 1000) -> Iterator[Batch]:
        """All rows once, in order, in chunks, each counted once (scale 1)."""
        size = self.batch_size or chunk
        for start in range(0, self.num_rows or 1, size):
            rows = None if self.num_rows is None or size >= self.num_rows else np.arange(start, min(start + size, self.num_rows))
            batch = self.build(self.arrays, rows)
            yield Batch(batch.args, batch.kwargs, 1.0, rows)


class Stream:
    """A list or another iterable of batches, each given as data would be.

    A list counts its rows, so that each batch is scaled to all of them; of another iterable each batch stands for itself.
    """

    def __init__(self, data: Iterable[Any], convert: Convert) -> None:
        self._data, self._convert, self._iterator = data, convert, iter(data)
        self._ahead: dict[int, Table] = {}
        self._next = 0
        self.num_rows: int | None = None
        if isinstance(data, list):
            if not data:
                raise ProgramError("data: expected at least one batch; got an empty list. Pass batches with rows.")
            self.num_rows = sum(Table(self._arguments(d), None, 0, lambda v: v).num_rows or 0 for d in data) or None
        self.per_pass = len(data) if isinstance(data, list) else 1
        self.batch_size = None

    @staticmethod
    def _arguments(batch: Any) -> Any:
        return tuple(batch) if isinstance(batch, list) else batch

    def _table(self, step: int) -> Table:
        while step not in self._ahead:
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._iterator = iter(self._data)
                batch = next(self._iterator, None)
                if batch is None:
                    raise ProgramError(f"data: expected a batch for step {step}; the iterable has ended. Pass a list, or fewer steps.") from None
            self._ahead = {self._next: Table(self._arguments(batch), None, 0, self._convert)}
            self._next += 1
        return self._ahead[step]

    def at(self, step: int) -> tuple[list[Any], None]:
        """(arrays, None) of the batch at `step`; steps come in order."""
        return self._table(step).arrays, None

    def build(self, arrays: list[Any], rows: Any) -> Batch:
        """The batch of these arrays."""
        table = next(iter(self._ahead.values()))
        batch = table.build(arrays, rows)
        rows_here = table.num_rows or 1
        return Batch(batch.args, batch.kwargs, 1.0 if self.num_rows is None else self.num_rows / rows_here, None)

    @property
    def first_rows(self) -> int | None:
        """Rows of the first batch; None without arrays."""
        return self._table(0).num_rows

    def first(self, num_rows: int | None = None) -> Batch:
        """The batch at step 0, or its leading rows."""
        table = self._table(0)
        return table.first(num_rows) if num_rows else self.build(table.arrays, None)

    def passes(self, chunk: int = 1000) -> Iterator[Batch]:
        """Every batch of a list once."""
        for batch in self._data if isinstance(self._data, list) else []:
            table = Table(self._arguments(batch), None, 0, self._convert)
            yield table.build(table.arrays, None)


def make_source(data: Any, batch_size: int | None, seed: int, convert: Convert) -> Table | Stream:
    """The source of batches for whatever `fit` was given."""
    return Stream(data, convert) if is_stream(data) else Table(data, batch_size, seed, convert)


__all__ = ["Stream", "Table", "is_array", "is_stream", "make_source", "to_host"]
