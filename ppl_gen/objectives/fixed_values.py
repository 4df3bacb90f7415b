"""What the objectives that learn from fixed values share: dreams, and what they refuse."""

from __future__ import annotations

from ppl_gen.estimators.base import refuse_moving_support
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.particles import Particles
from ppl_gen.program.arrays import Array, total


def asleep(particles: Particles, k: int) -> Array:
    """Gives log q of a dream, a draw of latents and data from the model, summed over the guide's sites and all rows; nats."""
    dream = particles.run(particles._fresh(k), {}, particles.cut, dream=True)
    return -total([particles.xp.sum(dream.terms["guide", name]) for name in particles.plan])


def refuse_dreams(plan: Plan) -> str | None:
    """Why the model has no dreams of the guide's sites; None where it has."""
    sites = plan.facts.sites
    alone = [name for name in plan if ("model", name) not in sites]
    if alone:
        return f"the model has no site '{alone[0]}' to dream of. Use ReweightedWakeSleep()"
    factors = [site.name for site in sites.values() if site.role == "model" and site.is_factor]
    if factors:
        return f"the model cannot be drawn from: factor '{factors[0]}'. Use ReweightedWakeSleep()"
    return None


def refuse_at_fixed_values(plan: Plan) -> str | None:
    """Why a plan's sites cannot be learned from fixed values; None where they can."""
    for name, row in plan.rows.items():
        against = refuse_moving_support(plan.facts.sites["guide", name])
        if against is not None:
            return f"site '{name}' ({row.distribution}) cannot be learned from fixed values: {against}. Use ELBO()"
        if row.reason == "as asked":
            return f"{row.estimator!r} was asked for at site '{name}', and no estimator is used. Leave estimators out"
    return None
