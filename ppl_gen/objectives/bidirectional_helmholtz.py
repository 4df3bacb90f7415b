"""The bidirectional Helmholtz machine: model and guide meet in their geometric mean."""

from __future__ import annotations

from ppl_gen.objectives.reweighted_wake_sleep import ReweightedWakeSleep
from ppl_gen.program.arrays import Array, Namespace


class BidirectionalHelmholtz(ReweightedWakeSleep):
    r"""Model and guide both maximise their log density of K draws weighted by :math:`\sqrt{p / q}`, for every datum.

    These are the derivatives of :math:`2 \log \sum_z \sqrt{p(x, z) q(z)}`, the log-likelihood of the geometric mean of
    p and q up to a constant that is never above zero, as far as K draws show it; its maximisation draws p and q together.
    The loss reported is minus :math:`2 \log \frac1K \sum_k \sqrt{p(x, z_k) / q(z_k)}`, a lower bound of that and of log p(x).

    Source: Bornschein et al. 2016, algorithm 1.

    Example:
        >>> BidirectionalHelmholtz()
        BidirectionalHelmholtz()
    """

    power = 0.5

    def __init__(self) -> None:
        super().__init__()

    def combine(self, xp: Namespace, log_weights: Array) -> Array:
        """See `Weighted.combine`."""
        return super().combine(xp, self.power * log_weights) / self.power
