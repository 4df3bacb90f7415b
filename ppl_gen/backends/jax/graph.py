"""Which values reach which in a JAX program, and where a way stops being differentiable.

The walker reads a jaxpr forwards. At each equation it asks what every operand's sources become in every
output: still differentiable, or through a *jump*. Where it cannot know it says jump: a wrong suspicion costs
variance (the score function is used where pathwise would have done), a wrong trust would cost a bias.
Four rules do most of the work, and a few tables hold the rest:

* a value that is not floating point carries no derivative, so it is a jump going in and coming out
  (comparisons, argmax, casts, the indices of a gather, the predicate of a select);
* a primitive that JAX gives no derivative is a jump, and so is a host callback and everything unknown;
* calls, scans, loops and branches are walked into;
* JAX's own functions named in ``CONTINUOUS`` are trusted whole: their inner comparisons mean nothing.
"""

from __future__ import annotations

import os.path
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax._src import source_info_util  # the only place that names an equation's line
from jax._src.core import jaxprs_in_params
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jax.interpreters import ad

from ppl_gen.program import NOISE, PARAM, Path, blocked, merge

Reach = dict[str, Path]

CONTINUOUS = frozenset(
    # jax.nn, jax.numpy and jax.numpy.linalg
    "relu relu6 leaky_relu elu selu celu gelu silu swish sigmoid softplus log_sigmoid soft_sign hard_tanh "
    "hard_sigmoid hard_silu hard_swish squareplus sparse_plus sparse_sigmoid mish glu log1mexp softmax "
    "log_softmax logsumexp logmeanexp logaddexp logaddexp2 clip fmax fmin nan_to_num "
    "sinc hypot median det expm "
    # jax.scipy.special; not gammasgn, factorial (steps), nor betainc, polygamma (half a derivative)
    "xlogy xlog1py logit expit entr rel_entr kl_div gamma gammaln loggamma beta betaln multigammaln poch "
    "digamma erf erfc erfcx erfinv ndtr ndtri log_ndtr boxcox boxcox1p dawsn spence i0 i0e i1 i1e "
    "exp1 expi expn fresnel sici zeta hyp1f1 hyp2f1 owens_t wofz gammainc gammaincc "
    # jax.random: its gamma draws have a derivative, and only the softmax of them looks like a step
    "_dirichlet".split()
)
"""Functions of JAX itself that are continuous in their float arguments, whatever they compare inside."""

STEPS = frozenset(
    "floor ceil round sign rem stop_gradient bitcast_convert_type "
    "atan2 "  # leaps by 2 pi across the negative axis
    "lu qr eig".split()  # the pivots, signs and order they choose flip
)
"""Primitives whose float outputs have steps, or pass no gradient, though JAX gives most a derivative."""

DETACHED = {"regularized_incomplete_beta": (0, 1), "polygamma": (0,), "select_and_scatter_add": (1,),
            "select_and_gather_add": (1,)}  # fmt: skip
"""Operands, by position, that JAX gives no derivative or that only choose places."""

CUTS = frozenset("log sqrt rsqrt cbrt pow log1p asin acos atan asinh acosh atanh".split())
"""Primitives that leap across a branch cut where their values are complex."""

AMBIGUOUS = {"eigh": (0,), "svd": (1, 2)}
"""Outputs, by position, known only up to a sign: eigenvectors and singular vectors."""

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
         "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
         "custom_vjp_call_jaxpr": "fun_jaxpr", "custom_vmap_call": "call",
         "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip
"""Primitives that only call: where each keeps the function."""

POLES = {"div": 1, "rsqrt": 0, "pow": 0, "integer_pow": 0, "tan": 0, "log": 0, "log1p": 0}
"""Primitives with a pole, and which operand has it: a quotient may be a step there (z / |z|), which no slope shows."""

OPAQUE = frozenset("pure_callback io_callback ffi_call run_state".split())

_JAX = os.path.dirname(jax.__file__) + os.sep
_RANDOM = os.path.join(_JAX, "_src", "random")
_NUMPYRO = os.path.join(os.path.dirname(numpyro.__file__), "distributions")
_INSTALLED = sysconfig.get_path("purelib") + os.sep


def reach(
    closed_jaxpr: ClosedJaxpr, sources: Sequence[Mapping[str, Path]], poles: dict[str, str] | None = None
) -> list[Reach]:
    """Which sources reach each output of a program, and whether differentiably all along.

    Args:
        closed_jaxpr: the program, as ``jax.make_jaxpr`` gives it.
        sources: for each input the sources that reach it, usually ``{label: Path()}`` or ``{}``.
        poles: filled with source -> where it first comes into a primitive that may have a pole.

    Returns:
        For each output ``source -> Path``; a jump reads ``"model.py:12: gt"``, the user's line and the
        primitive, or the primitive alone where no line is known.

    Raises:
        ValueError: if ``sources`` does not have one entry per input.
    """
    jaxpr = closed_jaxpr.jaxpr
    if len(sources) != len(jaxpr.invars):
        raise ValueError(
            f"reach: expected one map of sources per input ({len(jaxpr.invars)}); got {len(sources)}. "
            "Flatten the program's arguments with jax.tree.leaves."
        )
    return _walk(jaxpr, [dict(source) for source in sources], Scope(not _differentiated(jaxpr), poles=poles))


