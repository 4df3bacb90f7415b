"""Between which bounds a value must lie, whatever its sources are: interval arithmetic over the names of operations.

Bounds come from the program's text alone (supports of latents, constraints of parameters, constants): never from values
of latents, parameters or data. They decide whether a partial function (a quotient, a logarithm) is kept from its pole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

TINY = 1e-5  # a bound nearer to a pole than this keeps no step away that a draw could tell


@dataclass(frozen=True)
class Bounds:
    """An interval; an end that is open is never reached.

    Attributes:
        low: lower end.
        high: upper end.
        above: whether the value is strictly above `low`.
        below: whether it is strictly below `high`.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    @property
    def positive(self) -> bool:
        """Strictly above zero: far above it, or above an open end at zero."""
        return self.low >= TINY or (self.low >= 0 and self.above)

    @property
    def negative(self) -> bool:
        """Strictly below zero, likewise."""
        return self.high <= -TINY or (self.high <= 0 and self.below)

    @property
    def nonnegative(self) -> bool:
        """Zero or above."""
        return self.low >= 0

    def within(self, low: float, high: float) -> bool:
        """Whether the value lies strictly between these."""
        up = self.low > low or (self.low == low and self.above) or low == -math.inf
        down = self.high < high or (self.high == high and self.below) or high == math.inf
        return up and down

    def hull(self, other: Bounds) -> Bounds:
        """The smallest interval around both."""
        above = (self.above or other.low < self.low) and (other.above or self.low < other.low)
        below = (self.below or other.high > self.high) and (other.below or self.high > other.high)
        return Bounds(min(self.low, other.low), max(self.high, other.high), above, below)


ANY = Bounds()
POSITIVE = Bounds(0.0, above=True)
NONNEGATIVE = Bounds(0.0)
UNIT = Bounds(0.0, 1.0, above=True, below=True)
INDICATOR = Bounds(0.0, 1.0)


def exactly(value: float) -> Bounds:
    """The bounds of a constant."""
    return ANY if math.isnan(value) else Bounds(value, value)


