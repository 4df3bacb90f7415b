"""What else an equation says of its results: bounds, expressions, borders of conditions, distance from zero."""

from __future__ import annotations

from dataclasses import replace

from jax.extend.core import JaxprEqn

from ppl_gen.backends.jax import ranges
from ppl_gen.backends.jax.calls import shape_of
from ppl_gen.backends.jax.known import (
    Known,
    Reach,
    has_latents,
    is_discrete,
    whole,
)
from ppl_gen.backends.jax.smooth import (
    NAN,
)
from ppl_gen.program import merge
from ppl_gen.program.bounds import ANY
from ppl_gen.program.continuity import Expr

LOOSE = frozenset(("scan", "while", "cond", "custom_linear_solve"))
"""Primitives of whose results nothing else is known."""


def described(eqn: JaxprEqn, ins: list[Known], reaches: list[Reach]) -> list[Known]:
    """What reaches an equation's outputs, with what else is known of them."""
    name = eqn.primitive.name
    doubt = frozenset().union(*(own.doubt for own in ins))
    if name in NAN:
        doubt |= frozenset(whole(ins))
    if name == "sort":
        return _sorted(eqn, ins, reaches, doubt)
    if name in LOOSE or not reaches:
        return [Known(reach, doubt=doubt) for reach in reaches]
    limits = [own.bounds for own in ins]
    bounds = ranges.result(eqn, limits)
    exprs = [own.expr for own in ins if own.expr is not None]
    expr = ranges.expression(eqn, exprs, limits) if len(exprs) == len(ins) else None
    first = Known(reaches[0], bounds, expr, _border(eqn, ins), _clear(name, ins), _diagonal(eqn, ins), doubt)
    return [
        first,
        *(Known(reach, bounds if name in ("split", "unstack") else ANY, doubt=doubt) for reach in reaches[1:]),
    ]


def _sorted(eqn: JaxprEqn, ins: list[Known], reaches: list[Reach], doubt: frozenset[str]) -> list[Known]:
    """Sorted operands lie between the bounds of the operands; positions sorted along with one array are its argsort."""
    outs = [Known(reach, own.bounds, doubt=doubt) for reach, own in zip(reaches, ins, strict=True)]
    lone = len(ins) == 2 and eqn.params["num_keys"] == 1 and len(shape_of(eqn.invars[0])) == 1
    if lone and ins[1].expr == ranges.POSITIONS and ins[0].expr is not None:
        outs[1] = replace(outs[1], expr=Expr(ranges.ARGSORT, (ins[0].expr,)))
    return outs


def _border(eqn: JaxprEqn, ins: list[Known]) -> Reach | None:
    """What reaches the sides of the comparisons that a condition is made of."""
    name = eqn.primitive.name
    if name in ("gt", "ge", "lt", "le"):
        return None if any(map(is_discrete, eqn.invars)) else whole(ins)
    if name in ("and", "or", "not"):
        parts = [own.border for own in ins if own.reach]
        return merge(*(part for part in parts if part is not None)) if None not in parts else None
    if name in ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "copy"):
        return ins[0].border
    return None


def _clear(name: str, ins: list[Known]) -> bool:
    """Whether what holds latents stays away from zero, as all its factors do."""
    if name not in FACTORS:
        return False
    return all(own.clear or own.bounds.positive or own.bounds.negative or not has_latents(own.reach) for own in ins)


FACTORS = frozenset(
    "mul div neg abs sqrt rsqrt square integer_pow exp exp2 cbrt broadcast_in_dim reshape transpose squeeze rev slice gather "
    "dynamic_slice copy convert_element_type".split()
)
"""Primitives whose result is zero only where one of their operands is."""


def _diagonal(eqn: JaxprEqn, ins: list[Known]) -> bool:
    name = eqn.primitive.name
    if name == "cholesky":
        return True
    if name == "mul":
        return any(own.diagonal for own in ins) and all(own.diagonal or _clear("mul", [own]) for own in ins)
    if name == "select_n":
        return not ins[0].reach and any(own.diagonal for own in ins[1:])
    return name in ("transpose", "broadcast_in_dim", "squeeze", "copy", "convert_element_type") and ins[0].diagonal
