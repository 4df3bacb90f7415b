"""Data as a sequence of batches; those of a table are a function of the step, so that a run can be continued exactly."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeGuard

import numpy as np

from ppl_gen.backends import checks
from ppl_gen.backends.interface import Data
from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch
from ppl_gen.program.arrays import Array

Convert = Callable[[Any], Any]
Loading = Callable[[], AbstractContextManager[object]]
END: Any = object()  # of an iterable


def is_array(value: object) -> TypeGuard[Array]:
    """Whether `value` is some library's array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_stream(data: object) -> TypeGuard[Iterable[Any]]:
    """Whether `data` is an iterable of batches rather than the data themselves."""
    plain = data is None or isinstance(data, tuple | Mapping | str) or is_array(data) or hasattr(data, "columns")
    return not plain and isinstance(data, Iterable)


def as_arguments(data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Data as positional and keyword arguments: a tuple, a dict, or one argument."""
    if data is None:
        return (), {}
    if isinstance(data, tuple):
        return data, {}
    if isinstance(data, Mapping):
        return (), dict(data)
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        return (data.to_numpy(),), {}
    return (data,), {}


def check_data(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str] | None:
    """Raise on zero rows; give (where, what) of the first value that is not finite."""
    named = [(f"data[{i}]", a) for i, a in enumerate(args)] + [(f"data['{k}']", a) for k, a in kwargs.items()]
    arrays = [(where, to_host(a)) for where, a in named if hasattr(a, "shape") and hasattr(a, "dtype")]
    for where, value in arrays:
        if value.ndim and value.shape[0] == 0:
            raise ProgramError(f"{where}: expected at least one row; got shape {value.shape}. Pass data with rows.")
    return checks.finite_arrays(arrays)


def to_host(value: object) -> np.ndarray:
    """Any library's array as a NumPy array."""
    detach = getattr(value, "detach", None)
    return np.asarray(detach().cpu().numpy() if detach else value)


def length(batch: Batch) -> int | None:
    """Rows of a batch's first array; None without arrays."""
    return next(
        (v.shape[0] for v in (*batch.args, *batch.kwargs.values()) if hasattr(v, "shape") and len(v.shape)), None
    )


def plain_list(named: Iterable[tuple[Any, Any]]) -> str | None:
    """The name of the first argument that is a list of numbers where an array may be meant."""
    for key, value in named:
        if isinstance(value, list) and is_numbers(value):
            return f"data[{key!r}]"
    return None


def is_numbers(value: object) -> bool:
    """Whether it is a number, or a list of them, however deep."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(is_numbers, value))
    return isinstance(value, numbers.Number)


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

    one_by_one = False

    def __init__(self, data: Data, batch_size: int | None, seed: int, convert: Convert) -> None:
        args, kwargs = as_arguments(data)
        self._keys = [*range(len(args)), *kwargs]
        self._values = {key: convert(value) for key, value in zip(self._keys, [*args, *kwargs.values()], strict=True)}
        self._num_args, self.seed = len(args), seed
        arrays = [v for v in self._values.values() if is_array(v) and len(v.shape) > 0]
        self.num_rows: int | None = int(arrays[0].shape[0]) if arrays else None
        self._cut = [
            k for k, v in self._values.items() if is_array(v) and len(v.shape) > 0 and v.shape[0] == self.num_rows
        ]
        self.arrays = [self._values[key] for key in self._cut]
        if batch_size is not None and (batch_size < 1 or self.num_rows is None):
            raise ValueError(
                f"batch_size: expected 1 or more rows of data to cut; got {batch_size} with {self.num_rows} rows."
            )
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
            self._order = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_rows or 1))
        return self._order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def build(self, arrays: list[Any], rows: np.ndarray | None, index: slice | None = None) -> Batch:
        """The batch of these rows of these arrays; nothing else is read, so it can be traced.

        `index` says the same rows as a slice, where they follow one another: JAX compiles less for it.
        """
        values = dict(self._values)
        for key, array in zip(self._cut, arrays, strict=True):
            part = array if rows is None else array[rows if index is None else index]
            # torch's slices share the data's memory, which a program may write to
            values[key] = part.clone() if index is not None and hasattr(part, "clone") else part
        args = tuple(values[i] for i in range(self._num_args))
        scale = 1.0 if rows is None else (self.num_rows or 1) / rows.shape[0]
        return Batch(args, {k: v for k, v in values.items() if not isinstance(k, int)}, scale, rows)

    def at(self, step: int) -> tuple[list[Any], np.ndarray | None]:
        """(arrays, rows) of the batch at `step`, for `build`."""
        return self.arrays, self.rows(step)

    def ready(self, step: int, count: int) -> int:
        """How many of the `count` batches from `step` on there are: all."""
        return count

    def first(self, num_rows: int | None = None) -> Batch:
        """The leading rows as a batch of the size that is trained on, or of `num_rows`."""
        size = self.batch_size if num_rows is None else num_rows
        if size is None:
            return self.build(self.arrays, None)
        total = self.num_rows or 1
        return self.build(self.arrays, np.arange(size) % total, slice(size) if size <= total else None)

    def passes(self, chunk: int | None) -> Iterator[tuple[float, Batch]]:
        """All rows once, in order: (a batch's share of the rows, the batch scaled to all); `chunk` None: in one."""
        total = self.num_rows or 1
        size = chunk or total
        for start in range(0, total, size):
            rows = None if size >= total else np.arange(start, min(start + size, total))
            yield (1.0 if rows is None else len(rows) / total), self.build(self.arrays, rows)


def as_table(batch: Batch) -> Table:
    """A batch's arrays as data."""
    return Table(dict(batch.kwargs) or tuple(batch.args), None, 0, lambda value: value)


class Stream:
    """A list or another iterable of batches, each given as data would be.

    A list counts its rows, and a torch DataLoader knows those of one pass, so that each batch is scaled to all of them;
    of another iterable each batch stands for itself. An iterable that can start again does; one that cannot (a
    generator) ends the run.

    Args:
        data: the batches.
        convert: a host array to the backend's own.
        encode: what a built-in model does to its data first.
        loading: what the iterable is gone through in, a loader's own random numbers drawn where its generator is.
    """

    batch_size = None
    one_by_one = True

    def __init__(
        self, data: Iterable[Any], convert: Convert, encode: Convert | None = None, loading: Loading = nullcontext
    ) -> None:
        self._data, self._convert, self._encode, self._loading = data, convert, encode, loading
        self._iterator: Iterator[Any] | None = None  # started inside a session: a loader may draw random numbers
        self._ahead: dict[int, Table] = {}
        self._watch: Callable[[Batch], None] | None = None
        self._now = self._first = self._table(0)
        self.num_rows = self._count(data)
        self.per_pass = len(data) if self.num_rows and isinstance(data, Sized) else 1

    def watch(self, look: Callable[[Batch], None]) -> None:
        """Show `look` every batch before it is used: those of a list now, others as they come."""
        if isinstance(self._data, list):
            for _, batch in self.passes(None):
                look(batch)
        else:
            self._watch = look

    def _count(self, data: Iterable[Any]) -> int | None:
        """Rows in one pass, where that is known beforehand."""
        if isinstance(data, list):
            return sum(self._as_table(batch, lambda v: v).num_rows or 0 for batch in data) or None
        sampler = getattr(data, "sampler", None) if isinstance(getattr(data, "dataset", None), Sized) else None
        return len(sampler) if isinstance(sampler, Sized) else None

    def _as_table(self, batch: Data, convert: Convert) -> Table:
        batch = tuple(batch) if isinstance(batch, list) else batch
        return Table(self._encode(batch) if self._encode else batch, None, 0, convert)

    def _next(self) -> Table | None:
        """One more batch, from the beginning again where that is possible."""
        for _ in range(2):
            with self._loading():
                if self._iterator is None:
                    self._iterator = iter(self._data)
                batch = next(self._iterator, END)
            if batch is not END:
                return self._as_table(batch, self._convert)
            if self._iterator is self._data:
                break
            self._iterator = None
        return None

    def _table(self, step: int) -> Table:
        if not self.ready(step, 1):
            raise ProgramError(
                f"data: expected a batch for step {step}; the iterable has ended. Pass batches with rows."
            )
        return self._ahead[step]

    def rows(self, step: int) -> None:
        """All of a batch, always."""

    def ready(self, step: int, count: int) -> int:
        """How many of the `count` batches from `step` on there are, as far as is known: a list's all, else one."""
        last = max(self._ahead, default=-1)
        while last < step:
            table = self._next()
            if table is None:
                return 0
            if self._watch is not None:
                self._watch(self._built(table))
            last += 1
            self._ahead = {last: table}
        return count if isinstance(self._data, list) else 1

    def at(self, step: int) -> tuple[list[Any], None]:
        """(arrays, None) of the batch at `step`; steps come in order."""
        self._now = self._table(step)
        return self._now.arrays, None

    def build(self, arrays: list[Any], rows: np.ndarray | None) -> Batch:
        """The batch last asked for by `at`, of these arrays."""
        batch = self._now.build(arrays, None)
        return Batch(batch.args, batch.kwargs, self._scale(self._now), None)

    def _scale(self, table: Table) -> float:
        return (self.num_rows or 1) / (table.num_rows or 1) if self.num_rows else 1.0

    @property
    def first_rows(self) -> int | None:
        """Rows of the first batch; None without arrays."""
        return self._first.num_rows

    def first(self, num_rows: int | None = None) -> Batch:
        """The batch at step 0, or its leading rows."""
        batch = self._first.first(num_rows)
        return Batch(batch.args, batch.kwargs, 1.0 if num_rows else self._scale(self._first), None)

    def passes(self, chunk: int | None) -> Iterator[tuple[float, Batch]]:
        """Every batch once: (its share of the rows, the batch, scaled to all rows where they are counted)."""
        with self._loading():
            batches = iter(self._data)
        while True:
            with self._loading():
                batch = next(batches, END)
            if batch is END:
                return
            built = self._built(self._as_table(batch, self._convert))
            yield 1.0 / built.scale, built

    def _built(self, table: Table) -> Batch:
        """The whole of a batch, scaled to all rows where they are counted."""
        batch = table.build(table.arrays, None)
        return Batch(batch.args, batch.kwargs, self._scale(table), None)


def make_source(
    data: Data,
    batch_size: int | None,
    seed: int,
    convert: Convert,
    encode: Convert | None = None,
    loading: Loading = nullcontext,
) -> Table | Stream:
    """The source of batches for whatever `fit` was given."""
    if isinstance(data, list) and not data:
        raise ProgramError("data: expected at least one batch; got an empty list. Pass batches with rows.")
    if not is_stream(data):
        return Table(encode(data) if encode else data, batch_size, seed, convert)
    if batch_size is not None:
        raise ValueError(
            f"batch_size: expected None, as the data come in batches; got {batch_size}. Drop it, or pass arrays."
        )
    return Stream(data, convert, encode, loading)


__all__ = ["Stream", "Table", "as_table", "is_array", "is_stream", "make_source"]
