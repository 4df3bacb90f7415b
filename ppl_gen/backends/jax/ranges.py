"""Bounds and expressions of what a jaxpr's equations give: see `ppl_gen.program.bounds` and `ppl_gen.program.continuity`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from ppl_gen.program.bounds import ANY, INDICATOR, Bounds, bounds, exactly, may_step, power, power_may_step
from ppl_gen.program.continuity import Expr, const

CALLED = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "div": "div", "neg": "neg", "abs": "abs",
          "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt",
          "logistic": "sigmoid", "tanh": "tanh", "cosh": "cosh",
          "erf": "erf", "atan": "atan", "sin": "sin", "cos": "cos", "max": "max",
          "min": "min", "square": "square", "reduce_sum": "sum", "cumsum": "sum", "reduce_window_sum": "sum",
          "reduce_prod": "prod", "cumprod": "prod", "dot_general": "dot"}  # fmt: skip
"""Primitive -> what `ppl_gen.program.bounds` calls it."""

SAME = frozenset(
    "broadcast_in_dim reshape transpose squeeze expand_dims rev slice gather dynamic_slice copy convert_element_type "
    "reduce_max reduce_min cummax cummin reduce_window_max reduce_window_min stop_gradient device_put split tile unstack name "
    "optimization_barrier sharding_constraint real reduce_precision".split()
)
"""Primitives that give nothing but elements of their first operand."""

JOINED = frozenset("concatenate pad stack scatter dynamic_update_slice".split())
"""Primitives that give nothing but elements of their operands, indices aside."""

BOOLEAN = frozenset("eq ne lt le gt ge and or not xor is_finite reduce_and reduce_or".split())

ELEMENTWISE = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "div": "div", "neg": "neg", "abs": "abs",
               "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "logistic": "sigmoid",
               "tanh": "tanh", "sin": "sin", "cos": "cos", "max": "max", "min": "min", "square": "square", "gt": "gt",
               "ge": "ge", "lt": "lt", "le": "le", "and": "and", "or": "or", "not": "not", "copy": "same"}  # fmt: skip
"""Primitive -> what `ppl_gen.program.continuity` calls it."""


def of_array(value: Any) -> Bounds:
    """The bounds of a constant array."""
    if getattr(value.dtype, "kind", "V") not in "fiub":  # random keys, complex numbers
        return ANY
    array = np.asarray(value)
    if not array.size or np.isnan(array).any():
        return ANY
    return Bounds(float(array.min()), float(array.max()))


def result(eqn: Any, ins: Sequence[Bounds]) -> Bounds:
    """The bounds of an equation's first output; other outputs may be anything."""
    name = eqn.primitive.name
    if name in ("mul", "dot_general") and eqn.invars[0] is eqn.invars[1] and name == "mul":
        return bounds("square", ins[:1])
    if name in CALLED:
        return bounds(CALLED[name], ins)
    if name in SAME or name == "sort":
        return ins[0]
    if name in BOOLEAN:
        return INDICATOR
    if name == "select_n":
        return _hull(ins[1:])
    if name in JOINED:
        return _hull([own for own, atom in zip(ins, eqn.invars, strict=True) if _is_float(atom)] or [ANY])
    if name == "integer_pow":
        return power(ins[0], eqn.params["y"])
    if name == "pow":
        exponent = number(eqn.invars[1], ins[1])
        return bounds("exp", [ANY]) if ins[0].positive else ANY if exponent is None else power(ins[0], exponent)
    if name == "clamp":
        return bounds("min", [bounds("max", [ins[1], ins[0]]), ins[2]])
    if name == "scatter-add":
        return bounds("add", [ins[0], _hull([exactly(0.0), bounds("sum", ins[2:])])])
    if name in ("argmax", "argmin"):
        return Bounds(0.0, float(max(0, *eqn.invars[0].aval.shape) - 1))
    if name == "iota":
        return Bounds(0.0, float(max(0, max(eqn.params["shape"], default=1) - 1)))
    return ANY


NAMED = {"softplus": "softplus", "relu": "relu", "sigmoid": "sigmoid", "softmax": "softmax", "_var": "var", "var": "var",
         "norm": "norm", "elu": "elu"}  # fmt: skip
