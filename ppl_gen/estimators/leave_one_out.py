"""Score function whose baseline is the mean signal of the other particles."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_gen.estimators.base import Estimate, Estimator, View, refuse_moving_support, weighted_score
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array, Namespace


class LeaveOneOut(Estimator):
    """Each particle's signal is held against what the others alone would give, which it did not influence.

    Needs ``num_particles >= 2``; there is nothing to learn. Under the ELBO the baseline is the mean of the others'
    signals (RLOO); under an importance-weighted bound it is the bound with their geometric mean in the particle's
    place (VIMCO).

    Source: Kool et al. 2019 (RLOO); Mnih & Rezende 2016 (VIMCO).

    Example:
        >>> LeaveOneOut().unbiased
        True
    """

    unbiased = True
    needs = "two particles or more, and a log density whose support does not move"
    source = "Kool et al. 2019; Mnih & Rezende 2016"
    cuts = True
    alone = True

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if num_particles < 2:
            return f"it needs num_particles >= 2, and there is {num_particles}"
        return refuse_moving_support(site)

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        gaps = [view.signal(k) - view.others(k) for k in range(len(view.runs))]
        return Estimate(weighted_score(view, gaps), None, view.averages)

    def part(self, view: View) -> tuple[Array, Array]:
        """See `Estimator.part`: the particle's signal and log q, of one shape, so that particles stack to the same."""
        signal, log_q = view.xp.broadcast_arrays(view.signal(0), view.runs[0].logq[view.site.name])
        return signal, log_q

    def joined(self, xp: Namespace, parts: Sequence[tuple[Array, Array]]) -> Estimate:
        """See `Estimator.joined`: what others would give is the mean of their signals."""
        signals, log_q = (xp.stack(list(each)) for each in zip(*parts, strict=True))
        others = (xp.sum(signals, axis=0, keepdims=True) - signals) / (len(parts) - 1)
        return Estimate(xp.sum(log_q * xp.stop_gradient(signals - others)) / len(parts), None, {})
