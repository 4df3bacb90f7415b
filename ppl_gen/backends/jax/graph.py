"""Which values reach which in a JAX program, and where a way stops being differentiable.

The walker reads a jaxpr forwards. At each equation it asks what every operand's sources become in every
output: still differentiable, or through a *jump*. Where it cannot know it says jump: a wrong suspicion costs
variance (the score function is used where pathwise would have done), a wrong trust would cost a bias.
A few rules do most of the work, and the tables of `ppl_gen.backends.jax.smooth` hold the rest:

* a value that is not floating point carries no derivative, so it is a jump going in and coming out
  (comparisons, argmax, casts, the indices of a gather, the predicate of a select);
* a primitive that stands on no list of smooth ones is a jump, and so is a host callback;
* a partial one (a quotient, a logarithm) is a jump of the latents that may come to its pole: bounds follow each value;
* a select is none where algebra shows that its pieces meet (`ppl_gen.program.continuity`);
* calls, scans, loops and branches are walked into;
* JAX's own functions that are named in ``CONTINUOUS`` compare and select without a jump.
"""

from __future__ import annotations

import itertools
import os.path
import sysconfig
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax._src import source_info_util  # the only place that names an equation's line
from jax._src.core import jaxprs_in_params
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from ppl_gen.backends.jax import ranges
from ppl_gen.backends.jax.calls import CALLS, called, is_mutable, scan_lengths
from ppl_gen.backends.jax.moves import shape_of
from ppl_gen.backends.jax.smooth import (
    AMBIGUOUS,
    CONTINUOUS,
    CUTS,
    DETACHED,
    ENTIRE,
    KINKED,
    NAN,
    PARTIAL,
    QUOTIENTS,
    SOLVERS,
    WRITES_OVER_NAN,
)
from ppl_gen.program import NOISE, PARAM, Path, blocked, merge
from ppl_gen.program.bounds import ANY, Bounds
from ppl_gen.program.continuity import Expr, const, is_continuous, simplify, unknown

Reach = dict[str, Path]

_JAX = os.path.dirname(jax.__file__) + os.sep
_RANDOM = os.path.join(_JAX, "_src", "random")
_NUMPYRO = os.path.join(os.path.dirname(numpyro.__file__), "distributions")
_INSTALLED = sysconfig.get_path("purelib") + os.sep


@dataclass(frozen=True)
class Known:
    """What is known of a value, whatever its sources are.

    Attributes:
        reach: the sources that reach it, and how.
        bounds: between which it lies.
        expr: how it was made, elementwise; equal expressions are equal arrays.
        border: of a condition: what reaches the sides of its comparisons.
        clear: whether it stays away from zero however its latents move.
        diagonal: whether that is so of a matrix's diagonal.
        doubt: sources that came through what may have left its domain.
        rising: whether it is a constant whose elements strictly increase.
    """

    reach: Reach
    bounds: Bounds = ANY
    expr: Expr | None = None
    border: Reach | None = None
    clear: bool = False
    diagonal: bool = False
    doubt: frozenset[str] = frozenset()
    rising: bool = False


def reach(
    closed_jaxpr: ClosedJaxpr,
    sources: Sequence[Mapping[str, Path]],
    limits: Sequence[Bounds] | None = None,
    trusted: bool = True,
) -> list[Reach]:
    """Which sources reach each output of a program, and whether differentiably all along.

    Args:
        closed_jaxpr: the program, as ``jax.make_jaxpr`` gives it.
        sources: for each input the sources that reach it, usually ``{label: Path()}`` or ``{}``.
        limits: the bounds of each input; they may be anything where not given.
        trusted: whether arrays that the program holds are the same in every batch.

    Returns:
        For each output ``source -> Path``; a jump reads ``"model.py:12: gt"``, the user's line and the
        primitive, or the primitive alone where no line is known.

    Raises:
        ValueError: if ``sources`` does not have one entry per input.
    """
    number = len(closed_jaxpr.jaxpr.invars)
    if len(sources) != number:
        raise ValueError(
            f"reach: expected one map of sources per input ({number}); got {len(sources)}. "
            "Flatten the program's arguments with jax.tree.leaves."
        )
    inputs = [Known(dict(own), limit) for own, limit in zip(sources, limits or [ANY] * number, strict=True)]
    return [output.reach for output in follow(closed_jaxpr, inputs, trusted)]


