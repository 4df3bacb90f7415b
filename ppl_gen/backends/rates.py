"""Learning rates: one that was asked for is used or refused, on both backends in the same words."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from ppl_gen.program.arrays import Array


class DefaultRate(float):
    """The learning rate that is taken where none was asked for; an optimizer's own comes before it."""


DEFAULT_RATE = DefaultRate(1e-3)


def check_rate(rate: float | Array) -> float:
    """The rate, once it is known to be one.

    Raises:
        TypeError: it is no number.
        ValueError: it is not positive and finite.
    """
    if isinstance(rate, DefaultRate):
        return rate
    is_scalar = getattr(rate, "ndim", None) == 0 and hasattr(rate, "__float__")
    if isinstance(rate, bool) or not (isinstance(rate, numbers.Real) or is_scalar):
        raise TypeError(
            f"learning_rate: expected one positive number; got {rate!r}. For a rate of its own at each parameter, or one that "
            "changes from step to step, pass optimizer=: a callable of pyro.optim's options, or an optax transformation."
        )
    if not 0 < float(rate) < np.inf:
        raise ValueError(f"learning_rate: expected a positive number; got {rate}.")
    return float(rate)


def settle_rate(optimizer: str, own: object, rate: float) -> Any:
    """The rate of an optimizer that has one of its own.

    Args:
        optimizer: its name, for messages.
        own: its own rate; None where it cannot be told.
        rate: what `fit` was asked for.

    Raises:
        ValueError: another one was asked for beside it.
    """
    if isinstance(rate, DefaultRate) or (isinstance(own, numbers.Real) and float(own) == rate):
        return own
    beside = "" if own is None else f", {own}"
    raise ValueError(
        f"learning_rate: expected none beside an optimizer that has its own{beside} ({optimizer}); got {rate}. Give the rate in "
        "one place."
    )