"""Functions of JAX whose bounds say more than those of what they are made of, and what `ppl_gen.program.bounds` calls them."""


def named(function: str, own: Bounds) -> Bounds:
    """The bounds of what a function of JAX gives."""
    return Bounds(-1.0, above=True) if function == "elu" else bounds(NAMED[function], [own])


def _hull(ins: Sequence[Bounds]) -> Bounds:
    found = ins[0]
    for one in ins[1:]:
        found = found.hull(one)
    return found


def _is_float(atom: Any) -> bool:
    return bool(jnp.issubdtype(getattr(atom.aval, "dtype", jnp.float32), jnp.inexact))


def decided(eqn: Any, ins: Sequence[Bounds]) -> bool | None:
    """What a comparison comes to, if the bounds alone say so."""
    first, second = ins if eqn.primitive.name in ("gt", "ge") else ins[::-1]  # whether first > second
    strict = eqn.primitive.name in ("gt", "lt")
    apart = first.above or second.below
    if first.low > second.high or (first.low == second.high and (apart or not strict)):
        return True
    apart = first.below or second.above
    if first.high < second.low or (first.high == second.low and (apart or strict)):
        return False
    return None


def number(atom: Any, own: Bounds) -> float | None:
    """The one value that there is; None where there may be several."""
    if isinstance(atom, Literal):
        return float(atom.val)
    return own.low if own.low == own.high else None


def at_pole(eqn: Any, name: str, ins: Sequence[Bounds]) -> tuple[int, ...]:
    """The operands by which a partial primitive may come to its pole."""
    if name == "pow":
        exponent = float(eqn.params["y"]) if eqn.primitive.name == "integer_pow" else number(eqn.invars[1], ins[1])
        return (0,) if power_may_step(ins[0], exponent) else ()
    if name == "atan2":  # leaps by 2 pi across the negative axis
        return () if ins[1].positive else (0, 1)
    if name == "triangular_solve":
        return (0,)
    if name == "log1p" or len(ins) == 1:
        return (0,) if may_step(name, ins) else ()
    return (1,) if may_step(name, ins) else ()


POSITIONS = Expr("positions")
ARGSORT = "argsort"  # the name of what sorts the array that it is applied to, and of parts of that: its ends, say
PARTS = frozenset("broadcast_in_dim reshape convert_element_type slice squeeze rev dynamic_slice".split())


def expression(eqn: Any, ins: Sequence[Expr], limits: Sequence[Bounds]) -> Expr | None:
    """What an elementwise equation gives; None for all else."""
    name = eqn.primitive.name
    if name in ("gt", "ge", "lt", "le") and (fixed := decided(eqn, limits)) is not None:
        return const(fixed)
    if name == "select_n" and ins[0].op == "const":
        return ins[1 + int(ins[0].value)]
    if name == "iota" and len(eqn.params["shape"]) == 1:
        return POSITIONS
    if ins and ins[0].op == ARGSORT and name in PARTS:
        return ins[0]
    if name in ("argmax", "argmin") and len(eqn.invars[0].aval.shape) == 1:
        return Expr(ARGSORT, tuple(ins))
    if name in ELEMENTWISE:
        return Expr(ELEMENTWISE[name], tuple(ins))
    if name == "integer_pow":
        return Expr("pow", (ins[0], const(eqn.params["y"])))
    if name == "pow":
        return Expr("pow", tuple(ins))
    if name == "select_n" and len(ins) == 3:
        return Expr("select", (ins[0], ins[2], ins[1]))
    if name == "convert_element_type":
        source, target = (eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype)
        if jnp.issubdtype(source, jnp.bool_):
            return Expr("indicator", tuple(ins))
        return (
            ins[0] if jnp.issubdtype(source, jnp.floating) and jnp.issubdtype(target, jnp.floating) else _constant(ins)
        )
    if name == "clamp":
        return Expr("min", (Expr("max", (ins[1], ins[0])), ins[2]))
    if name in ("broadcast_in_dim", "reshape", "squeeze"):
        return ins[0] if not eqn.invars[0].aval.shape else _constant(ins)
    return None


def _constant(ins: Sequence[Expr]) -> Expr | None:
    return ins[0] if ins[0].op == "const" else None
