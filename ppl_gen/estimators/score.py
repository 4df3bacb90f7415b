"""Score-function estimator with a baseline."""

from __future__ import annotations

import numpy as np

from ppl_gen.estimators.base import (
    Arrays,
    Baseline,
    Estimate,
    Estimator,
    View,
    refuse_moving_support,
    weighted_score,
)
from ppl_gen.estimators.baselines import Learned
from ppl_gen.program import Facts, Site


class Score(Estimator):
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
    cuts = True

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

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        """See `Estimator.start`."""
        return self.baseline.start(site.num_features, rng)

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        signals = [view.signal(k) for k in range(len(view.runs))]
        gaps, losses = [], []
        for signal, run in zip(signals, view.runs, strict=True):
            inputs = run.inputs.get(view.site.name)
            baseline, loss = self.baseline.judge(view.xp, signal, inputs, view.weights, view.averages)
            gaps.append(signal - baseline)
            losses += [] if loss is None else [loss / len(signals)]
        averages = self.baseline.update(view.xp, signals, view.averages)
        return Estimate(weighted_score(view, gaps), sum(losses) if losses else None, averages)