def follow(
    closed_jaxpr: ClosedJaxpr,
    inputs: Sequence[Known],
    trusted: bool = True,
    declared: set[tuple[str, str]] | None = None,
) -> list[Known]:
    """What is known of each output of a program, given what is known of its inputs; see `reach`.

    `declared` is filled with (parameter, where it meets a derivative that the program declares itself).
    """
    scope = Scope(not _differentiated(closed_jaxpr.jaxpr), trusted, declared=set() if declared is None else declared)
    return _walk(closed_jaxpr, inputs, scope)


@dataclass(frozen=True)
class Scope:
    """Whose code is being walked.

    Attributes:
        trusting: whether ``CONTINUOUS`` holds. Within a program that differentiates it does not:
            the derivative of ``relu`` goes by the name of ``relu`` and is a step.
        constants: whether the program's own arrays are the same in every batch.
        line: inside a function of JAX, the user's line that called it. Such functions are traced once and
            then shared: their inner equations' tracebacks stop short (JAX 0.10) or name the first caller.
        caller: the user's line of the call around, for an equation that has none of its own.
        sampling: whether a distribution is being drawn from.
        kinked: whether what is compared and selected makes no jump: it is a continuous function's own affair.
        harmless: partial primitives whose poles are never met there.
        numbers: names for what is unknown.
        declared: see `follow`.
    """

    trusting: bool
    constants: bool = True
    line: str | None = None
    caller: str | None = None
    sampling: bool = False
    kinked: bool = False
    harmless: frozenset[str] = frozenset()
    numbers: Iterator[int] = field(default_factory=itertools.count)
    declared: set[tuple[str, str]] = field(default_factory=set)

    def at(self, eqn: JaxprEqn) -> str | None:
        """The user's file and line."""
        return self.line or _line(eqn) or self.caller

    def where(self, eqn: JaxprEqn, ins: Sequence[Known]) -> str:
        """The user's file and line, and the primitive; or that there a distribution is drawn from."""
        line = self.at(eqn) or _line(eqn, installed=True)
        drawn = any(NOISE in own.reach for own in ins) and (self.sampling or _samples(eqn))
        name = "sample" if drawn else eqn.primitive.name
        if name == "stop_gradient" and _of_a_library(eqn):
            name = "stop_gradient inside a library"
        return f"{line}: {name}" if line else name

    def within(self, function: Any, eqn: JaxprEqn) -> Scope:
        """The scope inside a function that ``eqn`` calls."""
        line = self.at(eqn)
        sampling = self.sampling or _samples(eqn)
        if _of_jax(function):
            return replace(self, line=line, caller=line, sampling=sampling)
        return replace(self, line=None, caller=line, sampling=sampling, kinked=False, harmless=frozenset())

    def under(self, eqn: JaxprEqn) -> Scope:
        """The scope inside a loop or branch, which belongs to whoever wrote ``eqn``."""
        return replace(self, caller=self.at(eqn))

    def inside(self, names: Collection[str]) -> Scope:
        """The scope inside functions of JAX of these names."""
        if CONTINUOUS.isdisjoint(names):
            return self
        harmless = self.harmless
        if not ENTIRE.isdisjoint(names):
            harmless = frozenset((*PARTIAL, "custom_linear_solve"))
        elif not QUOTIENTS.isdisjoint(names):
            harmless |= {"div"}
        return replace(self, kinked=True, harmless=harmless)


