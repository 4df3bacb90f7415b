"""Reweighted wake-sleep: model and guide fitted to the draws that the weights prefer, the guide to dreams as well."""

from __future__ import annotations

from typing import ClassVar

from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.fixed_values import asleep, refuse_at_fixed_values, refuse_dreams
from ppl_gen.objectives.importance_weighted import ImportanceWeighted
from ppl_gen.objectives.particles import Particles
from ppl_gen.objectives.weights import normalised
from ppl_gen.program.arrays import Array


class ReweightedWakeSleep(ImportanceWeighted):
    r"""Wake-phase updates of model and guide: both maximise their log density of K draws weighted by p / q.

    .. math::
        \sum_k \tilde w_k \left(\log p(x, z_k) + \log q(z_k)\right), \quad
        \tilde w_k = \frac{p(x, z_k) / q(z_k)}{\sum_j p(x, z_j) / q(z_j)}

    for every datum, with the values and weights held fixed: no estimator is needed, and discrete sites are like any
    other. The weights make the guide cover the posterior, KL(p || q), which the bounds do not. The expectation of the
    updates is that gradient only as K grows. The loss reported is minus the importance-weighted bound.

    Args:
        sleep: share of the guide's update that comes from dreams (see `WakeSleep`), 0 .. 1: with 0 the guide learns from the
            data's weighted draws alone, with 1 from the model's own draws alone, of which there is no end.

    Raises:
        ValueError: `sleep` is outside 0 .. 1.

    Source: Bornschein & Bengio 2015, algorithm 1, with the wake-phase and the sleep-phase update of q.

    Example:
        >>> ReweightedWakeSleep(sleep=0.5)
        ReweightedWakeSleep(sleep=0.5)
    """

    at_fixed_values = True
    power: ClassVar[float] = 1.0  # of p / q in the weights

    def __init__(self, sleep: float = 0.0) -> None:
        super().__init__()
        if not 0 <= sleep <= 1:
            raise ValueError(f"{type(self).__name__}: expected a share sleep of 0 .. 1; got {sleep!r}. Use sleep=0.5.")
        self.sleep = sleep

    @property
    def dreams(self) -> bool:  # type: ignore[override]
        """See `Bound`."""
        return self.sleep > 0

    def live(self, particles: Particles, value: Array) -> Array:
        """See `Bound.live`."""
        if not len(particles.plan):
            return value
        xp, scale, total = particles.xp, self.scale(particles), self.outside(particles)
        weights = normalised(xp, self.power * xp.stack([self.log_weight(particles, one) for one in particles.costs]))
        for k, costs in enumerate(particles.costs):
            model, guide = (self.log_weight(particles, costs, role=role) for role in ("model", "guide"))
            # the guide's terms are - log q
            total = total + xp.sum(scale * weights[k] * (model - (1 - self.sleep) * guide))
        return total + self.sleep * asleep(particles, 0) if self.sleep else total

    def refusal(self, plan: Plan) -> str | None:
        """See `Bound.refusal`."""
        if len(plan) and plan.num_particles < 2:
            return "one particle has nothing to be weighed against. Use num_particles=2 or more"
        return (refuse_dreams(plan) if self.sleep and len(plan) else None) or refuse_at_fixed_values(plan)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({f'sleep={self.sleep}' if self.sleep else ''})"