@dataclass(frozen=True)
class Scope:
    """Whose code is being walked.

    Attributes:
        trusting: whether ``CONTINUOUS`` holds. Within a program that differentiates it does not:
            the derivative of ``relu`` goes by the name of ``relu`` and is a step.
        line: inside a function of JAX, the user's line that called it. Such functions are traced once and
            then shared: their inner equations' tracebacks stop short (JAX 0.10) or name the first caller.
        caller: the user's line of the call around, for an equation that has none of its own.
        poles: see `reach`; None where nobody asks.
        sampling: whether a distribution is being drawn from.
    """

    trusting: bool
    line: str | None = None
    caller: str | None = None
    poles: dict[str, str] | None = None
    sampling: bool = False

    def at(self, eqn: JaxprEqn) -> str | None:
        """The user's file and line."""
        return self.line or _line(eqn) or self.caller

    def where(self, eqn: JaxprEqn, ins: Sequence[Reach]) -> str:
        """The user's file and line, and the primitive; or that there a distribution is drawn from."""
        line = self.at(eqn) or _line(eqn, installed=True)
        drawn = any(NOISE in reach for reach in ins) and (self.sampling or _samples(eqn))
        name = "sample" if drawn else eqn.primitive.name
        return f"{line}: {name}" if line else name

    def within(self, function: Any, eqn: JaxprEqn) -> Scope:
        """The scope inside a function that ``eqn`` calls."""
        line = self.at(eqn)
        poles = None if self.trusting and _trusted(eqn, self) else self.poles
        return Scope(self.trusting, line if _of_jax(function) else None, line, poles, self.sampling or _samples(eqn))

    def under(self, eqn: JaxprEqn) -> Scope:
        """The scope inside a loop or branch, which belongs to whoever wrote ``eqn``."""
        return replace(self, caller=self.at(eqn))


