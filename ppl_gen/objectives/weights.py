"""What objectives share that compare particles by their weights p(x, z) / q(z), element by element."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from ppl_gen.elimination.expectations import reduced
from ppl_gen.errors import ProgramError
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.bound import Bound
from ppl_gen.objectives.particles import Costs, Particles
from ppl_gen.program import Site, Term
from ppl_gen.program.arrays import Array, Namespace


def common_plates(plan: Plan) -> dict[str, int]:
    """Plates (name -> dimension) that every latent and every term it moves share, and in which no elements meet.

    Each element of these has weights of its own, so that a bound over the rows of the data is a sum of the rows' bounds.
    """
    found: dict[str, int] | None = None
    for name, row in plan.rows.items():
        own = plan.facts.sites["guide", name].plates
        for term, mixed in row.terms.items():
            plates = plan.facts.sites[term].plates
            here = {p: dim for p, dim in own.items() if plates.get(p) == dim and p not in mixed}
            found = here if found is None else {p: dim for p, dim in found.items() if p in here}
    return found or {}


def moved_terms(plan: Plan) -> set[Term]:
    """Terms that depend on some latent: what a weight is made of."""
    return {term for row in plan.rows.values() for term in row.terms}


class Weighted(Bound):
    """A bound made from the particles' log weights, per element of the plates that all latents share.

    A plate's scale (rows left out) comes after the particles are combined; terms that no latent moves stay outside.
    """

    same_rows = True

    @abstractmethod
    def combine(self, xp: Namespace, log_weights: Array) -> Array:
        """The bound of each element, (particles, ...) to (...)."""

    def log_weight(self, particles: Particles, costs: Costs, *, role: str | None = None) -> Array:
        """One particle's log weight per element, unscaled, nats; with `role` only the model's or the guide's terms."""
        plates, factors = common_plates(particles.plan), particles.runs[0].factors
        total = particles.xp.zeros(())
        for term in sorted(moved_terms(particles.plan)):
            if role is None or term[0] == role:
                _check_whole(term, factors.get(term, {}), plates)
                total = total + self._per_element(particles.xp, costs[term], plates, factors.get(term, {}))
        return total

    def _per_element(
        self, xp: Namespace, cost: Array, plates: Mapping[str, int], factors: Mapping[str, float]
    ) -> Array:
        cost = reduced(xp.sum, cost, [dim for dim in range(-cost.ndim, 0) if dim not in plates.values()])
        scale = math.prod(factors.get(plate, 1.0) for plate in plates)
        return cost if isinstance(scale, float | int) and scale == 1 else cost / scale

    def scale(self, particles: Particles) -> float:
        """What an element's bound is multiplied by."""
        plates, factors = common_plates(particles.plan), particles.runs[0].factors
        term = next(iter(moved_terms(particles.plan)), None)
        return math.prod(factors[term].get(plate, 1.0) for plate in plates) if term in factors else 1.0

    def elements(self, particles: Particles, costs: Sequence[Costs]) -> Array:
        """Each element's bound times its scale."""
        log_weights = particles.xp.stack([self.log_weight(particles, one) for one in costs])
        return self.scale(particles) * self.combine(particles.xp, log_weights)

    def outside(self, particles: Particles) -> Array:
        """The terms that no latent moves."""
        moved, costs = moved_terms(particles.plan), particles.costs
        apart = [particles.xp.sum(c) for each in costs for term, c in each.items() if term not in moved]
        return sum(apart, particles.xp.zeros(())) / len(costs)

    def value(self, particles: Particles) -> Array:
        """See `Bound.value`."""
        if not len(particles.plan):
            return self.outside(particles)
        return particles.xp.sum(self.elements(particles, particles.costs)) + self.outside(particles)

    def signal(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """See `Bound.signal`."""
        return self.elements(particles, costs)

    def others(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """See `Bound.others`: the bound with the others' geometric mean in the particle's place."""
        log_weights = [self.log_weight(particles, one) for one in costs]
        rest = [one for k, one in enumerate(log_weights) if k != particle]
        log_weights[particle] = sum(rest[1:], rest[0]) / len(rest)
        return self.scale(particles) * self.combine(particles.xp, particles.xp.stack(log_weights))

    def share(self, num_particles: int) -> float:
        """See `Bound.share`: every particle moves the whole bound."""
        return 1.0

    def refusal(self, plan: Plan) -> str | None:
        """See `Bound.refusal`."""
        tried = [name for name, row in plan.rows.items() if row.estimator.enumerates]
        if tried and plan.num_particles > 1:
            return (
                f"site '{tried[0]}' is enumerated, which would weigh its values inside the logarithm. "
                "Use LeaveOneOut() there, or ELBO()"
            )
        apart = common_plates(plan)
        for name, row in plan.rows.items():
            site = plan.facts.sites["guide", name]
            wide = [p for p, dim in site.plates.items() if len(site.batch_shape) >= -dim and site.batch_shape[dim] > 1]
            joined = [plate for plate in wide if plate not in apart]
            if row.estimator.side_by_side and joined:
                return (
                    f"site '{name}' tries the elements of plate '{joined[0]}' side by side, and here they move one bound together. "
                    "Use LeaveOneOut() there, or ELBO()"
                )
        paired = [name for name, row in plan.rows.items() if row.estimator.own_signals]
        if paired:
            return (
                f"site '{paired[0]}' compares particles whose signals must be their own, and here all move one bound. "
                "Use LeaveOneOut() there, or ELBO()"
            )
        return None


def normalised(xp: Namespace, log_weights: Array) -> Array:
    """Weights that sum to one over the particles (the leading axis), without gradient."""
    log_weights = xp.stop_gradient(log_weights)
    return xp.exp(log_weights - xp.logsumexp(log_weights, axis=0, keepdims=True))


def _check_whole(term: Term, factors: Mapping[str, float], plates: Mapping[str, int]) -> None:
    """Raise where rows are left out inside the logarithm: the result would be no bound of the whole data's."""
    for plate, factor in factors.items():
        if plate not in plates and isinstance(factor, float | int) and factor != 1.0:
            raise ProgramError(
                f"site '{term[1]}': expected every latent to stand in plate '{plate}', of which only a part of the elements is "
                "seen at a time; got one outside, so that weights need the whole data. Use ELBO(), or take all elements."
            )
