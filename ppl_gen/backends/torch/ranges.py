"""Between which bounds the elements of every tensor lie, as far as the program's text tells; see `ppl_gen.program.bounds`.

One range for each storage: the hull of all that was written there. What is no latent, and is not made from numbers inside
the run, may be anything, since parameters and data change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_gen.backends.torch.intervals import UNKNOWN, YES_OR_NO, Range
from ppl_gen.backends.torch.operators import Operation, is_among
from ppl_gen.backends.torch.range_rules import RULES
from ppl_gen.backends.torch.words import storage, unwatched
from ppl_gen.program.bounds import ANY, NONNEGATIVE, Bounds, exactly


class Ranges:
    """The ranges of all storages."""

    def __init__(self) -> None:
        self._found: dict[int, Range] = {}
        self._alive: list[object] = []

    def of(self, value: object) -> Range:
        """Of a tensor or a number."""
        if isinstance(value, bool | int | float):
            return Range(exactly(float(value)), float(value).is_integer())
        if not isinstance(value, Tensor):
            return UNKNOWN
        found = self._found.get(storage(value))
        if found is not None:
            return found
        if value.dtype == torch.bool:
            return YES_OR_NO
        return Range(ANY, whole=not (value.is_floating_point() or value.is_complex()))

    @unwatched()
    def set(self, tensor: Tensor, found: Range) -> None:
        """All of a tensor's memory."""
        if storage(tensor):
            self._found[storage(tensor)] = found
            self._alive.append(tensor.untyped_storage())

    @unwatched()
    def narrow(self, tensor: Tensor, found: Range) -> None:
        """Of a tensor of which nothing is known yet."""
        if self.of(tensor).bounds == ANY:
            self.set(tensor, found)

    def operation(self, operation: Operation) -> None:
        """Follows one operation."""
        old = {storage(tensor) for tensor in operation.inputs}
        written = [tensor for tensor, _ in operation.written]
        fresh = [t for t in operation.results if storage(t) not in old and not is_among(t, written)]
        if not fresh and not written:
            return
        found = self._result(operation)
        for number, tensor in enumerate(fresh):
            own = found if number == 0 else _other_result(operation.name, found)
            self.set(tensor, _as_type(own, tensor))
        for tensor in written:
            own = _as_type(found, tensor)
            self.set(tensor, own if _is_whole(tensor) else self.of(tensor).hull(own))

    def _result(self, operation: Operation) -> Range:
        rule = RULES.get(operation.name)
        try:
            return UNKNOWN if rule is None else rule(self.of, operation.args, operation.kwargs)
        except (IndexError, TypeError, ValueError, OverflowError):
            return UNKNOWN


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all of its memory."""
    return bool(storage(tensor)) and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _as_type(found: Range, tensor: Tensor) -> Range:
    """What is left of a range in a tensor's type."""
    if tensor.dtype == torch.bool:
        inside = found.whole and found.bounds.low >= 0 and found.bounds.high <= 1
        return found if inside else YES_OR_NO
    if tensor.is_complex():
        return UNKNOWN
    if tensor.is_floating_point() or found.whole:
        return found
    low, high = (math.trunc(end) if math.isfinite(end) else end for end in (found.bounds.low, found.bounds.high))
    return Range(Bounds(low, high), whole=True)


def _other_result(name: str, found: Range) -> Range:
    """Of a second or third result: places, where there are values and places."""
    if name in ("unbind", "split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "aminmax"):
        return found
    if name in ("max", "min", "sort", "topk", "median", "mode", "kthvalue", "cummax", "cummin"):
        return Range(NONNEGATIVE, whole=True)
    return UNKNOWN