def _walk(jaxpr: Any, reaches: Sequence[Reach], scope: Scope) -> list[Reach]:
    """What reaches the outputs of an open or closed jaxpr, given what reaches its inputs."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    known: dict[Var, Reach] = dict(zip(jaxpr.invars, reaches, strict=True))

    def read(atom: Any) -> Reach:
        return known.get(atom, {}) if isinstance(atom, Var) else {}  # literals and constants: nothing

    for eqn in jaxpr.eqns:
        ins = [read(atom) for atom in eqn.invars]
        if not any(ins):
            continue
        known.update(zip(eqn.outvars, _through(eqn, ins, scope), strict=True))
        for ref in filter(_mutable, eqn.invars):  # what was written can be read again
            known[ref] = blocked(merge(*ins), scope.where(eqn, ins))
    return [read(atom) for atom in jaxpr.outvars]


def _through(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    """What reaches the outputs of one equation."""
    rule = _opaque if any(map(_mutable, eqn.invars)) else _rule(eqn)
    outs = rule(eqn, ins, scope.under(eqn) if eqn.primitive.name in STRUCTURED else scope)
    whole = merge(*ins)
    leaps = any(path.jump and not whole[source].jump for out in outs for source, path in out.items())
    return [whole] * len(outs) if leaps and scope.trusting and _trusted(eqn, scope) else outs


def _rule(eqn: JaxprEqn) -> Callable[[JaxprEqn, list[Reach], Scope], list[Reach]]:
    name = eqn.primitive.name
    if name in CALLS:
        return _call
    if name in STRUCTURED:
        return STRUCTURED[name]
    calls = not name.startswith("scatter") and any(True for _ in jaxprs_in_params(eqn.params))
    if name in OPAQUE or calls or eqn.effects or eqn.primitive not in ad.primitive_jvps:
        return _opaque
    return _opaque if name in STEPS else _plain


def _plain(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    """An ordinary primitive: smooth or kinked from float to float."""
    where, name = scope.where(eqn, ins), eqn.primitive.name
    detached, ambiguous = DETACHED.get(name, ()), AMBIGUOUS.get(name, ())
    if name in CUTS and any(jnp.issubdtype(_dtype(atom), jnp.complexfloating) for atom in eqn.outvars):
        return _opaque(eqn, ins, scope)
    if name in POLES and scope.poles is not None and not (scope.trusting and _trusted(eqn, scope)):
        scope.poles.update({source: where for source in ins[POLES[name]] if source not in scope.poles})
    whole = merge(*(
        blocked(reach, where) if i in detached or _discrete(atom) else reach
        for i, (reach, atom) in enumerate(zip(ins, eqn.invars, strict=True))
    ))  # fmt: skip
    step = blocked(whole, where)
    return [step if i in ambiguous or _discrete(atom) else whole for i, atom in enumerate(eqn.outvars)]


def _opaque(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    return [blocked(merge(*ins), scope.where(eqn, ins))] * len(eqn.outvars)


def _call(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    inner = eqn.params[CALLS[eqn.primitive.name]]
    outs = _walk(inner, ins, scope.within(inner, eqn))
    if not eqn.primitive.name.startswith("custom_") or (_debug(inner).func_filename or "").startswith(_INSTALLED):
        return outs
    # the derivative of a latent's value is what the user says it is: a straight-through rule would be a bias
    whole, where = merge(*ins), scope.where(eqn, ins)
    return [
        {s: p if p.jump or s.startswith(PARAM) else blocked(whole, where)[s] for s, p in out.items()} for out in outs
    ]


def _scan(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]

    def body(carry: list[Reach]) -> list[Reach]:
        return _walk(eqn.params["jaxpr"], [*ins[:first], *carry, *ins[last:]], scope)

    carry = _settle(ins[first:last], body)
    return [*carry, *body(carry)[len(carry) :]]


def _while(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    """A loop of unknown length: JAX cannot differentiate it backwards, so whatever reaches it jumps."""
    test, body = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    carry = _settle(ins[body:], lambda carry: _walk(eqn.params["body_jaxpr"], ins[test:body] + carry, scope))
    (going,) = _walk(eqn.params["cond_jaxpr"], ins[:test] + carry, scope)
    return [blocked(merge(out, going), scope.where(eqn, [out, going])) for out in carry]


def _cond(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    choice = blocked(ins[0], scope.where(eqn, ins[:1]))
    branches = [_walk(branch, ins[1:], scope) for branch in eqn.params["branches"]]
    return [merge(choice, *outs) for outs in zip(*branches, strict=True)]


def _sort(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    """Sorted values are kinked in themselves; what is carried along jumps with the keys."""
    where = scope.where(eqn, ins)
    keys = [blocked(key, where) for key in ins[: eqn.params["num_keys"]]]
    return [
        merge(blocked(reach, where) if _discrete(eqn.outvars[i]) else reach, *keys[:i], *keys[i + 1 :])
        for i, reach in enumerate(ins)
    ]


def _linear_solve(eqn: JaxprEqn, ins: list[Reach], scope: Scope) -> list[Reach]:
    """The x with A x = b is smooth where A and b are, however its solver pivots."""
    lengths = eqn.params["const_lengths"]
    right = ins[sum(lengths) :]
    product = _walk(eqn.params["jaxprs"].matvec, [*ins[: lengths.matvec], *right], scope)
    solver = blocked(merge(*ins), scope.where(eqn, ins))
    return [solver | merge(*product, *right)] * len(eqn.outvars)


STRUCTURED = {"scan": _scan, "while": _while, "cond": _cond, "sort": _sort,
              "custom_linear_solve": _linear_solve}  # fmt: skip


def _settle(carry: list[Reach], body: Callable[[list[Reach]], list[Reach]]) -> list[Reach]:
    """The fixed point of a loop's carry; sources are only ever added and jumps stay, so it comes."""
    while True:
        grown = [merge(old, new) for old, new in zip(carry, body(carry), strict=False)]
        if grown == carry:
            return carry
        carry = grown


def _discrete(atom: Any) -> bool:
    dtype = getattr(atom.aval, "dtype", None)  # tokens have none
    return dtype is None or not jnp.issubdtype(dtype, jnp.inexact)


def _mutable(atom: Any) -> bool:
    return hasattr(atom.aval, "inner_aval")


def _differentiated(jaxpr: Any) -> bool:
    """Whether any part of the program is itself a derivative.

    Asked of the whole program: equations moved out of a differentiated loop no longer say so.
    """
    return any(
        "jvp(" in str(eqn.source_info.name_stack) or any(map(_differentiated, jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _trusted(eqn: JaxprEqn, scope: Scope) -> bool:
    """Whether an equation is a call of one of JAX's own continuous functions, or a piece of one."""
    function = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
    if function is not None and _of_jax(function) and _debug(function).func_name in CONTINUOUS:
        return True
    if scope.line or eqn.primitive.name == "sign":  # shared, or what logsumexp(return_sign=True) returns
        return False
    return not CONTINUOUS.isdisjoint(_library_functions(eqn))


def _library_functions(eqn: JaxprEqn) -> Iterator[str]:
    """The functions between the user's innermost line and an equation, which are all JAX's own."""
    traceback = eqn.source_info.traceback
    codes: list[Any] = traceback.raw_frames()[0] if traceback else []
    for code in codes:
        if source_info_util.is_user_filename(code.co_filename):
            return
        yield code.co_name


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


def _line(eqn: JaxprEqn, installed: bool = False) -> str | None:
    """``"model.py:12"``: the innermost line outside JAX and, unless ``installed``, outside packages."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if installed or not frame.file_name.startswith(_INSTALLED):
            return f"{os.path.basename(frame.file_name)}:{frame.start_line}"
    return None
