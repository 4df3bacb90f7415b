"""Score function whose baseline is the mean signal of the other particles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ppl_gen.estimators.base import Array, Arrays, ScoreEstimator, refuse_moving_support
from ppl_gen.program import Facts, Site


class LeaveOneOut(ScoreEstimator):
    """Each particle's signal is held against the mean of the others', which it did not influence.

    Needs ``num_particles >= 2``; there is nothing to learn.

    Source: Salimans & Knowles 2014; Kool et al. 2019 (RLOO).

    Example:
        >>> LeaveOneOut().unbiased
        True
    """

    unbiased = True
    needs = "two particles or more, and a log density whose support does not move"
    source = "Kool et al. 2019"

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if num_particles < 2:
            return f"it needs num_particles >= 2, and there is {num_particles}"
        return refuse_moving_support(site)

    def advantages(
        self, xp: Any, signals: Sequence[Array], inputs: Sequence[Array | None], weights: Arrays, averages: Arrays
    ) -> tuple[list[Array], Array | None, Arrays]:
        """See `ScoreEstimator.advantages`."""
        total = sum(signals[1:], signals[0])
        others = len(signals) - 1
        return [signal - (total - signal) / others for signal in signals], None, averages
