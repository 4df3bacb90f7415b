"""MuProp: the score function around a first-order expansion at the mean."""

from __future__ import annotations

import numpy as np

from ppl_gen.estimators.base import Baseline, Estimate, Estimator, Start, View
from ppl_gen.estimators.baselines import MovingAverage
from ppl_gen.estimators.relaxed import fold, refuse_not_relaxable
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array, total


class MuProp(Estimator):
    r"""Score function whose baseline is the cost's first-order Taylor expansion around the site's mean.

    With m the mean and s the slope there, :math:`(f(z) - f(m) - s (z - m)) \nabla \log q(z) + s \nabla m`: what the
    straight line adds to the score function is taken out again in closed form, whatever its slope.

    Args:
        baseline: subtracted from what the expansion leaves of the signal; None means `MovingAverage`.

    Source: Gu et al. 2016.

    Example:
        >>> MuProp().unbiased
        True
    """

    unbiased = True
    needs = "a binary site along whose value every cost is differentiable"
    source = "Gu et al. 2016"
    cuts = True
    alone = True

    def __init__(self, baseline: Baseline | None = None) -> None:
        self.baseline = MovingAverage() if baseline is None else baseline

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        return refuse_not_relaxable(site, facts)

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        return 2

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Estimator.start`."""
        return self.baseline.start(site, rng)

    @property
    def by_particle(self) -> bool:
        """See `Estimator.by_particle`."""
        return super().by_particle and self.baseline.alone

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        xp, name = view.xp, view.site.name
        whole, losses, gaps = xp.zeros(()), [], []
        for k, run in enumerate(view.runs):
            masses: Array = run.masses[name]()
            mean = xp.exp(xp.stop_gradient(masses[..., 1]))
            there, slope = view.slope(k, mean)
            away = xp.astype(run.values[name], mean.dtype) - mean
            gap = view.signal(k) - there - fold(view, slope * away, there)
            level, loss = self.baseline.judge(xp, gap, run.inputs.get(name), view.weights, view.averages)
            gaps.append(gap)
            losses += [] if loss is None else [loss / len(view.runs)]
            by_logit = view.expand(gap - level) * away + slope * mean * (1 - mean)
            whole = whole + xp.sum(xp.stop_gradient(by_logit) * (masses[..., 1] - masses[..., 0]))
        averages = self.baseline.update(xp, gaps, view.averages)
        return Estimate(view.share * whole, total(losses) if losses else None, averages)
