"""What the host can learn of a tensor, by which functions, and what it could be told."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ppl_gen.backends.torch.ranges import Range

MOST_OUTCOMES = 32  # of one read

_torch: Any = torch
_T: Any = Tensor

YES_OR_NO = frozenset([_T.__bool__, torch.is_nonzero, _T.is_nonzero])
COMPARED = frozenset([torch.equal, _T.equal, torch.allclose, _T.allclose])
INTEGERS = frozenset([_T.__int__, _T.__index__])
VALUES = frozenset([_T.item, _T.__float__])
LISTS = frozenset([_T.tolist])
ANSWERED = YES_OR_NO | COMPARED | INTEGERS | VALUES | LISTS


def outcomes(func: Any, tensor: Tensor, found: Range) -> list[object] | None:
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