def _walk(function: Any, inputs: Sequence[Known], scope: Scope) -> list[Known]:
    """What is known of the outputs of an open or closed jaxpr, given what is known of its inputs."""
    jaxpr = getattr(function, "jaxpr", function)
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, value in zip(jaxpr.constvars, getattr(function, "consts", ()), strict=False):
        fixed = scope.constants and hasattr(value, "dtype")
        known[var] = Known({}, ranges.of_array(value), rising=_rises(value)) if fixed else Known({})

    def read(atom: Any) -> Known:
        if isinstance(atom, Literal):
            return _literal(atom)
        if atom not in known:
            known[atom] = Known({})
        if known[atom].expr is None:
            known[atom] = replace(known[atom], expr=unknown(next(scope.numbers)))
        return known[atom]

    for eqn in jaxpr.eqns:
        ins = [read(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, _through(eqn, ins, scope), strict=True))
        for ref in filter(is_mutable, eqn.invars):  # what was written can be read again
            known[ref] = Known(blocked(_whole(ins), scope.where(eqn, ins)) if any(own.reach for own in ins) else {})
    return [read(atom) for atom in jaxpr.outvars]


def _literal(atom: Literal) -> Known:
    value = np.asarray(atom.val)
    plain = value.ndim == 0 and value.dtype.kind in "fiub"
    return Known({}, ranges.of_array(value), const(float(value)) if plain else None, rising=_rises(value))


def _rises(value: Any) -> bool:
    """Whether the elements of an array in one dimension strictly increase."""
    return np.ndim(value) == 1 and bool(np.all(np.diff(np.asarray(value)) > 0))


def _through(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Known]:
    """What is known of the outputs of one equation."""
    outs = _apply(eqn, ins, scope, scope)
    whole = _whole(ins)
    leaps = any(path.jump and not whole[source].jump for out in outs for source, path in out.reach.items())
    if not (leaps and scope.trusting):
        return outs
    names = _trusted(eqn, ins, scope)
    if not names:
        return outs
    outs = _apply(eqn, ins, scope, scope.inside(names))
    if WRITES_OVER_NAN.isdisjoint(names):
        return outs
    doubt, where = frozenset().union(*(own.doubt for own in ins)), scope.where(eqn, ins)
    return [replace(out, reach=_blocked_of(out.reach, doubt, where)) for out in outs]


def _apply(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Known]:
    """`own` is the scope of the equation itself, `scope` that of the functions in its loops and branches."""
    name = eqn.primitive.name
    if any(map(is_mutable, eqn.invars)):
        return [Known(reach) for reach in _opaque(eqn, ins, own)]
    function = called(eqn)
    if function is not None:
        return _call(eqn, function, ins, own)
    if name in STRUCTURED:
        reaches = STRUCTURED[name](eqn, ins, scope.under(eqn), own)
    elif not any(known.reach for known in ins):
        reaches = [{} for _ in eqn.outvars]
    else:
        reaches = _rule(eqn)(eqn, ins, own)
    return _described(eqn, ins, reaches)


def _described(eqn: JaxprEqn, ins: list[Known], reaches: list[Reach]) -> list[Known]:
    """What reaches an equation's outputs, with what else is known of them."""
    name = eqn.primitive.name
    doubt = frozenset().union(*(own.doubt for own in ins))
    if name in NAN:
        doubt |= frozenset(_whole(ins))
    if name == "sort":
        return _sorted(eqn, ins, reaches, doubt)
    if name in STRUCTURED or not reaches:
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
        return None if any(map(_discrete, eqn.invars)) else _whole(ins)
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
    return all(own.clear or own.bounds.positive or own.bounds.negative or not _latents(own.reach) for own in ins)


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


def _rule(eqn: JaxprEqn) -> Callable[[JaxprEqn, list[Known], Scope], list[Reach]]:
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
    return _kinked if (name in KINKED or name in PARTIAL) and not eqn.effects else _opaque


