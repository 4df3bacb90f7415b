"""What to say where good values are so rare that steps seldom see them (end of the book's section 20.9.1)."""

from __future__ import annotations

import numpy as np

from ppl_gen.estimators import Plan

ADVICE = (
    "Try more particles (num_particles, LeaveOneOut), Enumerate for sites of few values, an importance-weighted "
    "objective, a guide that starts nearer to good values, or a cost that rewards partial success."
)
FEW_DRAWS = 0.05  # share of the draws below which their signal is called rare
FEWEST_LOSSES = 200  # that can show a rare one
ROUNDING = 1e-5  # of a loss


def rare_signal(what: str) -> str:
    """The complaint, with advice."""
    return f"rare signal: {what}. {ADVICE}"


def seldom_better(plan: Plan, losses: np.ndarray) -> str | None:
    """What to say of a run whose losses nearly all lie together, with a rare one far below; None where it is not so.

    Costs nothing, so that short runs get it too. The losses are those of the run's second half: where training did find
    the good values, they are no longer rare there.

    Args:
        plan: the estimators; without one that is a score function the losses say nothing of the signal.
        losses: of every step, nats.
    """
    late = np.asarray(losses, dtype=float)[len(losses) // 2 :]
    sampled = [r for r in plan.rows.values() if r.estimator.cuts and not r.estimator.enumerates]
    if len(late) < FEWEST_LOSSES or not sampled:
        return None
    middle = float(np.median(late))
    below = np.maximum(0.0, middle - late)
    below[below < ROUNDING * max(1.0, abs(middle))] = 0.0
    if not below.any():
        return None
    share = float(below.sum() ** 2 / (len(below) * (below**2).sum()))
    if share >= FEW_DRAWS:
        return None
    return rare_signal(f"in the run's second half {share:.1%} of the steps carry what lies below the usual loss")
