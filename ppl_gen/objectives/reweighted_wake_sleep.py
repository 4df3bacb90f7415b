"""Reweighted wake-sleep: model and guide fitted to the draws that the weights prefer."""

from __future__ import annotations

from typing import ClassVar

from ppl_gen.estimators.base import Array, refuse_moving_support
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.bound import Particles
from ppl_gen.objectives.importance_weighted import ImportanceWeighted
from ppl_gen.objectives.weights import normalised


class ReweightedWakeSleep(ImportanceWeighted):
    r"""Wake-phase updates of model and guide: both maximise their log density of K draws weighted by p / q.

    .. math::
        \sum_k \tilde w_k \left(\log p(x, z_k) + \log q(z_k)\right), \quad
        \tilde w_k = \frac{p(x, z_k) / q(z_k)}{\sum_j p(x, z_j) / q(z_j)}

    for every datum, with the values and weights held fixed: no estimator is needed, and discrete sites are like any
    other. The weights make the guide cover the posterior, KL(p || q), which the bounds do not. The expectation of the
    updates is that gradient only as K grows. The loss reported is minus the importance-weighted bound.

    Source: Bornschein & Bengio 2015, algorithm 1 with the wake-phase update of q.

    Example:
        >>> ReweightedWakeSleep()
        ReweightedWakeSleep()
    """

    at_fixed_values = True
    power: ClassVar[float] = 1.0  # of p / q in the weights

    def __init__(self) -> None:
        super().__init__()

    def live(self, particles: Particles, value: Array) -> Array:
        """See `Bound.live`."""
        if not len(particles.plan):
            return value
        xp, scale, total = particles.xp, self.scale(particles), self.outside(particles)
        weights = normalised(xp, self.power * xp.stack([self.log_weight(particles, one) for one in particles.costs]))
        for k, costs in enumerate(particles.costs):
            model, guide = (self.log_weight(particles, costs, role=role) for role in ("model", "guide"))
            total = total + xp.sum(scale * weights[k] * (model - guide))  # the guide's terms are - log q
        return total

    def refusal(self, plan: Plan) -> str | None:
        """See `Bound.refusal`."""
        if len(plan) and plan.num_particles < 2:
            return "one particle has nothing to be weighed against. Use num_particles=2 or more"
        return refuse_at_fixed_values(plan)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def refuse_at_fixed_values(plan: Plan) -> str | None:
    """Why a plan's sites cannot be learned from fixed values; None where they can."""
    for name, row in plan.rows.items():
        against = refuse_moving_support(plan.facts.sites["guide", name])
        if against is not None:
            return f"site '{name}' ({row.distribution}) cannot be learned from fixed values: {against}. Use ELBO()"
        if row.reason == "as asked":
            return f"{row.estimator!r} was asked for at site '{name}', and no estimator is used. Leave estimators out"
    return None
