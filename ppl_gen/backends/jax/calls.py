"""Primitives of JAX that only call a function, and where each keeps it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var

Atom = Var | Literal
Function = Jaxpr | ClosedJaxpr

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
         "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
         "custom_vjp_call_jaxpr": "fun_jaxpr", "custom_vmap_call": "call",
         "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip


def called(eqn: JaxprEqn) -> Function | None:
    """The function that an equation only calls; None where it does something itself."""
    return called_by(eqn.primitive, eqn.params)


def called_by(primitive: Primitive, params: Mapping[str, Any]) -> Function | None:
    """Likewise, of a primitive with its parameters."""
    place = CALLS.get(primitive.name)
    return None if place is None else params[place]


def opened(function: Function) -> tuple[Jaxpr, Sequence[jax.Array]]:
    """A function's equations, and the arrays that it holds; an open one's are not known."""
    return (function.jaxpr, function.consts) if isinstance(function, ClosedJaxpr) else (function, ())


def shape_of(atom: Atom) -> tuple[int, ...]:
    """Of a variable or literal."""
    return tuple(getattr(atom.aval, "shape", ()))


def scan_lengths(eqn: JaxprEqn) -> tuple[int, int]:
    """How many of a scan's inputs each step sees unchanged, and how many go from step to step; the rest are slices."""
    if "ft_in" in eqn.params:  # JAX 0.11 and later keep the inputs' structure, not how many there are of each
        constants, carry, _ = eqn.params["ft_in"].unpack()
        return len(constants), len(carry)
    return eqn.params["num_consts"], eqn.params["num_carry"]


def mutable(eqn: JaxprEqn) -> list[Var]:
    """Those of an equation's operands that are references to memory which can be written."""
    return [atom for atom in eqn.invars if isinstance(atom, Var) and hasattr(atom.aval, "inner_aval")]


def part(closed_jaxpr: ClosedJaxpr, first: int, last: int, stop: Collection[Var] = ()) -> ClosedJaxpr:
    """The program that has only these of the outputs, without what they do not need; what makes a variable in `stop` is left out."""
    jaxpr = closed_jaxpr.jaxpr
    outvars = jaxpr.outvars[first:last]
    needed = {atom for atom in outvars if not isinstance(atom, Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(set(eqn.outvars).difference(stop)):
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
            kept.append(eqn)
    debug = jaxpr.debug_info._replace(result_paths=None)
    return ClosedJaxpr(jaxpr.replace(eqns=kept[::-1], outvars=outvars, debug_info=debug), closed_jaxpr.consts)
