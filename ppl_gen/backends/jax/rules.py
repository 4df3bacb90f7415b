"""What one primitive does to the sources of its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from ppl_gen.backends.jax import ranges
from ppl_gen.backends.jax.calls import Atom
from ppl_gen.backends.jax.known import (
    Known,
    Reach,
    dtype_of,
    is_coarse,
    is_discrete,
    poled,
    whole,
)
from ppl_gen.backends.jax.scope import Scope
from ppl_gen.backends.jax.smooth import (
    AMBIGUOUS,
    CUTS,
    DETACHED,
    KINKED,
    PARTIAL,
)
from ppl_gen.program import blocked, merge
from ppl_gen.program.bounds import decided
from ppl_gen.program.continuity import Expr, const, is_continuous, simplify


def rule_of(eqn: JaxprEqn) -> Callable[[JaxprEqn, list[Known], Scope], list[Reach]]:
    """The rule of an ordinary primitive."""
    name = eqn.primitive.name
    if name == "select_n":
        return _select
    if name == "mul":
        return _product
    if name == "is_finite" or (name in COMPARED and _asks_if_number(*eqn.invars)):
        return _of_a_number
    if name in ("gt", "ge", "lt", "le"):
        return _comparison
    if name in ("gather", "dynamic_slice"):
        return _gather
    return kinked if (name in KINKED or name in PARTIAL) and not eqn.effects else opaque


def kinked(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """An ordinary primitive: smooth or kinked from float to float, unless it comes to a pole."""
    where, name = scope.where(eqn, ins), eqn.primitive.name
    detached, ambiguous = DETACHED.get(name, ()), AMBIGUOUS.get(name, ())
    if name in CUTS and any(jnp.issubdtype(dtype_of(atom), jnp.complexfloating) for atom in eqn.outvars):
        return opaque(eqn, ins, replace(scope, kinked=False))
    if name == "convert_element_type" and is_coarse(eqn.outvars[0]):
        return opaque(eqn, ins, replace(scope, kinked=False))
    poles = _poles(eqn, ins, scope)
    parts = []
    for i, (own, atom) in enumerate(zip(ins, eqn.invars, strict=True)):
        stops = i in detached or (is_discrete(atom) and not scope.kinked)
        parts.append(blocked(own.reach, where) if stops else poled(own.reach, where) if i in poles else own.reach)
    passed = merge(*parts)
    step = blocked(passed, where)
    return [
        step if i in ambiguous or (is_discrete(atom) and not scope.kinked) else passed
        for i, atom in enumerate(eqn.outvars)
    ]


def _poles(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> tuple[int, ...]:
    """The operands, by position, whose latents may come to a pole of the primitive."""
    name = PARTIAL.get(eqn.primitive.name)
    if name is None or eqn.primitive.name in scope.harmless:
        return ()
    found = ranges.at_pole(eqn, name, [own.bounds for own in ins])
    if name == "triangular_solve":
        return tuple(i for i in found if not ins[i].diagonal)
    if name in ("div", "log", "sqrt", "rsqrt", "pow"):
        return tuple(i for i in found if not ins[i].clear)
    return found


def _comparison(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """A comparison, which is none where the bounds have decided it."""
    return [{}] if decided(eqn.primitive.name, *(own.bounds for own in ins)) is not None else opaque(eqn, ins, scope)


COMPARED = frozenset("eq ne gt ge lt le".split())


def _asks_if_number(first: Atom, second: Atom) -> bool:
    """Whether a comparison is of a value with itself, or with infinity."""
    return first is second or (isinstance(second, Literal) and bool(np.all(np.isinf(second.val))))


def _of_a_number(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """Whether a value is a finite number: it is, but where it passed a pole or may have left a domain."""
    own = ins[0]
    loose = {s: path for s, path in own.reach.items() if path.jump or s in own.doubt}
    return [blocked(loose, scope.where(eqn, ins))]


def _gather(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """An array at its own argsort, or at a part of it, is the array sorted, upwards or downwards."""
    index, own = ins[1].expr, ins[0].expr
    single = set(eqn.params["slice_sizes"]) == {1}
    if index is not None and own is not None and index.op == ranges.ARGSORT and single:
        key = simplify(index.args[0])
        if key in (simplify(own), simplify(Expr("neg", (own,)))):
            return [ins[0].reach]
    return kinked(eqn, ins, scope)


def _select(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    which, *cases = ins
    if which.expr is not None and which.expr.op == "const":
        return [cases[int(which.expr.value)].reach]
    if len(cases) == 2 and _meet(which, cases[1].expr, cases[0].expr):
        return [merge(which.border or {}, *(case.reach for case in cases))]
    return kinked(eqn, ins, scope)


def _product(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    for factor, other in (ins, ins[::-1]):
        if factor.expr is not None and factor.expr.op == "indicator":
            condition = replace(factor, expr=factor.expr.args[0])
            if _meet(condition, other.expr, const(0)):
                return [merge(condition.border or {}, other.reach)]
    return kinked(eqn, ins, scope)


def _meet(condition: Known, first: Expr | None, second: Expr | None) -> bool:
    """Whether two pieces are one where the condition turns."""
    if not condition.reach or condition.border is None or None in (condition.expr, first, second):
        return False
    assert condition.expr is not None and first is not None and second is not None
    return is_continuous(condition.expr, first, second)


def opaque(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """What passes no gradient."""
    sources = whole(ins)
    return [sources if scope.kinked else blocked(sources, scope.where(eqn, ins))] * len(eqn.outvars)
