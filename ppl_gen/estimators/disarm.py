"""Antithetic pairs: ARM, and DisARM, its Rao-Blackwellized form."""

from __future__ import annotations

from ppl_gen.estimators.base import Estimate, Estimator, View, refuse_own_noise
from ppl_gen.estimators.sticks import antithetic, refuse_not_stick, sticks
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array


class DisArm(Estimator):
    r"""Two runs whose binary choices come from noise u and 1 - u, weighted by how the pair can differ.

    A categorical site is a chain of binary choices (stick breaking); those after the first level that is taken in
    either run move neither and are left out.

    Source: Dong, Mnih & Tucker 2020 (DisARM); Yin & Zhou 2019 (ARM); Dong, Mnih & Tucker 2021 (categorical).

    Example:
        >>> DisArm().unbiased
        True
    """

    unbiased = True
    needs = "binary or categorical elements"
    source = "Dong, Mnih & Tucker 2020"
    cuts = True
    alone = True

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        return refuse_own_noise(facts) or refuse_not_stick(site)

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        return 2

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        total = 0.0 * view.xp.sum(view.signal(0))
        for k, run in enumerate(view.runs):
            logits = sticks(view.xp, run.masses[view.site.name]())
            pair = antithetic(view, k, logits)
            difference = view.expand(view.signal(k) - view.signal(k, view.again(k, pair.other)))
            slope = 0.5 * difference[..., None] * self.weight(view, pair.first, pair.second, pair.noise, logits)
            total = total + view.xp.sum(view.xp.stop_gradient(pair.matters * slope) * logits)
        return Estimate(view.share * total, None, view.averages)

    def weight(self, view: View, first: Array, second: Array, noise: Array, logits: Array) -> Array:
        """What half the difference of the signals is multiplied by, stick by stick."""
        return (first - second) * view.xp.sigmoid(abs(logits))
