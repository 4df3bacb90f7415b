"""The evidence lower bound."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from ppl_gen.estimators.base import Arrays, Start
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.bound import Bound, downstream
from ppl_gen.objectives.particles import Costs, Particles
from ppl_gen.objectives.warmup import Warmup
from ppl_gen.program import Run, Site
from ppl_gen.program.arrays import Array, Namespace, total


class ELBO(Bound):
    """Minus the evidence lower bound, E_q[log p(x, z) - log q(z)] (eq. 20.76); without latents minus log p(x).

    Several particles give the mean of their bounds.

    Args:
        kl_weight: of log p(z) - log q(z) of every latent, beside the likelihood; one gives the bound itself. With a
            `Warmup` it changes over a fit's first steps; validation and all else take it at its end.
        analytic_kl: where a formula is known, take a site's divergence from its prior in closed form, given what
            both depend on, in place of the drawn value's log p - log q. Other sites go on as they are: those whose
            prior is drawn after them in the guide, those with masks, those without a formula.

    Source: book eq. 20.76; for the surrogate, Schulman et al. 2015; for the weight, Higgins et al. 2017.

    Example:
        >>> ELBO().kind
        'lower_bound'
    """

    by_particle = True

    def __init__(self, kl_weight: float | Warmup = 1.0, analytic_kl: bool = False) -> None:
        self.kl_weight, self.analytic_kl = kl_weight, analytic_kl
        if self.final_weight < 0:
            raise ValueError(f"ELBO: expected kl_weight of zero or more; got {kl_weight}. Use 1.0 for the bound.")
        self.kind = "lower_bound" if self.final_weight >= 1 else "estimate"

    @property
    def final_weight(self) -> float:
        """The divergence's weight once it changes no more."""
        return self.kl_weight.end if isinstance(self.kl_weight, Warmup) else self.kl_weight

    def start(self) -> Start:
        """See `Bound.start`."""
        return {"step": np.zeros((), np.float32)} if isinstance(self.kl_weight, Warmup) else {}

    def at(self, xp: Namespace, kept: Arrays) -> tuple[Bound, Arrays]:
        """See `Bound.at`."""
        if not isinstance(self.kl_weight, Warmup):
            return self, kept
        now = copy(self)
        now.kl_weight = self.kl_weight.at(xp, kept["step"]) if kept else self.final_weight  # type: ignore[assignment]
        return now, {name: step + 1 for name, step in kept.items()}

    def value(self, particles: Particles) -> Array:
        """See `Bound.value`."""
        return _mean_sum(particles.xp, particles.costs)

    def refusal(self, plan: Plan) -> str | None:
        """See `Bound.refusal`."""
        reads = plan.facts.summed[0].reads if plan.facts.summed else {}
        inside = next((name for name in plan if ("model", name) in reads), None)
        if inside is None or (self.kl_weight == 1 and not isinstance(self.kl_weight, Warmup)):
            return None
        return (
            f"site '{inside}' has a prior that depends on '{reads['model', inside][0]}', which is summed out, so that its divergence "
            "has no term that kl_weight could weigh. Use kl_weight=1, or add that site to the guide"
        )

    def live(self, particles: Particles, value: Array) -> Array:
        """See `Bound.live`."""
        # the derivative of a cut site's own - log q is left out: its mean is zero, whatever it is taken by
        own = [("guide", name) for name in particles.cut if name not in particles.enumeration.sites]
        costs = [particles.weighted(run, settled=own) for run in particles.runs]
        return _mean_sum(particles.xp, costs)

    def terms(self, xp: Namespace, plan: Plan, run: Run) -> Costs:
        """See `Bound.terms`."""
        found, weight = dict(run.terms), self.final_weight
        for name in plan:
            both = [term for term in (("model", name), ("guide", name)) if term in found]
            divergence = self._closed(plan, run, name)
            if divergence is not None:
                found["model", name], found["guide", name] = -divergence, xp.zeros_like(divergence)
            if not (isinstance(weight, float | int) and weight == 1):  # of this step: an array with a `Warmup`
                found.update({term: weight * found[term] for term in both})
        return found

    def _closed(self, plan: Plan, run: Run, name: str) -> Array | None:
        """A site's divergence from its prior in closed form; None where its terms are to be taken as drawn."""
        return run.divergences[name]() if self.analytic_kl and _drawn_last(plan, name) else None

    def signal(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """See `Bound.signal`."""
        if self._closed(particles.plan, particles.runs[particle], site.name) is not None:  # its value moves it no more
            own = {term: 0.0 * costs[particle][term] for term in (("model", site.name), ("guide", site.name))}
            return downstream(particles.xp, {**costs[particle], **own}, particles.plan, site)
        return downstream(particles.xp, costs[particle], particles.plan, site)

    def others(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """See `Bound.others`."""
        found = [self.signal(particles, costs, k, site) for k in range(len(costs)) if k != particle]
        return total(found) / len(found)


def _mean_sum(xp: Namespace, costs: Sequence[Costs]) -> Array:
    """All terms together, a mean over particles."""
    return sum((xp.sum(cost) for each in costs for cost in each.values()), xp.zeros(())) / len(costs)


def _drawn_last(plan: Plan, name: str) -> bool:
    """Whether a site is independent, in the guide, of all that its prior depends on, given its own parents."""
    prior = plan.facts.sites.get(("model", name))
    return prior is not None and not any(("guide", source) in plan.rows[name].terms for source in prior.reach)
