"""Wake-sleep: the model learns from the guide's draws, the guide from the model's."""

from __future__ import annotations

from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.elbo import ELBO
from ppl_gen.objectives.fixed_values import asleep, refuse_at_fixed_values, refuse_dreams
from ppl_gen.objectives.particles import Particles
from ppl_gen.program.arrays import Array


class WakeSleep(ELBO):
    """Awake, the model maximises log p of the data and the guide's draws; asleep, the guide maximises log q of dreams.

    A dream is a draw of latents and data from the model; the guide is run with the dreamt data as its arguments. No
    estimator is needed, and discrete sites are like any other. The two halves are not the gradient of one objective:
    the guide minimises KL(p || q) under the model's own data. The loss reported is minus the ELBO.

    Each observed site must show an argument of the program just as it was given, and no distribution of the model may read
    that argument (as an autoregressive density would), or a dream is no draw from the model: refused. The guide must read the
    data too: an automatic mean-field guide would only learn the prior.

    Source: Hinton et al. 1995; book section 19.5.1.

    Example:
        >>> WakeSleep()
        WakeSleep()
    """

    at_fixed_values = True
    dreams = True
    by_particle = True

    def __init__(self) -> None:
        super().__init__()

    def live(self, particles: Particles, value: Array) -> Array:
        """See `Bound.live`."""
        xp, costs = particles.xp, particles.costs
        awake = [xp.sum(cost) for each in costs for (role, _), cost in each.items() if role == "model"]
        dreams = [asleep(particles, k) for k in range(len(costs)) if len(particles.plan)]
        return sum([*awake, *dreams], xp.zeros(())) / len(costs)

    def refusal(self, plan: Plan) -> str | None:
        """See `Bound.refusal`."""
        return refuse_dreams(plan) or refuse_at_fixed_values(plan)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
