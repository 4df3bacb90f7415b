"""Primitives of JAX that only call a function, and where each keeps it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
         "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
         "custom_vjp_call_jaxpr": "fun_jaxpr", "custom_vmap_call": "call",
         "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip


def called(eqn: Any) -> Any:
    """The function that an equation only calls; None where it does something itself."""
    place = CALLS.get(eqn.primitive.name)
    return None if place is None else eqn.params[place]


def scan_lengths(eqn: Any) -> tuple[int, int]:
    """How many of a scan's inputs each step sees unchanged, and how many go from step to step; the rest are slices."""
    if "ft_in" in eqn.params:  # JAX 0.11 and later keep the inputs' structure, not how many there are of each
        constants, carry, _ = eqn.params["ft_in"].unpack()
        return len(constants), len(carry)
    return eqn.params["num_consts"], eqn.params["num_carry"]


def is_mutable(atom: Any) -> bool:
    """Whether it is a reference to memory that can be written."""
    return hasattr(atom.aval, "inner_aval")


def part(closed_jaxpr: ClosedJaxpr, first: int, last: int, stop: Collection[Any] = ()) -> ClosedJaxpr:
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
