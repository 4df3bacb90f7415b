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

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from ppl_gen.backends.jax import ranges
from ppl_gen.backends.jax.calls import Atom, Function, called, mutable, opened
from ppl_gen.backends.jax.control import STRUCTURED
from ppl_gen.backends.jax.frames import (
    INSTALLED,
    debug_info,
    is_differentiated,
    is_of_jax,
)
from ppl_gen.backends.jax.known import (
    Known,
    Reach,
    blocked_of,
    rises,
    whole,
)
from ppl_gen.backends.jax.properties import described
from ppl_gen.backends.jax.rules import opaque, rule_of
from ppl_gen.backends.jax.scope import Scope, trusted_names
from ppl_gen.backends.jax.smooth import (
    WRITES_OVER_NAN,
)
from ppl_gen.program import PARAM, Path, blocked
from ppl_gen.program.bounds import ANY, Bounds
from ppl_gen.program.continuity import const, unknown


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
        For each output ``source -> Path``; a jump reads ``"model.py:12: gt"``, or the primitive alone where no line is known.
    """
    number = len(closed_jaxpr.jaxpr.invars)
    if len(sources) != number:
        hint = "Flatten the program's arguments with jax.tree.leaves."
        raise ValueError(f"reach: expected one map of sources per input ({number}); got {len(sources)}. {hint}")
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
    scope = Scope(not is_differentiated(closed_jaxpr.jaxpr), trusted, declared=set() if declared is None else declared)
    return _walk(closed_jaxpr, inputs, scope)


def _walk(function: Function, inputs: Sequence[Known], scope: Scope) -> list[Known]:
    """What is known of the outputs of an open or closed jaxpr, given what is known of its inputs."""
    jaxpr, constants = opened(function)
    known: dict[Var, Known] = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, value in zip(jaxpr.constvars, constants, strict=False):
        fixed = scope.constants and hasattr(value, "dtype")
        known[var] = Known({}, ranges.of_array(value), rising=rises(value)) if fixed else Known({})

    def known_of(atom: Atom) -> Known:
        if isinstance(atom, Literal):
            return _literal(atom)
        if atom not in known:
            known[atom] = Known({})
        if known[atom].expr is None:
            known[atom] = replace(known[atom], expr=unknown(next(scope.numbers)))
        return known[atom]

    for eqn in jaxpr.eqns:
        ins = [known_of(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, _through(eqn, ins, scope), strict=True))
        for ref in mutable(eqn):  # what was written can be read again
            known[ref] = Known(blocked(whole(ins), scope.where(eqn, ins)) if any(own.reach for own in ins) else {})
    return [known_of(atom) for atom in jaxpr.outvars]


def _literal(atom: Literal) -> Known:
    value = np.asarray(atom.val)
    plain = value.ndim == 0 and value.dtype.kind in "fiub"
    return Known({}, ranges.of_array(value), const(float(value)) if plain else None, rising=rises(value))


def _through(eqn: JaxprEqn, ins: list[Known], scope: Scope) -> list[Known]:
    """What is known of the outputs of one equation."""
    outs = _apply(eqn, ins, scope, scope)
    before = whole(ins)
    leaps = any(path.jump and not before[source].jump for out in outs for source, path in out.reach.items())
    if not (leaps and scope.trusting):
        return outs
    names = trusted_names(eqn, ins, scope)
    if not names:
        return outs
    outs = _apply(eqn, ins, scope, scope.inside(names))
    if WRITES_OVER_NAN.isdisjoint(names):
        return outs
    doubt, where = frozenset().union(*(own.doubt for own in ins)), scope.where(eqn, ins)
    return [replace(out, reach=blocked_of(out.reach, doubt, where)) for out in outs]


def _apply(eqn: JaxprEqn, ins: list[Known], scope: Scope, own: Scope) -> list[Known]:
    """`own` is the scope of the equation itself, `scope` that of the functions in its loops and branches."""
    name = eqn.primitive.name
    if mutable(eqn):
        return [Known(reach) for reach in opaque(eqn, ins, own)]
    function = called(eqn)
    if function is not None:
        return _call(eqn, function, ins, own)
    if name in STRUCTURED:
        reaches = STRUCTURED[name](eqn, ins, scope.under(eqn), own, _walk)
    elif not any(known.reach for known in ins):
        reaches = [{} for _ in eqn.outvars]
    else:
        reaches = rule_of(eqn)(eqn, ins, own)
    return described(eqn, ins, reaches)


def _call(eqn: JaxprEqn, function: Function, ins: list[Known], scope: Scope) -> list[Known]:
    outs = _walk(function, ins, scope.within(function, eqn))
    name = debug_info(function).func_name if is_of_jax(function) else ""
    if outs and name in ranges.NAMED and scope.trusting:
        outs = [replace(outs[0], bounds=ranges.named(name, ins[0].bounds)), *outs[1:]]
    if not eqn.primitive.name.startswith("custom_") or (debug_info(function).func_filename or "").startswith(INSTALLED):
        return outs
    # the derivative of a latent's value is what the user says it is: a straight-through rule would be a bias
    sources, where = whole(ins), scope.where(eqn, ins)
    stopped = blocked(sources, where)
    scope.declared.update((source, where) for source in sources if source.startswith(PARAM))
    return [
        replace(out, reach={s: p if p.jump or s.startswith(PARAM) else stopped[s] for s, p in out.reach.items()})
        for out in outs
    ]
