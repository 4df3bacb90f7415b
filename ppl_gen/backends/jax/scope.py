"""Whose code is being walked, and what of it is trusted."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType

from jax.extend.core import JaxprEqn

from ppl_gen.backends.jax.calls import Function, called
from ppl_gen.backends.jax.frames import (
    debug_info,
    detaches_in_library,
    is_of_jax,
    is_of_transform,
    library_codes,
    line_of,
    samples,
)
from ppl_gen.backends.jax.known import (
    Known,
)
from ppl_gen.backends.jax.smooth import (
    CONTINUOUS,
    ENTIRE,
    PARTIAL,
    QUOTIENTS,
    SOLVERS,
)
from ppl_gen.program import NOISE


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
        return self.line or line_of(eqn) or self.caller

    def where(self, eqn: JaxprEqn, ins: Sequence[Known]) -> str:
        """The user's file and line, and the primitive; or that there a distribution is drawn from."""
        line = self.at(eqn) or line_of(eqn, installed=True)
        drawn = any(NOISE in own.reach for own in ins) and (self.sampling or samples(eqn))
        name = "sample" if drawn else eqn.primitive.name
        if name == "stop_gradient" and detaches_in_library(eqn):
            name = "stop_gradient inside a library"
        return f"{line}: {name}" if line else name

    def within(self, function: Function, eqn: JaxprEqn) -> Scope:
        """The scope inside a function that ``eqn`` calls."""
        line = self.at(eqn)
        sampling = self.sampling or samples(eqn)
        if is_of_jax(function):
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


SOUND = frozenset(("median",))  # a name that is trusted whole


def trusted_names(eqn: JaxprEqn, ins: Sequence[Known], scope: Scope) -> frozenset[str]:
    """Names of JAX's own continuous functions that an equation is a call of, or a piece of."""
    function = called(eqn)
    name = debug_info(function).func_name if function is not None and is_of_jax(function) else ""
    if name in CONTINUOUS:
        return frozenset((name,))
    if (name == "_interp" and len(ins) == 3 and ins[1].rising) or (name == "quantile" and not ins[1].reach):
        return SOUND
    codes = list(library_codes(eqn))
    if _is_of_solver(function, codes) or is_of_transform(eqn):
        return SOUND
    if scope.line or eqn.primitive.name == "sign":  # shared, or what logsumexp(return_sign=True) returns
        return frozenset()
    return CONTINUOUS.intersection(code.co_name for code in codes)


def _is_of_solver(function: Function | None, codes: Sequence[CodeType]) -> bool:
    """Whether an equation is a piece of one of JAX's solvers; the user's function in it is walked into."""
    if function is not None and (debug_info(function).func_filename or "").endswith(SOLVERS):
        return False
    return any(code.co_filename.endswith(SOLVERS) for code in codes)
