"""The importance-weighted bound."""

from __future__ import annotations

import math

from ppl_gen.estimators.base import refuse_own_noise
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.particles import Particles
from ppl_gen.objectives.weights import Weighted, normalised
from ppl_gen.program.arrays import Array, Namespace


class ImportanceWeighted(Weighted):
    r"""The bound :math:`E \log \frac1K \sum_k p(x, z_k) / q(z_k)` of K = `num_particles` draws, for every datum.

    With one particle it is the ELBO; it grows with K towards log p(x). Discrete sites under `LeaveOneOut` make it VIMCO.

    Args:
        doubly_reparametrized: for guides whose sites are all pathwise, rewrite the derivative of log q once more as a
            path through the value. The guide's gradient then gains on its noise as K grows, instead of losing to it;
            a step costs one more run per particle.

    Source: book eq. 20.79; Burda et al. 2016; Mnih & Rezende 2016; Tucker et al. 2019.

    Example:
        >>> ImportanceWeighted().kind
        'lower_bound'
    """

    kind = "lower_bound"

    def __init__(self, doubly_reparametrized: bool = False) -> None:
        self.doubly_reparametrized = doubly_reparametrized

    def combine(self, xp: Namespace, log_weights: Array) -> Array:
        """See `Weighted.combine`."""
        return xp.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])

    def refusal(self, plan: Plan) -> str | None:
        """See `Bound.refusal`."""
        rough = [name for name, row in plan.rows.items() if not row.estimator.pathwise]
        if self.doubly_reparametrized and rough:
            return (
                f"site '{rough[0]}' is not pathwise, so that its log q has no second path. "
                "Leave doubly_reparametrized out"
            )
        if self.doubly_reparametrized and plan.facts.noise:
            return f"{refuse_own_noise(plan.facts)}. Leave doubly_reparametrized out"
        return super().refusal(plan)

    def live(self, particles: Particles, value: Array) -> Array:
        """See `Bound.live`.

        With w the normalised weights, the model's parameters get sum w d log p as ever; what comes through values gets
        sum w^2 d log(p / q) at fixed parameters, and log q's own parameters nothing.
        """
        if not self.doubly_reparametrized or not len(particles.plan):
            return value
        xp, scale, total = particles.xp, self.scale(particles), self.outside(particles)
        frozen = [particles.replay(k, frozen=True) for k in range(len(particles.runs))]
        weights = normalised(xp, xp.stack([self.log_weight(particles, one) for one in particles.costs]))
        for k, run in enumerate(frozen):
            direct = self.log_weight(particles, particles.costs[k], role="model")  # parameters, and the path once
            again = self.log_weight(particles, dict(run.terms), role="model")
            guide = self.log_weight(particles, dict(run.terms), role="guide")
            path = weights[k] * (weights[k] - 1.0) * again + weights[k] ** 2 * guide
            total = total + xp.sum(scale * (weights[k] * direct + path))
        return total
