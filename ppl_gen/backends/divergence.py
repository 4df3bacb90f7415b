"""How far one finite distribution is from another, where neither library knows a formula with a gradient everywhere."""

from __future__ import annotations

from types import ModuleType
from typing import TypeVar

A = TypeVar("A")  # an array


def finite_divergence(xp: ModuleType, log_q: A, log_p: A, event_dim: int) -> A:
    """KL(q || p), batch shape, nats; a value without probability does not count, and passes no gradient.

    Args:
        xp: the framework.
        log_q: log masses of q's elements, batch + event + (levels,), nats.
        log_p: likewise of p.
        event_dim: number of the event's dimensions.
    """
    gap = xp.where(log_q == -xp.inf, 0.0, xp.subtract(log_q, log_p))
    total: A = xp.multiply(xp.exp(log_q), gap).sum(tuple(range(-1 - event_dim, 0)))
    return total
