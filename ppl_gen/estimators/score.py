"""Score-function estimator with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_gen.estimators.base import Array, Arrays, Baseline, ScoreEstimator, refuse_moving_support
from ppl_gen.estimators.baselines import Learned
from ppl_gen.program import Facts, Site


class Score(ScoreEstimator):
    r"""Score function :math:`(f(z) - b) \nabla \log q(z)`, for any site whose log density can be computed.

    The signal f holds only the cost terms that the site moves (Rao-Blackwellization).

    Args:
        baseline: subtracted from the signal; None means `Learned`.

    Source: Williams 1992; Mnih & Gregor 2014; book eq. 20.59-20.67.

    Example:
        >>> Score().unbiased
        True
    """

    unbiased = True
    needs = "a log density whose support does not move with what is learned"
    source = "book eq. 20.59-20.67"

    def __init__(self, baseline: Baseline | None = None) -> None:
        if baseline is not None and not isinstance(baseline, Baseline):
            raise TypeError(
                f"Score: expected a baseline such as Learned() or Constant(0.0); got {type(baseline).__name__}. "
                "Pass an instance from ppl_gen.estimators."
            )
        self.baseline = Learned() if baseline is None else baseline

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        return refuse_moving_support(site)

    def start(self, num_features: int | None, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        """See `ScoreEstimator.start`."""
        return self.baseline.start(num_features, rng)

    def advantages(
        self, xp: Any, signals: Sequence[Array], inputs: Sequence[Array | None], weights: Arrays, averages: Arrays
    ) -> tuple[list[Array], Array | None, Arrays]:
        """See `ScoreEstimator.advantages`."""
        gaps, losses = [], []
        for signal, feature in zip(signals, inputs, strict=True):
            baseline, loss = self.baseline.judge(xp, signal, feature, weights, averages)
            gaps.append(signal - baseline)
            losses += [] if loss is None else [loss / len(signals)]
        return gaps, sum(losses) if losses else None, self.baseline.update(xp, signals, averages)
