"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ppl_gen.estimators.base import Array
from ppl_gen.objectives.bound import Bound, Costs, Particles, downstream
from ppl_gen.program import Run, Site


class ELBO(Bound):
    """Minus the evidence lower bound, E_q[log p(x, z) - log q(z)] (eq. 20.76); without latents minus log p(x).

    Several particles give the mean of their bounds.

    Source: book eq. 20.76; for the surrogate, Schulman et al. 2015.

    Example:
        >>> ELBO().kind
        'lower_bound'
    """

    kind = "lower_bound"

    def value(self, particles: Particles) -> Array:
        """See `Bound.value`."""
        return sum(particles.xp.sum(cost) for each in particles.costs for cost in each.values()) / len(particles.costs)

    def live(self, particles: Particles, value: Array) -> Array:
        """See `Bound.live`."""
        costs = [particles.weighted(self._settled(particles, run)) for run in particles.runs]
        return sum(particles.xp.sum(cost) for each in costs for cost in each.values()) / len(costs)

    def _settled(self, particles: Particles, run: Run) -> Run:
        """Without the derivative of a cut site's own - log q, whose mean is zero whatever it is taken by."""
        own = {("guide", name) for name in particles.cut if name not in particles.tried}
        return replace(run, terms={t: particles.xp.stop_gradient(c) if t in own else c for t, c in run.terms.items()})

    def signal(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """See `Bound.signal`."""
        return downstream(particles.xp, costs[particle], particles.plan, site)

    def others(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """See `Bound.others`."""
        found = [self.signal(particles, costs, k, site) for k in range(len(costs)) if k != particle]
        return sum(found[1:], found[0]) / len(found)
