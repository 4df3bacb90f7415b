"""Bounds and expressions of what a jaxpr's equations give: see `ppl_gen.program.bounds` and `ppl_gen.program.continuity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from ppl_gen.backends.jax.calls import Atom, shape_of
from ppl_gen.backends.jax.known import dtype_of, is_discrete
from ppl_gen.program.bounds import (
    ANY,
    INDICATOR,
    Bounds,
    bounds,
    decided,
    exactly,
    hull,
    may_step,
    power,
    power_may_step,
)
from ppl_gen.program.continuity import COMPARISONS, Expr, const

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


def of_array(value: jax.Array | np.ndarray) -> Bounds:
    """The bounds of a constant array."""
    if getattr(value.dtype, "kind", "V") not in "fiub":  # random keys, complex numbers
        return ANY
    array = np.asarray(value)
    if not array.size or np.isnan(array).any():
        return ANY
    return Bounds(float(array.min()), float(array.max()))


def result(eqn: JaxprEqn, ins: Sequence[Bounds]) -> Bounds:
    """The bounds of an equation's first output; other outputs may be anything."""
    name = eqn.primitive.name
    if name == "mul" and eqn.invars[0] is eqn.invars[1]:
        return bounds("square", ins[:1])
    if name in CALLED:
        return bounds(CALLED[name], ins)
    if name in SAME or name == "sort":
        return ins[0]
    if name in BOOLEAN:
        return INDICATOR
    if name in JOINED:
        return hull([own for own, atom in zip(ins, eqn.invars, strict=True) if not is_discrete(atom)] or [ANY])
    rule = RULES.get(name)
    return ANY if rule is None else rule(eqn, ins)


def _power(eqn: JaxprEqn, ins: Sequence[Bounds]) -> Bounds:
    exponent = number(eqn.invars[1], ins[1])
    return bounds("exp", [ANY]) if ins[0].positive else ANY if exponent is None else power(ins[0], exponent)


def _up_to(sizes: Sequence[int]) -> Bounds:
    """Of positions along an axis of one of these lengths."""
    return Bounds(0.0, float(max(0, max(sizes, default=1) - 1)))


RULES: dict[str, Callable[[JaxprEqn, Sequence[Bounds]], Bounds]] = {
    "select_n": lambda eqn, ins: hull(ins[1:]),
    "integer_pow": lambda eqn, ins: power(ins[0], eqn.params["y"]),
    "pow": _power,
    "clamp": lambda eqn, ins: bounds("min", [bounds("max", [ins[1], ins[0]]), ins[2]]),
    "scatter-add": lambda eqn, ins: bounds("add", [ins[0], hull([exactly(0.0), bounds("sum", ins[2:])])]),
    "argmax": lambda eqn, ins: _up_to((0, *shape_of(eqn.invars[0]))),
    "argmin": lambda eqn, ins: _up_to((0, *shape_of(eqn.invars[0]))),
    "iota": lambda eqn, ins: _up_to(eqn.params["shape"]),
}
"""Primitive -> the bounds of its first output, where these hang on more than those of the operands."""


NAMED = {"softplus": "softplus", "relu": "relu", "sigmoid": "sigmoid", "softmax": "softmax", "_var": "var", "var": "var",
         "norm": "norm", "elu": "elu"}  # fmt: skip
"""Functions of JAX whose bounds say more than those of what they are made of, and what `ppl_gen.program.bounds` calls them."""


def named(function: str, own: Bounds) -> Bounds:
    """The bounds of what a function of JAX gives."""
    return Bounds(-1.0, above=True) if function == "elu" else bounds(NAMED[function], [own])


def number(atom: Atom, own: Bounds) -> float | None:
    """The one value that there is; None where there may be several."""
    if isinstance(atom, Literal):
        return float(atom.val)
    return own.low if own.low == own.high else None


def at_pole(eqn: JaxprEqn, name: str, ins: Sequence[Bounds]) -> tuple[int, ...]:
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


def expression(eqn: JaxprEqn, ins: Sequence[Expr], limits: Sequence[Bounds]) -> Expr | None:
    """What an elementwise equation gives; None for all else."""
    name = eqn.primitive.name
    if name in COMPARISONS and (fixed := decided(name, *limits)) is not None:
        return const(fixed)
    if name in ELEMENTWISE:
        return Expr(ELEMENTWISE[name], tuple(ins))
    if ins and ins[0].op == ARGSORT and name in PARTS:
        return ins[0]
    rule = EXPRESSIONS.get(name)
    return None if rule is None else rule(eqn, ins)


def _select(eqn: JaxprEqn, ins: Sequence[Expr]) -> Expr | None:
    if ins[0].op == "const":
        return ins[1 + int(ins[0].value)]
    return Expr("select", (ins[0], ins[2], ins[1])) if len(ins) == 3 else None


def _converted(eqn: JaxprEqn, ins: Sequence[Expr]) -> Expr | None:
    source, target = dtype_of(eqn.invars[0]), dtype_of(eqn.outvars[0])
    if jnp.issubdtype(source, jnp.bool_):
        return Expr("indicator", tuple(ins))
    same = jnp.issubdtype(source, jnp.floating) and jnp.issubdtype(target, jnp.floating)
    return ins[0] if same else _constant(ins)


def _widened(eqn: JaxprEqn, ins: Sequence[Expr]) -> Expr | None:
    return _constant(ins) if shape_of(eqn.invars[0]) else ins[0]


def _sorting(eqn: JaxprEqn, ins: Sequence[Expr]) -> Expr | None:
    return Expr(ARGSORT, tuple(ins)) if len(shape_of(eqn.invars[0])) == 1 else None


EXPRESSIONS: dict[str, Callable[[JaxprEqn, Sequence[Expr]], Expr | None]] = {
    "select_n": _select,
    "iota": lambda eqn, ins: POSITIONS if len(eqn.params["shape"]) == 1 else None,
    "argmax": _sorting,
    "argmin": _sorting,
    "integer_pow": lambda eqn, ins: Expr("pow", (ins[0], const(eqn.params["y"]))),
    "pow": lambda eqn, ins: Expr("pow", tuple(ins)),
    "convert_element_type": _converted,
    "clamp": lambda eqn, ins: Expr("min", (Expr("max", (ins[1], ins[0])), ins[2])),
    "broadcast_in_dim": _widened,
    "reshape": _widened,
    "squeeze": _widened,
}
"""Primitive -> its expression, where more than its name says what that is."""


def _constant(ins: Sequence[Expr]) -> Expr | None:
    return ins[0] if ins[0].op == "const" else None
