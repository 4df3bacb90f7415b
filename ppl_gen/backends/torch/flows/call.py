"""One operation as a rule for marks sees it, and how words of marks are joined and reduced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ppl_gen.backends.torch.operators import Operator

Words = Tensor | None


@dataclass(frozen=True)
class Call:
    """One operation, as its rule sees it.

    Attributes:
        func: the operator.
        name: its name, `add` for `aten.add_.Tensor`.
        args: its positional arguments.
        kwargs: its keyword arguments.
        inputs: the tensors that it reads.
        outs: the tensors that need words.
        written: those of its operands that it writes.
        words_of: a tensor's words.
        constant: whether a tensor is made inside the run from numbers alone, so that it is the same in every run.
    """

    func: Operator
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outs: Sequence[Tensor]
    written: Sequence[Tensor]
    words_of: Callable[[Tensor], Words]
    constant: Callable[[Tensor], bool]

    def given(self, name: str, default: bool | int | None = None) -> Any:
        """An argument by the name that the operator's schema has for it."""
        schema: torch.FunctionSchema = getattr(self.func, "_schema")  # noqa: B009
        for place, argument in enumerate(schema.arguments):
            if argument.name == name:
                if argument.has_default_value() and default is None:
                    default = argument.default_value
                return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)
        return default

    def words(self, value: object) -> Words:
        """Words of an argument; None where it is no tensor, or carries nothing."""
        return self.words_of(value) if isinstance(value, Tensor) else None

    def whole(self, values: Iterable[object]) -> Words:
        """All marks of these arguments as one word, without dimensions."""
        return either(*(None if words is None else everything(words) for words in map(self.words, values)))

    def present(self, tensor: Tensor) -> Tensor:
        """Words of a tensor, zeros where it carries nothing."""
        words = self.words_of(tensor)
        return torch.zeros((), dtype=torch.int64, device=tensor.device).expand(tensor.shape) if words is None else words


def reduced(words: Tensor, dims: Iterable[int]) -> Tensor:
    """Or over dimensions, kept with size 1."""
    for dim in dims:
        while (size := words.shape[dim]) > 1:
            if not words.stride(dim):  # one word for all
                words = words.narrow(dim, 0, 1)
                break
            half = (size + 1) // 2
            words = words.narrow(dim, 0, half) | words.narrow(dim, size - half, half)
        if not words.shape[dim]:
            shape = list(words.shape)
            shape[dim] = 1
            words = words.new_zeros(shape)
    return words


def everything(words: Tensor) -> Tensor:
    """Or over all dimensions, without dimensions."""
    return reduced(words, range(words.dim())).reshape(())


def either(*words: Words) -> Words:
    """Or, broadcast."""
    present = [one for one in words if one is not None]
    return reduce(torch.bitwise_or, present) if present else None


def mixed(call: Call) -> list[Words]:
    """Everything reaches everything."""
    total = call.whole([*call.inputs, *call.written])
    return [None if total is None else total.to(out.device).expand(out.shape) for out in call.outs]


def to_all(call: Call, words: Words) -> list[Words]:
    """The same words for every result."""
    return [words] * len(call.outs)


def to_front(words: Words, out: Tensor, width: int, call: Call) -> Words:
    """Words of leading dimensions for a result; one that does not have them carries everything."""
    if words is None:
        return None
    if out.dim() >= width and all(size in (1, own) for size, own in zip(out.shape, words.shape, strict=False)):
        kept = [size == own for size, own in zip(out.shape, words.shape, strict=False)]
        words = reduced(words, [dim for dim, same in enumerate(kept) if not same])
        return words.reshape([*words.shape, *[1] * (out.dim() - width)])
    return everything(words)
