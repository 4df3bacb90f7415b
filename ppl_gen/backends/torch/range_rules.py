"""Between which bounds the result of each aten operation lies, given those of its operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ppl_gen.backends.torch.intervals import NOTHING, UNKNOWN, YES_OR_NO, Range, hull
from ppl_gen.program.bounds import ANY, NONNEGATIVE, POSITIVE, UNIT, Bounds, bounds, decided, exactly, power

Of = Callable[[object], Range]


Rule = Callable[[Of, Sequence[Any], Mapping[str, Any]], Range]


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
        found = decided(name, of(args[0]).bounds, of(args[1]).bounds)
        return YES_OR_NO if found is None else Range(exactly(float(found)), True)

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


def _softplus(of: Of, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Range:
    return Range(bounds("softplus", [of(args[0]).bounds]) if len(args) == 1 and not kwargs else POSITIVE)


_NAMED: dict[str, Rule] = {
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
    "softplus": _softplus,
    "floor": _rounded(math.floor),
    "ceil": _rounded(math.ceil),
    "round": _rounded(lambda value: round(value)),
    "trunc": _rounded(math.trunc),
    """clone _to_copy lift_fresh alias detach amax amin max min median nanmedian mode kthvalue sort topk cummax cummin
    aminmax index gather index_select embedding repeat flip roll expand_copy view_copy take diagonal_copy _unsafe_view
    unfold_copy masked_select""": _named("same"),
}
RULES: dict[str, Rule] = {name: rule for names, rule in _NAMED.items() for name in names.split()}
RULES |= {name: _comparison(name) for name in ("gt", "ge", "lt", "le")}
RULES |= {
    name: _named(name)
    for name in "neg reciprocal abs square exp expm1 log log1p sqrt rsqrt sigmoid tanh cosh erf atan sin cos relu mean prod".split()
}
"""Operation -> the range of its first result."""