def _add(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(_sum(a.low, b.low, -math.inf), _sum(a.high, b.high, math.inf), a.above or b.above, a.below or b.below)


def _sum(x: float, y: float, unknown: float) -> float:
    total = x + y
    return unknown if math.isnan(total) else total


def _neg(a: Bounds) -> Bounds:
    return Bounds(-a.high, -a.low, a.below, a.above)


def _mul(a: Bounds, b: Bounds) -> Bounds:
    corners = [
        (_product(x, y), open_x or open_y)
        for x, open_x in ((a.low, a.above), (a.high, a.below))
        for y, open_y in ((b.low, b.above), (b.high, b.below))
    ]
    low, high = min(v for v, _ in corners), max(v for v, _ in corners)
    if (a.positive or a.negative) and (b.positive or b.negative):  # zero is reached by neither
        return Bounds(low, high, all(o for v, o in corners if v == low), all(o for v, o in corners if v == high))
    return Bounds(low, high)


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _reciprocal(a: Bounds) -> Bounds:
    if not (a.positive or a.negative):
        return ANY
    inverse = [math.inf if x == 0 else 0.0 if math.isinf(x) else 1 / x for x in (a.high, a.low)]
    if a.negative:
        return _neg(_reciprocal(_neg(a)))
    return Bounds(inverse[0], inverse[1], a.below or math.isinf(a.high), a.above or a.low == 0)


def _div(a: Bounds, b: Bounds) -> Bounds:
    return _mul(a, _reciprocal(b))


def _abs(a: Bounds) -> Bounds:
    if a.low >= 0:
        return a
    if a.high <= 0:
        return _neg(a)
    return Bounds(0.0, max(-a.low, a.high))


def _monotone(
    function: Callable[[float], float], low: float = -math.inf, high: float = math.inf
) -> Callable[[Bounds], Bounds]:
    """Bounds of an increasing function whose limits `low` and `high` are never reached."""

    def apply(a: Bounds) -> Bounds:
        first, last = _at(function, a.low, low), _at(function, a.high, high)
        return Bounds(first, last, a.above or (first == low and low > -math.inf), a.below or (last == high < math.inf))

    return apply


def _at(function: Callable[[float], float], place: float, limit: float) -> float:
    if math.isinf(place):
        return limit
    try:
        return function(place)
    except (OverflowError, ValueError):
        return limit


def _log(a: Bounds) -> Bounds:
    return _monotone(lambda x: math.log(x) if x > 0 else -math.inf)(
        Bounds(max(a.low, 0.0), max(a.high, 0.0), a.above, a.below)
    )


def _sqrt(a: Bounds) -> Bounds:
    return _monotone(math.sqrt)(Bounds(max(a.low, 0.0), max(a.high, 0.0), a.above, a.below))


def _max(a: Bounds, b: Bounds) -> Bounds:
    top = a if (a.low, a.above) >= (b.low, b.above) else b
    end = a if (a.high, not a.below) >= (b.high, not b.below) else b
    if 0 < top.low < TINY and (a.positive or b.positive) and min(a.low, b.low) >= 0:  # its pole is not even neared
        return Bounds(0.0, end.high, True, end.below)
    return Bounds(top.low, end.high, top.above, end.below)


def _min(a: Bounds, b: Bounds) -> Bounds:
    return _neg(_max(_neg(a), _neg(b)))


def _square(a: Bounds) -> Bounds:
    size = _abs(a)
    return _mul(size, size)


def _softplus(x: float) -> float:
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


RULES: dict[str, Callable[..., Bounds]] = {
    "add": _add,
    "sub": lambda a, b: _add(a, _neg(b)),
    "mul": _mul,
    "div": _div,
    "reciprocal": _reciprocal,
    "neg": _neg,
    "abs": _abs,
    "square": _square,
    "exp": _monotone(math.exp, 0.0),
    "expm1": _monotone(math.expm1, -1.0),
    "log": _log,
    "log1p": lambda a: _log(_add(a, exactly(1.0))),
    "sqrt": _sqrt,
    "rsqrt": lambda a: _reciprocal(_sqrt(a)),
    "softplus": _monotone(_softplus, 0.0),
    "sigmoid": _monotone(lambda x: 1 / (1 + math.exp(-x)), 0.0, 1.0),
    "tanh": _monotone(math.tanh, -1.0, 1.0),
    "cosh": lambda a: Bounds(1.0),
    "erf": _monotone(math.erf, -1.0, 1.0),
    "atan": _monotone(math.atan, -math.pi / 2, math.pi / 2),
    "sin": lambda a: Bounds(-1.0, 1.0),
    "cos": lambda a: Bounds(-1.0, 1.0),
    "relu": lambda a: _max(a, exactly(0.0)),
    "max": _max,
    "min": _min,
    "softmax": lambda a: Bounds(0.0, 1.0, above=True),
    "log_softmax": lambda a: Bounds(-math.inf, 0.0),
    "same": lambda a: a,
    "select": lambda a, b: a.hull(b),
    "sum": lambda a: _sum_of_many(a),
    "mean": lambda a: a,
    "prod": lambda a: POSITIVE if a.positive else NONNEGATIVE if a.nonnegative else ANY,
    "norm": lambda a: POSITIVE if a.positive or a.negative else NONNEGATIVE,
    "var": lambda a: NONNEGATIVE,
    "logsumexp": lambda a: Bounds(a.low),
    "dot": lambda a, b: (
        POSITIVE if a.positive and b.positive else NONNEGATIVE if a.nonnegative and b.nonnegative else ANY
    ),
}
"""Operation -> bounds of the result from bounds of the operands. What is not here may be anything."""


def _sum_of_many(a: Bounds) -> Bounds:
    """Of one element or more, in any number."""
    low = a.low if a.low >= 0 else -math.inf
    high = a.high if a.high <= 0 else math.inf
    return Bounds(low, high, a.above, a.below)


def bounds(name: str, operands: Sequence[Bounds]) -> Bounds:
    """Bounds of an operation's result."""
    rule = RULES.get(name)
    return ANY if rule is None else rule(*operands)


def hull(parts: Sequence[Bounds]) -> Bounds:
    """The smallest interval around all of these."""
    return reduce(Bounds.hull, parts)


def decided(name: str, first: Bounds, second: Bounds) -> bool | None:
    """What the comparison "gt", "ge", "lt" or "le" of two values comes to; None where the bounds alone do not say."""
    if name in ("lt", "le"):
        first, second = second, first
    strict = name in ("gt", "lt")
    if first.low > second.high or (first.low == second.high and (not strict or first.above or second.below)):
        return True
    if first.high < second.low or (first.high == second.low and (strict or first.below or second.above)):
        return False
    return None


def power(a: Bounds, exponent: float) -> Bounds:
    """Of a power with a constant exponent."""
    if exponent < 0:
        return _reciprocal(power(a, -exponent))
    if exponent == int(exponent) and int(exponent) % 2 == 0:
        size = _abs(a)
        return _monotone(lambda x: x**exponent)(size) if exponent else exactly(1.0)
    if exponent == int(exponent) or a.nonnegative:
        return _monotone(lambda x: math.copysign(abs(x) ** exponent, x))(a)
    return ANY


def _positive(a: Bounds) -> bool:
    return a.positive


def _nonzero(a: Bounds) -> bool:
    return a.positive or a.negative


# Partial functions: where operand number so-and-so must lie, or the function may step.
DOMAINS: dict[str, tuple[int, Callable[[Bounds], bool]]] = {
    "div": (1, _nonzero),
    "reciprocal": (0, _nonzero),
    "log": (0, _positive),
    "log2": (0, _positive),
    "log10": (0, _positive),
    "log1p": (0, lambda a: a.low > -1 + TINY or (a.low == -1 and a.above)),
    "sqrt": (0, lambda a: a.nonnegative),
    "rsqrt": (0, lambda a: a.positive or a.low > TINY**2),
    "cbrt": (0, lambda a: True),
    "tan": (0, lambda a: a.within(-math.pi / 2, math.pi / 2)),
    "lgamma": (0, _positive),
    "digamma": (0, _positive),
    "polygamma": (1, _positive),
    "zeta": (1, _positive),
    "erfinv": (0, lambda a: a.within(-1, 1)),
    "asin": (0, lambda a: a.low >= -1 and a.high <= 1),
    "acos": (0, lambda a: a.low >= -1 and a.high <= 1),
    "acosh": (0, lambda a: a.low >= 1),
    "atanh": (0, lambda a: a.within(-1, 1)),
    "logit": (0, lambda a: a.within(0, 1)),
    "ndtri": (0, lambda a: a.within(0, 1)),
    "entr": (0, lambda a: a.nonnegative),
    "xlogy": (1, _positive),
    "xlog1py": (1, lambda a: a.low > -1 + TINY or (a.low == -1 and a.above)),
}


def may_step(name: str, operands: Sequence[Bounds]) -> bool:
    """Whether a partial function may be met beside or across its pole."""
    if name not in DOMAINS:
        return False
    place, inside = DOMAINS[name]
    return not inside(operands[place])


def power_may_step(base: Bounds, exponent: float | None) -> bool:
    """Likewise of a power; `exponent` None where it is no constant."""
    if exponent is None:
        return not base.positive
    if exponent == int(exponent):
        return exponent < 0 and not _nonzero(base)
    return not (base.positive if exponent < 0 else base.nonnegative)
