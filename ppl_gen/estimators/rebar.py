"""REBAR: the score function held against a relaxation of the same draw."""

from __future__ import annotations

import numpy as np

from ppl_gen.estimators.base import Arrays, Estimate, Estimator, Start, View
from ppl_gen.estimators.relaxed import (
    Noisy,
    noisy_masses,
    refuse_not_followed,
    relaxed_slope,
    squared_length,
)
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array


class Rebar(Estimator):
    r"""Score function with the cost at a relaxed value as its control variate.

    Let z be logit plus noise, b its sign, and c(z) the cost at :math:`\sigma(z / T)`. The expectation of c has two
    gradients, one through z and one through b and z given b; their difference has mean zero, and a multiple of it is
    added to the score function: :math:`(f(b) - \eta c(z)) \nabla \log q(b) + \eta c'(z) (\nabla z - \nabla z_{|b})`.
    Both are taken at one z, drawn given b, so that one relaxed run is enough. The coefficient is learned: it minimises
    the squared gradient, which, the mean being fixed, is the variance.

    Args:
        temperature: T, positive.
        coefficient: where the learned multiple starts.

    Source: Tucker et al. 2017.

    Example:
        >>> Rebar().unbiased
        True
    """

    unbiased = True
    needs = "a binary site along whose value, and what follows from it, every cost is differentiable"
    source = "Tucker et al. 2017"
    cuts = True
    alone = True

    def __init__(self, temperature: float = 0.5, coefficient: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(
                f"{type(self).__name__}: expected temperature > 0; got {temperature}. Use a value such as 0.5."
            )
        self.temperature, self.coefficient = temperature, coefficient

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        return refuse_not_followed(site, facts)

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        return 2

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Estimator.start`."""
        return {"coefficient": np.asarray(self.coefficient, np.float32)}, {}

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        xp, total, loss, rests = view.xp, view.xp.zeros(()), view.xp.zeros(()), []
        for k, run in enumerate(view.runs):
            masses = run.masses[view.site.name]()
            noisy = noisy_masses(view, k, masses)
            rest, more, slope = self.control(view, k, noisy)
            rests.append(xp.stop_gradient(rest))
            gradient = view.expand(rest - more)[..., None] * noisy.taken + slope * noisy.ratio
            total = total + xp.sum(xp.stop_gradient(gradient) * masses)
            loss = loss + squared_length(xp, gradient, masses)
        return Estimate(view.share * total, loss / len(rests), self.update(view, rests))

    def control(self, view: View, particle: int, noisy: Noisy) -> tuple[Array, Array, Array]:
        """(signal less the relaxed cost, any further control variate, both control variates' slope).

        The first two are shaped like the signal, the slope is by the noisy log masses; all carry gradients to the
        weights alone.
        """
        relaxed, slope = relaxed_slope(view, particle, noisy, self.temperature)
        eta = view.weights["coefficient"]
        return view.signal(particle) - eta * relaxed, view.xp.zeros(()), eta * slope

    def update(self, view: View, rests: list[Array]) -> Arrays:
        """The averages after this step, from what `control` gave first."""
        return view.averages
