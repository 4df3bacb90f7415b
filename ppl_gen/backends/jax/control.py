"""Loops, branches, sorts and solvers, whose functions are walked into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from ppl_gen.backends.jax.calls import Function, opened, scan_lengths
from ppl_gen.backends.jax.known import (
    Known,
    Reach,
    is_discrete,
    poled,
    whole,
)
from ppl_gen.backends.jax.scope import Scope
from ppl_gen.program import blocked, merge

Walk = Callable[[Function, Sequence[Known], Scope], list[Known]]
"""Gives what is known of a function's outputs, given what is known of its inputs."""


def _scan(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope, walk: Walk) -> list[Reach]:
    first, carried = scan_lengths(eqn)
    last = first + carried

    def body(carry: list[Reach]) -> list[Reach]:
        outs = walk(eqn.params["jaxpr"], [*ins[:first], *map(Known, carry), *map(_slice, ins[last:])], scope)
        return [out.reach for out in outs]

    carry = _settle([known.reach for known in ins[first:last]], body)
    return [*carry, *body(carry)[len(carry) :]]


def _slice(own: Known) -> Known:
    """What is known of a part of an array."""
    return replace(own, expr=None, diagonal=False)


def _while(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope, walk: Walk) -> list[Reach]:
    """A loop of unknown length: JAX cannot differentiate it backwards, so whatever reaches it jumps."""
    test, body = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]

    def step(carry: list[Reach]) -> list[Reach]:
        return [out.reach for out in walk(eqn.params["body_jaxpr"], [*ins[test:body], *map(Known, carry)], scope)]

    carry = _settle([known.reach for known in ins[body:]], step)
    (going,) = walk(eqn.params["cond_jaxpr"], [*ins[:test], *map(Known, carry)], scope)
    if own.kinked:
        return [merge(out, going.reach) for out in carry]
    return [blocked(merge(out, going.reach), scope.where(eqn, [Known(out), going])) for out in carry]


def _cond(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope, walk: Walk) -> list[Reach]:
    choice = ins[0].reach if own.kinked else blocked(ins[0].reach, scope.where(eqn, ins[:1]))
    branches = [[out.reach for out in walk(branch, ins[1:], scope)] for branch in eqn.params["branches"]]
    return [merge(choice, *outs) for outs in zip(*branches, strict=True)]


def _sort(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope, walk: Walk) -> list[Reach]:
    """Sorted values are kinked in themselves; what is carried along jumps with the keys."""
    reaches = [known.reach for known in ins]
    if own.kinked:
        return [merge(*reaches)] * len(ins)
    where = scope.where(eqn, ins)
    keys = [blocked(key, where) for key in reaches[: eqn.params["num_keys"]]]
    return [
        merge(blocked(reach, where) if is_discrete(eqn.outvars[i]) else reach, *keys[:i], *keys[i + 1 :])
        for i, reach in enumerate(reaches)
    ]


def _linear_solve(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope, walk: Walk) -> list[Reach]:
    """The x with A x = b is smooth in b, and in A where it cannot come to be singular, however the solver pivots."""
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    right = ins[sum(lengths) :]
    product = walk(jaxprs.matvec, [*ins[: lengths.matvec], *right], scope)
    matrix = merge(
        *(known.reach for known in walk(jaxprs.matvec, [*ins[: lengths.matvec], *[Known({})] * len(right)], scope))
    )
    if _singular(jaxprs.solve) and "custom_linear_solve" not in own.harmless:
        matrix = poled(matrix, scope.where(eqn, ins))
    solver = blocked(whole(ins), scope.where(eqn, ins))
    return [solver | merge(*(known.reach for known in (*product, *right))) | matrix] * len(eqn.outvars)


def _singular(function: Function) -> bool:
    """Whether a solver takes any matrix, and not only a positive definite one."""
    names = {eqn.primitive.name for eqn in opened(function)[0].eqns}
    return "cholesky" not in names


STRUCTURED: dict[str, Callable[[JaxprEqn, list[Known], Scope, Scope, Walk], list[Reach]]] = {
    "scan": _scan, "while": _while, "cond": _cond, "sort": _sort, "custom_linear_solve": _linear_solve
}  # fmt: skip


def _settle(carry: list[Reach], body: Callable[[list[Reach]], list[Reach]]) -> list[Reach]:
    """The fixed point of a loop's carry; sources are only ever added and jumps stay, so it comes."""
    while True:
        grown = [merge(old, new) for old, new in zip(carry, body(carry), strict=False)]
        if grown == carry:
            return carry
        carry = grown
