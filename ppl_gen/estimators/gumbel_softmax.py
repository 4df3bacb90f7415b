"""Relaxed values that pass a gradient: Gumbel-softmax, also called the binary concrete distribution."""

from __future__ import annotations

from ppl_gen.estimators.base import Estimator
from ppl_gen.estimators.relaxed import refuse_not_relaxable, relaxed
from ppl_gen.program import Draw, Facts, Site
from ppl_gen.program.arrays import Array, Namespace


class GumbelSoftmax(Estimator):
    r"""A relaxed value that passes a gradient: :math:`\sigma((\mathrm{logit} + \epsilon) / T)`, with logistic noise.

    **Biased**, so never chosen automatically.

    What is optimised, and reported as the loss, is another objective: the expectation over relaxed values of the cost
    as the program computes it there, in which the site's own log p and log q are the discrete log masses continued as
    straight lines, :math:`z \log p + (1 - z) \log(1 - p)`, not densities of the relaxed value. It is no bound on
    log p(x). A lower temperature is less biased and has more variance.

    Binary sites only: a categorical value is an index, which nothing lies between.

    Args:
        temperature: T, positive.

    Source: Jang et al. 2017; Maddison et al. 2017.

    Example:
        >>> GumbelSoftmax().unbiased
        False
    """

    unbiased = False
    needs = "a binary site along whose value every cost is differentiable"
    source = "Jang et al. 2017; Maddison et al. 2017"
    cuts = False
    alone = True

    def __init__(self, temperature: float = 0.5) -> None:
        if not temperature > 0:
            raise ValueError(
                f"{type(self).__name__}: expected temperature > 0; got {temperature}. Use a value such as 0.5."
            )
        self.temperature = temperature

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        return refuse_not_relaxable(site, facts)

    def draw(self, xp: Namespace) -> Draw:
        """See `Estimator.draw`."""
        return Draw(lambda masses, noise: self.value(xp, relaxed(xp, masses, noise, self.temperature)))

    def value(self, xp: Namespace, soft: Array) -> Array:
        """What the program sees of a relaxed value."""
        return soft
