"""Between which bounds the elements of every tensor lie, as far as the program's text tells; see `ppl_gen.program.bounds`.

One range for each storage: the hull of all that was written there. What is no latent, and is not made from numbers inside
the run, may be anything, since parameters and data change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_gen.backends.torch.words import storage, unwatched
from ppl_gen.program.bounds import ANY, INDICATOR, NONNEGATIVE, POSITIVE, UNIT, Bounds, bounds, exactly, power

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


class Ranges:
    """The ranges of all storages."""

    def __init__(self) -> None:
        self._held: dict[int, Range] = {}
        self._alive: list[object] = []

    def of(self, value: object) -> Range:
        """Of a tensor or a number."""
        if isinstance(value, bool | int | float):
            return Range(exactly(float(value)), float(value).is_integer())
        if not isinstance(value, Tensor):
            return UNKNOWN
        found = self._held.get(storage(value))
        if found is not None:
            return found
        if value.dtype == torch.bool:
            return YES_OR_NO
        return Range(ANY, whole=not (value.is_floating_point() or value.is_complex()))

    @unwatched()
    def set(self, tensor: Tensor, found: Range) -> None:
        """All of a tensor's memory."""
        if storage(tensor):
            self._held[storage(tensor)] = found
            self._alive.append(tensor.untyped_storage())

    @unwatched()
    def narrow(self, tensor: Tensor, found: Range) -> None:
        """Of a tensor of which nothing is known yet."""
        if self.of(tensor).bounds == ANY:
            self.set(tensor, found)

    def operation(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        written: Sequence[Tensor],
    ) -> None:
        """Follows one operation."""
        old = {storage(tensor) for tensor in inputs}
        fresh = [t for t in outputs if storage(t) not in old and not any(t is w for w in written)]
        if not fresh and not written:
            return
        found = self._result(name, args, kwargs)
        for number, tensor in enumerate(fresh):
            own = found if number == 0 else _other_result(name, number, found, inputs)
            self.set(tensor, _as_type(own, tensor))
        for tensor in written:
            own = _as_type(found, tensor)
            covered = (
                tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
                if storage(tensor)
                else False
            )
            self.set(tensor, own if covered else self.of(tensor).hull(own))

    def _result(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
        rule = RULES.get(name)
        try:
            return UNKNOWN if rule is None else rule(self.of, args, kwargs)
        except (IndexError, TypeError, ValueError, OverflowError):
            return UNKNOWN


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


def _other_result(name: str, number: int, found: Range, inputs: Sequence[Tensor]) -> Range:
    """Of a second or third result: places, where there are values and places."""
    if name in ("unbind", "split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "aminmax"):
        return found
    if name in ("max", "min", "sort", "topk", "median", "mode", "kthvalue", "cummax", "cummin"):
        return Range(NONNEGATIVE, whole=True)
    return UNKNOWN


Of = Callable[[object], Range]
Rule = Callable[[Of, Sequence[Any], Mapping[str, Any]], Range]
RULES: dict[str, Rule] = {}
_WHOLE = frozenset("add sub mul neg abs square max min same select sum prod relu".split())


def _named(name: str, count: int = 1) -> Rule:
    """A rule of `ppl_gen.program.bounds`, of the first `count` operands."""

    def rule(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
        operands = [of(value) for value in args[:count]]
        whole = name in _WHOLE and all(operand.whole for operand in operands)
        return Range(bounds(name, [operand.bounds for operand in operands]), whole)

    return rule


def _hull_of(*places: int) -> Rule:
    """Around these operands; lists count by what is in them."""

    def rule(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
        found = []
        for place in places:
            value = args[place] if place < len(args) else kwargs.get("value", kwargs.get("src"))
            found += [of(inner) for inner in value] if isinstance(value, list | tuple) else [of(value)]
        return hull(found)

    return rule


def _and_zero(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return of(args[0]).hull(of(0))


def _padded(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return of(args[0]).hull(of(args[2] if len(args) > 2 else 0))


def _sum_of_two(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any], sign: int = 1) -> Range:
    alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    a, b = of(args[0]), of(args[1])
    times = Range(bounds("mul", [b.bounds, exactly(float(sign * alpha))]), b.whole and float(alpha).is_integer())
    return Range(bounds("add", [a.bounds, times.bounds]), a.whole and times.whole)


def _difference(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return _sum_of_two(of, args, kwargs, -1)


def _reverse_difference(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return _sum_of_two(of, [args[1], args[0]], {}, -1) if len(args) < 3 and not kwargs else UNKNOWN


def _quotient(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    found = bounds("div", [of(args[0]).bounds, of(args[1]).bounds])
    return Range(found) if kwargs.get("rounding_mode") is None else Range(ANY, whole=True)


def _product(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return _named("square")(of, args, kwargs) if args[0] is args[1] else _named("mul", 2)(of, args, kwargs)


def _clamped(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    found = of(args[0])
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    for name, end in (("max", low), ("min", high)):
        if end is not None:
            found = Range(bounds(name, [found.bounds, of(end).bounds]), found.whole and of(end).whole)
    return found


def _clamped_above(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return _clamped(of, [args[0], None, args[1]], {})


def _power(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    base, exponent = of(args[0]), args[1]
    if isinstance(exponent, int | float):
        return Range(power(base.bounds, float(exponent)), base.whole and exponent >= 0 and float(exponent).is_integer())
    return Range(POSITIVE) if base.bounds.positive else Range(NONNEGATIVE) if base.bounds.nonnegative else UNKNOWN


def _total(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    found, dims = of(args[0]), args[1] if len(args) > 1 else None
    shape = args[0].shape
    kept = range(len(shape)) if not dims and dims != 0 else dims if isinstance(dims, list | tuple) else [dims]
    count = math.prod(shape[dim] for dim in kept)
    if not count:
        return Range(exactly(0.0), whole=True)
    times = bounds("mul", [found.bounds, exactly(float(count))])
    return Range(Bounds(times.low, times.high, found.bounds.above, found.bounds.below), found.whole)


def _running_total(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    found = of(args[0])
    return found.hull(Range(bounds("sum", [found.bounds]), found.whole))


def _comparison(name: str) -> Rule:
    def rule(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
        a, b = of(args[0]).bounds, of(args[1]).bounds
        if name in ("lt", "le"):
            a, b = b, a
        strict = name in ("gt", "lt")
        above = a.low > b.high or (a.low == b.high and (not strict or a.above or b.below))
        below = a.high < b.low or (a.high == b.low and (strict or a.below or b.above))
        return Range(exactly(1.0), True) if above else Range(exactly(0.0), True) if below else YES_OR_NO

    return rule


def _rounded(function: Callable[[float], float]) -> Rule:
    def rule(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
        found = of(args[0]).bounds
        low, high = (function(end) if math.isfinite(end) else end for end in (found.low, found.high))
        return Range(Bounds(float(low), float(high)), whole=True)

    return rule


def _remainder(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    divisor = args[1]
    if not isinstance(divisor, int | float) or divisor <= 0:
        return UNKNOWN
    whole = of(args[0]).whole and float(divisor).is_integer()
    return Range(Bounds(0.0, divisor - 1.0 if whole else float(divisor)), whole)


def _position(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    length = args[0].numel() if dim is None else args[0].shape[dim]
    return Range(Bounds(0.0, float(max(length - 1, 0))), whole=True)


def _sequence(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    start, end = (0, args[0]) if len(args) == 1 else (args[0], args[1])
    whole = all(float(value).is_integer() for value in args)
    return Range(Bounds(float(min(start, end)), float(max(start, end))), whole)


def _put(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return UNKNOWN if len(args) > 3 and args[3] else _hull_of(0, 2)(of, args, kwargs)


def _scattered(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return UNKNOWN if "reduce" in kwargs or len(args) < 4 else _hull_of(0, 3)(of, args, kwargs)


def _given(place: int) -> Rule:
    return lambda of, args, kwargs: of(args[place])


def _fixed(found: Range) -> Rule:
    return lambda of, args, kwargs: found


def _chosen(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return hull([of(args[1]), of(args[2])])


for _names, _rule in {
    "add": _sum_of_two,
    "sub": _difference,
    "rsub": _reverse_difference,
    "mul": _product,
    "div true_divide": _quotient,
    "maximum fmax": _named("max", 2),
    "minimum fmin": _named("min", 2),
    "clamp clamp_min clip": _clamped,
    "clamp_max": _clamped_above,
    "pow": _power,
    "sum": _total,
    "cumsum": _running_total,
    "where": _chosen,
    "mm bmm mv dot": _named("dot", 2),
    "cat stack hstack vstack": _hull_of(0),
    "masked_fill": _hull_of(0, 2),
    "masked_scatter": _hull_of(0, 2),
    "index_put": _put,
    "scatter": _scattered,
    "slice_scatter select_scatter diagonal_scatter": _hull_of(0, 1),
    "constant_pad_nd": _padded,
    "tril triu diag_embed": _and_zero,
    "copy fill": _given(1),
    "zero zeros zeros_like new_zeros": _fixed(Range(exactly(0.0), True)),
    "ones ones_like new_ones": _fixed(Range(exactly(1.0), True)),
    "full full_like": _given(1),
    "new_full": _given(2),
    "scalar_tensor": _given(0),
    "empty empty_like new_empty empty_strided new_empty_strided": _fixed(Range(NOTHING, True)),
    "eye bernoulli logical_and logical_or logical_not logical_xor isnan isinf isfinite any all": _fixed(YES_OR_NO),
    "eq ne signbit isin": _fixed(YES_OR_NO),
    "rand rand_like": _fixed(Range(UNIT)),
    "_standard_gamma exponential": _fixed(Range(POSITIVE)),
    "arange": _sequence,
    "cholesky linalg_cholesky_ex": _fixed(Range(factor=True)),
    "argmax argmin": _position,
    "remainder": _remainder,
    "std var linalg_vector_norm norm": _fixed(Range(NONNEGATIVE)),
    "_softmax _safe_softmax softmax": _named("softmax"),
    "_log_softmax log_softmax": _named("log_softmax"),
    "logsumexp": _named("logsumexp"),
    "sign sgn": _fixed(Range(Bounds(-1.0, 1.0), True)),
}.items():
    RULES.update(dict.fromkeys(_names.split(), _rule))
for _name in (
    "neg reciprocal abs square exp expm1 log log1p sqrt rsqrt sigmoid tanh cosh erf atan sin cos relu mean prod".split()
):
    RULES[_name] = _named(_name)
for _name in "gt ge lt le".split():
    RULES[_name] = _comparison(_name)
RULES |= {"floor": _rounded(math.floor), "ceil": _rounded(math.ceil)}
RULES |= {"round": _rounded(lambda value: round(value)), "trunc": _rounded(math.trunc)}
for (
    _name
) in """clone _to_copy lift_fresh alias detach amax amin max min median nanmedian mode kthvalue sort topk cummax cummin
    aminmax index gather index_select embedding repeat flip roll expand_copy view_copy take diagonal_copy _unsafe_view
    unfold_copy masked_select""".split():
    RULES[_name] = _named("same")


def _softplus(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return Range(bounds("softplus", [of(args[0]).bounds]) if len(args) == 1 and not kwargs else POSITIVE)


RULES["softplus"] = _softplus


def of_support(support: Any) -> Range:
    """Of the values of a latent with this support; an end of a continuous one has no mass."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean or support is constraints.one_hot:
        return YES_OR_NO
    if isinstance(support, type(constraints.corr_cholesky) | type(constraints.lower_cholesky)):
        return Range(factor=True)
    low, high = (_number(getattr(support, name, None)) for name in ("lower_bound", "upper_bound"))
    if isinstance(support, type(constraints.simplex)):
        return Range(UNIT)
    if support.is_discrete:
        lowest = low if low is not None else 0.0 if isinstance(support, constraints.multinomial) else -math.inf
        return Range(Bounds(lowest, math.inf if high is None else high), whole=True)
    if low is None and high is None:
        return UNKNOWN
    return Range(
        Bounds(-math.inf if low is None else low, math.inf if high is None else high, low is not None, high is not None)
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
