"""What the elements of a tensor may be: between which bounds, whole numbers or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ppl_gen.program.bounds import ANY, INDICATOR, Bounds

NOTHING = Bounds(math.inf, -math.inf)  # of memory that nobody has written


@dataclass(frozen=True)
class Range:
    """What elements may be.

    Attributes:
        bounds: between which bounds.
        whole: whether they are whole numbers.
        factor: whether they are those of a Cholesky factor, whose diagonal is positive.
    """

    bounds: Bounds = ANY
    whole: bool = False
    factor: bool = False

    def hull(self, other: Range) -> Range:
        """The smallest range around both."""
        if NOTHING in (self.bounds, other.bounds):
            return other if self.bounds == NOTHING else self
        return Range(self.bounds.hull(other.bounds), self.whole and other.whole)


UNKNOWN = Range()


YES_OR_NO = Range(INDICATOR, whole=True)


def hull(ranges: Sequence[Range]) -> Range:
    """Around all of several."""
    found = Range(NOTHING, whole=True)
    for one in ranges:
        found = found.hull(one)
    return found if ranges else UNKNOWN


def numbers(value: object) -> list[float] | None:
    """The numbers in nested lists; None where anything else is in them."""
    if isinstance(value, bool | int | float):
        return [float(value)]
    if not isinstance(value, list | tuple):
        return None
    parts = [numbers(inner) for inner in value]
    return None if any(part is None for part in parts) else [number for part in parts for number in part or ()]
