"""Pieces that meet where they join are told from a step, by algebra alone."""

from __future__ import annotations

import pytest

from ppl_gen.program.continuity import Expr, const, is_continuous, simplify, unknown

Z, W = unknown(1), unknown(2)


def of(op: str, *args: Expr | float) -> Expr:
    return Expr(op, tuple(arg if isinstance(arg, Expr) else const(arg) for arg in args))


def above(left: Expr | float, right: Expr | float = 0.0) -> Expr:
    return of("gt", left, right)


MEETING = {
    "relu": (above(Z), Z, const(0)),
    "no slope below": (above(Z), Z, of("mul", 0, Z)),
    "leaky": (of("lt", Z, 0), of("mul", 0.1, Z), Z),
    "shifted": (above(Z, 1), of("sub", Z, 1), const(0)),
    "huber": (of("lt", of("abs", Z), 1), of("mul", 0.5, of("pow", Z, 2)), of("sub", of("abs", Z), 0.5)),
    "elu": (above(Z), Z, of("expm1", Z)),
    "elu, written out": (above(Z), Z, of("sub", of("exp", Z), 1)),
    "the larger of two": (above(Z, W), Z, W),
    "the larger of two, doubled": (above(Z, W), of("mul", 2, Z), of("add", W, Z)),
    "a scaled border": (above(of("mul", 2, Z), 1), Z, const(0.5)),
    "within an interval": (of("and", above(Z, -1), of("lt", Z, 1)), of("sub", 1, of("pow", Z, 2)), const(0)),
    "the same on both sides": (above(Z), W, W),
}
APART = {
    "a step": (above(Z), const(1), const(0)),
    "a gap": (above(Z), of("add", Z, 0.1), const(0)),
    "the wrong border": (above(Z, 1), Z, const(0)),
    "another variable's border": (above(W), Z, const(0)),
    "only one border meets": (of("and", above(Z, -1), of("lt", Z, 1)), of("add", Z, 1), const(0)),
    "no comparison": (unknown(7), Z, const(0)),
    "equality": (of("eq", Z, 0), Z, const(0)),
    "a gate": (above(W), of("mul", Z, W), Z),
}


@pytest.mark.parametrize("name", MEETING)
def test_pieces_that_meet(name: str) -> None:
    assert is_continuous(*MEETING[name])


@pytest.mark.parametrize("name", APART)
def test_pieces_that_do_not_meet(name: str) -> None:
    assert not is_continuous(*APART[name])


def test_one_value_has_one_simple_form() -> None:
    assert simplify(of("add", of("mul", 2, Z), of("neg", Z))) == Z
    assert simplify(of("sub", Z, Z)) == const(0)
    assert simplify(of("mul", of("add", Z, 1), 0)) == const(0)
    assert simplify(of("add", Z, W)) == simplify(of("add", W, Z))


def test_a_long_expression_is_not_looked_at() -> None:
    long = Z
    for _ in range(300):
        long = of("tanh", long)
    assert not is_continuous(above(long), long, const(0))