def _kinked(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """An ordinary primitive: smooth or kinked from float to float, unless it comes to a pole."""
    where, name = scope.where(eqn, ins), eqn.primitive.name
    detached, ambiguous = DETACHED.get(name, ()), AMBIGUOUS.get(name, ())
    if name in CUTS and any(jnp.issubdtype(_dtype(atom), jnp.complexfloating) for atom in eqn.outvars):
        return _opaque(eqn, ins, replace(scope, kinked=False))
    if name == "convert_element_type" and _coarse(eqn.outvars[0]):
        return _opaque(eqn, ins, replace(scope, kinked=False))
    poles = _poles(eqn, ins, scope)
    parts = []
    for i, (own, atom) in enumerate(zip(ins, eqn.invars, strict=True)):
        stops = i in detached or (_discrete(atom) and not scope.kinked)
        parts.append(blocked(own.reach, where) if stops else poled(own.reach, where) if i in poles else own.reach)
    whole = merge(*parts)
    step = blocked(whole, where)
    return [
        step if i in ambiguous or (_discrete(atom) and not scope.kinked) else whole
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


def poled(reach: Reach, where: str) -> Reach:
    """The same sources after a pole that latents may come to: a step, and a derivative that leaves something out."""
    if not _latents(reach):
        return reach
    stopped = blocked(reach, where)
    return {s: path.joined(stopped[s]) if s.startswith(PARAM) else stopped[s] for s, path in reach.items()}


def _comparison(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    """A comparison, which is none where the bounds have decided it."""
    return [{}] if ranges.decided(eqn, [own.bounds for own in ins]) is not None else _opaque(eqn, ins, scope)


COMPARED = frozenset("eq ne gt ge lt le".split())


def _asks_if_number(first: Any, second: Any) -> bool:
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
    return _kinked(eqn, ins, scope)


def _select(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    which, *cases = ins
    if which.expr is not None and which.expr.op == "const":
        return [cases[int(which.expr.value)].reach]
    if len(cases) == 2 and _meet(which, cases[1].expr, cases[0].expr):
        return [merge(which.border or {}, *(case.reach for case in cases))]
    return _kinked(eqn, ins, scope)


def _product(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    for factor, other in (ins, ins[::-1]):
        if factor.expr is not None and factor.expr.op == "indicator":
            condition = replace(factor, expr=factor.expr.args[0])
            if _meet(condition, other.expr, const(0)):
                return [merge(condition.border or {}, other.reach)]
    return _kinked(eqn, ins, scope)


def _meet(condition: Known, first: Expr | None, second: Expr | None) -> bool:
    """Whether two pieces are one where the condition turns."""
    if not condition.reach or condition.border is None or None in (condition.expr, first, second):
        return False
    assert condition.expr is not None and first is not None and second is not None
    return is_continuous(condition.expr, first, second)


def _opaque(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Reach]:
    whole = _whole(ins)
    return [whole if scope.kinked else blocked(whole, scope.where(eqn, ins))] * len(eqn.outvars)


def _call(eqn: JaxprEqn, function: Any, ins: list[Known], scope: Scope) -> list[Known]:
    outs = _walk(function, ins, scope.within(function, eqn))
    name = _debug(function).func_name if _of_jax(function) else ""
    if outs and name in ranges.NAMED and scope.trusting:
        outs = [replace(outs[0], bounds=ranges.named(name, ins[0].bounds)), *outs[1:]]
    if not eqn.primitive.name.startswith("custom_") or (_debug(function).func_filename or "").startswith(_INSTALLED):
        return outs
    # the derivative of a latent's value is what the user says it is: a straight-through rule would be a bias
    whole, where = _whole(ins), scope.where(eqn, ins)
    stopped = blocked(whole, where)
    scope.declared.update((source, where) for source in whole if source.startswith(PARAM))
    return [
        replace(out, reach={s: p if p.jump or s.startswith(PARAM) else stopped[s] for s, p in out.reach.items()})
        for out in outs
    ]


def _scan(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Reach]:
    first, carried = scan_lengths(eqn)
    last = first + carried

    def body(carry: list[Reach]) -> list[Reach]:
        outs = _walk(eqn.params["jaxpr"], [*ins[:first], *map(Known, carry), *map(_slice, ins[last:])], scope)
        return [out.reach for out in outs]

    carry = _settle([known.reach for known in ins[first:last]], body)
    return [*carry, *body(carry)[len(carry) :]]


def _slice(own: Known) -> Known:
    """What is known of a part of an array."""
    return replace(own, expr=None, diagonal=False)


def _while(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Reach]:
    """A loop of unknown length: JAX cannot differentiate it backwards, so whatever reaches it jumps."""
    test, body = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]

    def step(carry: list[Reach]) -> list[Reach]:
        return [out.reach for out in _walk(eqn.params["body_jaxpr"], [*ins[test:body], *map(Known, carry)], scope)]

    carry = _settle([known.reach for known in ins[body:]], step)
    (going,) = _walk(eqn.params["cond_jaxpr"], [*ins[:test], *map(Known, carry)], scope)
    if own.kinked:
        return [merge(out, going.reach) for out in carry]
    return [blocked(merge(out, going.reach), scope.where(eqn, [Known(out), going])) for out in carry]


def _cond(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Reach]:
    choice = ins[0].reach if own.kinked else blocked(ins[0].reach, scope.where(eqn, ins[:1]))
    branches = [[out.reach for out in _walk(branch, ins[1:], scope)] for branch in eqn.params["branches"]]
    return [merge(choice, *outs) for outs in zip(*branches, strict=True)]


def _sort(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Reach]:
    """Sorted values are kinked in themselves; what is carried along jumps with the keys."""
    reaches = [known.reach for known in ins]
    if own.kinked:
        return [merge(*reaches)] * len(ins)
    where = scope.where(eqn, ins)
    keys = [blocked(key, where) for key in reaches[: eqn.params["num_keys"]]]
    return [
        merge(blocked(reach, where) if _discrete(eqn.outvars[i]) else reach, *keys[:i], *keys[i + 1 :])
        for i, reach in enumerate(reaches)
    ]


def _linear_solve(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Reach]:
    """The x with A x = b is smooth in b, and in A where it cannot come to be singular, however the solver pivots."""
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    right = ins[sum(lengths) :]
    product = _walk(jaxprs.matvec, [*ins[: lengths.matvec], *right], scope)
    matrix = merge(
        *(known.reach for known in _walk(jaxprs.matvec, [*ins[: lengths.matvec], *[Known({})] * len(right)], scope))
    )
    if _singular(jaxprs.solve) and "custom_linear_solve" not in own.harmless:
        matrix = poled(matrix, scope.where(eqn, ins))
    solver = blocked(_whole(ins), scope.where(eqn, ins))
    return [solver | merge(*(known.reach for known in (*product, *right))) | matrix] * len(eqn.outvars)


def _singular(function: Any) -> bool:
    """Whether a solver takes any matrix, and not only a positive definite one."""
    names = {eqn.primitive.name for eqn in getattr(function, "jaxpr", function).eqns}
    return "cholesky" not in names


STRUCTURED: dict[str, Callable[[JaxprEqn, list[Known], Scope, Scope], list[Reach]]] = {
    "scan": _scan, "while": _while, "cond": _cond, "sort": _sort, "custom_linear_solve": _linear_solve
}  # fmt: skip


def _settle(carry: list[Reach], body: Callable[[list[Reach]], list[Reach]]) -> list[Reach]:
    """The fixed point of a loop's carry; sources are only ever added and jumps stay, so it comes."""
    while True:
        grown = [merge(old, new) for old, new in zip(carry, body(carry), strict=False)]
        if grown == carry:
            return carry
        carry = grown


def _whole(ins: Sequence[Known]) -> Reach:
    return merge(*(own.reach for own in ins))


def _blocked_of(reach: Reach, sources: Collection[str], where: str) -> Reach:
    stopped = blocked(reach, where)
    return {source: stopped[source] if source in sources else path for source, path in reach.items()}


def _latents(reach: Reach) -> bool:
    return any(source != NOISE and not source.startswith(PARAM) for source in reach)


def _discrete(atom: Any) -> bool:
    dtype = getattr(atom.aval, "dtype", None)  # tokens have none
    return dtype is None or not jnp.issubdtype(dtype, jnp.inexact)


def _coarse(atom: Any) -> bool:
    """Whether a float has so few values that rounding to it is a step."""
    return not _discrete(atom) and atom.aval.dtype.itemsize < 2


def _differentiated(jaxpr: Any) -> bool:
    """Whether any part of the program is itself a derivative.

    Asked of the whole program: equations moved out of a differentiated loop no longer say so.
    """
    return any(
        "jvp(" in str(eqn.source_info.name_stack) or any(map(_differentiated, jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _trusted(eqn: JaxprEqn, ins: Sequence[Known], scope: Scope) -> frozenset[str]:
    """Names of JAX's own continuous functions that an equation is a call of, or a piece of."""
    function = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
    name = _debug(function).func_name if function is not None and _of_jax(function) else ""
    if name in CONTINUOUS:
        return frozenset((name,))
    if (name == "_interp" and len(ins) == 3 and ins[1].rising) or (name == "quantile" and not ins[1].reach):
        return SOUND
    codes = list(_library_codes(eqn))
    own = function is not None and (_debug(function).func_filename or "").endswith(SOLVERS)
    if not own and any(
        code.co_filename.endswith(SOLVERS) for code in codes
    ):  # the user's function in it is walked into
        return SOUND
    if _of_transform(eqn):
        return SOUND
    if scope.line or eqn.primitive.name == "sign":  # shared, or what logsumexp(return_sign=True) returns
        return frozenset()
    return CONTINUOUS.intersection(code.co_name for code in codes)


TRANSFORMS = os.path.join("distributions", "transforms.py")
SOUND = frozenset(("median",))  # a name that is trusted whole


def _library_codes(eqn: JaxprEqn) -> Iterator[Any]:
    """The functions between the user's innermost line and an equation, which are all JAX's own."""
    traceback = eqn.source_info.traceback
    codes: list[Any] = traceback.raw_frames()[0] if traceback else []
    for code in codes:
        if source_info_util.is_user_filename(code.co_filename):
            return
        yield code


def _of_transform(eqn: JaxprEqn) -> bool:
    """Whether an equation is a piece of one of NumPyro's own transforms into a support, which are smooth.

    Their inverses are partial functions, and so is a power: these are judged like any other operations.
    """
    traceback = eqn.source_info.traceback
    codes: list[Any] = traceback.raw_frames()[0] if traceback else []
    own = [code.co_filename for code in codes if not code.co_filename.startswith(_JAX)]
    packages = list(itertools.takewhile(lambda name: name.startswith(_INSTALLED), own))
    if not packages or not packages[0].startswith(_NUMPYRO):
        return False
    methods = [code.co_qualname for code in codes if code.co_filename.endswith(TRANSFORMS)]
    return bool(methods) and not any(
        name.endswith("._inverse") or name.startswith("PowerTransform") for name in methods
    )


def _samples(eqn: JaxprEqn) -> bool:
    """Whether an equation is a piece of ``jax.random`` or of a distribution's sampler."""
    traceback = eqn.source_info.traceback
    codes: list[Any] = traceback.raw_frames()[0] if traceback else []
    for code in codes:
        if code.co_filename.startswith(_RANDOM) or (code.co_name == "sample" and code.co_filename.startswith(_NUMPYRO)):
            return True
        if not code.co_filename.startswith(_INSTALLED):
            return False
    return False


def _dtype(atom: Any) -> Any:
    return getattr(atom.aval, "dtype", None) or jnp.float32


def _debug(function: Any) -> Any:
    return getattr(function, "jaxpr", function).debug_info


def _of_jax(function: Any) -> bool:
    """Whether a called function is defined in JAX's own package, whatever its name says."""
    return (_debug(function).func_filename or "").startswith(_JAX)


def _of_a_library(eqn: JaxprEqn) -> bool:
    """Whether a library's own text calls `stop_gradient`, and not the user's."""
    trace = eqn.source_info.traceback
    frames: list[Any] = [] if trace is None else list(trace.frames)
    callers = [b for a, b in itertools.pairwise(frames) if a.function_name == "stop_gradient"]
    return bool(callers) and callers[0].file_name.startswith(_INSTALLED)


def _line(eqn: JaxprEqn, installed: bool = False) -> str | None:
    """``"model.py:12"``: the innermost line outside JAX and, unless ``installed``, outside packages."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if installed or not frame.file_name.startswith(_INSTALLED):
            return f"{os.path.basename(frame.file_name)}:{frame.start_line}"
    return None
