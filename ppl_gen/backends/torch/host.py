"""What the host can learn of a tensor, by which functions, and what it could be told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_gen.backends.torch.intervals import Range
from ppl_gen.backends.torch.operators import Function

MOST_OUTCOMES = 32  # of one read

_T: Any = Tensor

YES_OR_NO = frozenset([_T.__bool__, torch.is_nonzero, _T.is_nonzero])
COMPARED = frozenset([torch.equal, _T.equal, torch.allclose, _T.allclose])
INTEGERS = frozenset([_T.__int__, _T.__index__])
VALUES = frozenset([_T.item, _T.__float__])
LISTS = frozenset([_T.tolist])
ANSWERED = YES_OR_NO | COMPARED | INTEGERS | VALUES | LISTS


def outcomes(func: Function, tensor: Tensor, found: Range) -> list[object] | None:
    """All that a function could tell the host of a tensor, or of each of its elements; None where that is not known."""
    if func in COMPARED:
        return [False, True]
    low, high = found.bounds.low, found.bounds.high
    if func in YES_OR_NO:
        zero = low > 0 or high < 0 or (low == 0 and found.bounds.above)
        return [True] if zero else [False] if low == high == 0 else [False, True]
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    if func not in INTEGERS and not found.whole:
        return None
    whole = range(
        math.ceil(low) if found.whole else math.trunc(low), (math.floor(high) if found.whole else math.trunc(high)) + 1
    )
    if len(whole) > MOST_OUTCOMES:
        return None
    if func in INTEGERS:
        return list(whole)
    if tensor.dtype == torch.bool and func is not _T.__float__:
        return [bool(value) for value in whole]
    return [float(value) for value in whole] if tensor.is_floating_point() or func is _T.__float__ else list(whole)


def flat(value: object) -> list[object]:
    """The values in nested lists."""
    return [inner for part in value for inner in flat(part)] if isinstance(value, list) else [value]


def nested(values: list[object], shape: Sequence[int]) -> object:
    """The values as lists of lists of this shape."""
    if not shape:
        return values[0]
    size = len(values) // shape[0] if shape[0] else 0
    return [nested(values[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]
