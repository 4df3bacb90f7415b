"""Double control variates: leave-one-out, with straight lines taken out of every signal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_gen.estimators.base import Estimate, Estimator, Start, View
from ppl_gen.estimators.relaxed import fold, refuse_not_relaxable
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array


class Point(NamedTuple):
    """One particle's draw, without gradient but for the logits.

    Attributes:
        logits: live.
        mean: their sigmoid.
        away: value less mean.
        signal: of the run.
        slope: derivative of the signal by the value, at the value.
    """

    logits: Array
    mean: Array
    away: Array
    signal: Array
    slope: Array


def points(view: View) -> list[Point]:
    """Each particle's draw of a binary site with the cost's slope there."""
    xp, found = view.xp, []
    for k, run in enumerate(view.runs):
        masses: Array = run.masses[view.site.name]()
        mean = xp.exp(xp.stop_gradient(masses[..., 1]))
        value = xp.astype(run.values[view.site.name], mean.dtype)
        slope = view.slope(k, value)[1]
        found.append(Point(masses[..., 1] - masses[..., 0], mean, value - mean, view.signal(k), slope))
    return found


def others_mean(arrays: list[Array]) -> list[Array]:
    """For each the mean of the others."""
    total = sum(arrays[1:], arrays[0])
    return [(total - one) / (len(arrays) - 1) for one in arrays]


class DoubleControl(Estimator):
    r"""Leave-one-out whose signals lose a straight line, drawn with the other particles' slopes.

    With a the mean slope at the others' values, :math:`f(z_k) - \alpha a_k (z_k - \mu)` stands for the signal, both
    the particle's own and in the others' mean; :math:`\alpha a_k \nabla \mu` puts back what that takes from the
    particle's own. The coefficient is learned: it minimises the squared gradient.

    Needs ``num_particles >= 2``, and an objective in which a particle's signal is its own, such as `ELBO`.

    Args:
        coefficient: where the learned multiple starts.

    Source: Titsias & Shi 2022.

    Example:
        >>> DoubleControl().unbiased
        True
    """

    unbiased = True
    needs = "two particles or more, a binary site along whose value every cost is differentiable"
    source = "Titsias & Shi 2022"
    cuts = True
    own_signals = True

    def __init__(self, coefficient: float = 0.5) -> None:
        self.coefficient = coefficient

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if num_particles < 2:
            return f"it needs num_particles >= 2, and there is {num_particles}"
        return refuse_not_relaxable(site, facts)

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        return 2

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Estimator.start`."""
        return {"coefficient": np.asarray(self.coefficient, np.float32)}, {}

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        xp, draws, alpha = view.xp, points(view), view.weights["coefficient"]
        slopes = others_mean([draw.slope for draw in draws])
        lines = [fold(view, a * draw.away, draw.signal) for a, draw in zip(slopes, draws, strict=True)]
        bent = [draw.signal - alpha * line for draw, line in zip(draws, lines, strict=True)]
        gradients = []
        for draw, a, own, level in zip(draws, slopes, bent, others_mean(bent), strict=True):
            put_back = alpha * a * draw.mean * (1 - draw.mean)
            gradients.append(view.expand(own - level) * draw.away + put_back)
        terms = [xp.sum(xp.stop_gradient(g) * draw.logits) for g, draw in zip(gradients, draws, strict=True)]
        together = sum(gradients[1:], gradients[0]) / len(gradients)
        return Estimate(view.share * sum(terms[1:], terms[0]), xp.mean(together**2), view.averages)
