"""Marks through what acts element by element, moves elements, or acts along one dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_gen.backends.torch.flows.call import Call, Words, either, reduced, to_all


def pointwise(call: Call) -> list[Words]:
    """One element of each operand to one of the result."""
    return to_all(call, either(*(_near(call.words_of(tensor), call) for tensor in call.inputs)))


def _near(words: Words, call: Call) -> Words:
    return None if words is None else words.to(call.outs[0].device)


def overwritten(call: Call) -> list[Words]:
    """What is written in place of the first operand, whose own words are lost."""
    rest = [t for t in call.inputs if t is not call.args[0]]
    return to_all(call, either(*(_near(call.words_of(tensor), call) for tensor in rest)))


def nothing(call: Call) -> list[Words]:
    """No words: the values are new."""
    return to_all(call, None)


def moved(call: Call) -> list[Words]:
    """The operation itself, done on words."""

    def swap(value: object) -> object:
        if isinstance(value, Tensor):
            return call.present(value)
        return list(map(swap, value)) if isinstance(value, list | tuple) and any(map(_is_tensor, value)) else value

    args = [swap(value) for value in call.args]
    kwargs = {name: swap(value) for name, value in call.kwargs.items() if name not in ("dtype", "out")}
    out = call.func(*args, **kwargs)
    return list(out) if isinstance(out, list | tuple) else [out]


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def padded(call: Call) -> list[Words]:
    """Words of the operand; what is put around it carries nothing."""
    return [torch.constant_pad_nd(call.present(call.args[0]), call.args[1], 0)]


def _dims(value: int | Sequence[int] | None, width: int) -> list[int]:
    if value is None or (isinstance(value, list | tuple) and not value):
        return list(range(width))
    return [dim % max(width, 1) for dim in (value if isinstance(value, list | tuple) else (value,))]


def reduction(call: Call) -> list[Words]:
    """All along some dimensions, which the results may have lost."""
    tensor = call.inputs[0]
    words = call.whole(call.inputs[1:])
    own = call.words_of(tensor)
    if own is not None and tensor.dim():
        dims = _dims(call.given("dim"), tensor.dim())
        own = reduced(own, dims)
        if not call.given("keepdim", False):
            own = own.reshape([size for dim, size in enumerate(own.shape) if dim not in dims])
    return to_all(call, either(own, words))


def along(call: Call, place: str = "dim") -> list[Words]:
    """All along a dimension, which the results have too."""
    words = either(*(call.words_of(tensor) for tensor in call.inputs))
    if words is None or not words.dim():
        return to_all(call, words)
    return to_all(call, reduced(words, _dims(call.given(place, -1), words.dim())))


def last(call: Call) -> list[Words]:
    """All along the last dimension."""
    words = either(*(call.words_of(tensor) for tensor in call.inputs))
    return to_all(call, words if words is None or not words.dim() else reduced(words, [-1]))
