"""Bounds follow from the operations alone, and keep partial functions from their poles."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from ppl_gen.program.bounds import (
    ANY,
    NONNEGATIVE,
    POSITIVE,
    UNIT,
    Bounds,
    bounds,
    exactly,
    may_step,
    power,
    power_may_step,
)

FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "square": np.square,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "tanh": np.tanh,
    "atan": np.arctan,
    "sin": np.sin,
    "cos": np.cos,
    "relu": lambda x: np.maximum(x, 0),
}
TWO = ("add", "sub", "mul", "div", "max", "min")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_value_lies_outside_its_bounds(name: str) -> None:
    """Exact in the drawn values, but for rounding: no false alarm."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        ends = [sorted(rng.choice([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], 2, replace=False)) for _ in range(2)]
        operands = [Bounds(float(low), float(high)) for low, high in ends][: 2 if name in TWO else 1]
        values = [rng.uniform(low, high, 50) for low, high in ends][: len(operands)]
        with np.errstate(all="ignore"):
            found = FUNCTIONS[name](*values)
        inside = bounds(name, operands)
        found = found[np.isfinite(found)]
        assert np.all(found >= inside.low - 1e-9) and np.all(found <= inside.high + 1e-9)


@pytest.mark.parametrize(
    ("name", "operands", "steps"),
    [
        ("div", [ANY, ANY], True),
        ("div", [ANY, POSITIVE], False),
        ("div", [ANY, NONNEGATIVE], True),
        ("div", [ANY, Bounds(1.0)], False),
        ("div", [ANY, Bounds(1e-6)], True),  # so near that no draw could tell
        ("log", [POSITIVE], False),
        ("log", [bounds("add", [UNIT, exactly(1e-8)])], False),
        ("log", [bounds("max", [UNIT, exactly(1e-7)])], False),
        ("log", [bounds("max", [bounds("abs", [ANY]), exactly(1e-7)])], True),
        ("log1p", [NONNEGATIVE], False),
        ("log1p", [ANY], True),
        ("sqrt", [NONNEGATIVE], False),
        ("rsqrt", [bounds("add", [NONNEGATIVE, exactly(1e-6)])], False),
        ("rsqrt", [NONNEGATIVE], True),
        ("lgamma", [POSITIVE], False),
        ("digamma", [ANY], True),
        ("logit", [UNIT], False),
        ("logit", [Bounds(0.0, 1.0)], True),
        ("erfinv", [bounds("tanh", [ANY])], False),
        ("acos", [Bounds(-1.0, 1.0)], False),
        ("xlogy", [ANY, ANY], True),
        ("tan", [bounds("atan", [ANY])], False),
        ("exp", [ANY], False),
    ],
)
def test_a_partial_function_steps_only_where_its_pole_can_be_met(
    name: str, operands: list[Bounds], steps: bool
) -> None:
    assert may_step(name, operands) is steps


def test_powers() -> None:
    assert power(ANY, 2.0) == NONNEGATIVE
    assert power(POSITIVE, -0.5).positive
    assert not power_may_step(ANY, 3.0)
    assert power_may_step(ANY, -1.0) and power_may_step(ANY, 0.5)
    assert not power_may_step(NONNEGATIVE, 0.5) and not power_may_step(POSITIVE, None)
    assert power_may_step(NONNEGATIVE, None)


def test_a_hull_holds_both() -> None:
    hull = UNIT.hull(exactly(0.0))
    assert (hull.low, hull.high, hull.above, hull.below) == (0.0, 1.0, False, True)
    assert bounds("select", [POSITIVE, exactly(-1.0)]) == Bounds(-1.0)


def test_what_is_not_known_may_be_anything() -> None:
    assert bounds("mystery", [POSITIVE]) == ANY
    assert exactly(math.nan) == ANY
