"""The variational Renyi bound."""

from __future__ import annotations

from ppl_gen.objectives.importance_weighted import ImportanceWeighted
from ppl_gen.program.arrays import Array, Namespace


class Renyi(ImportanceWeighted):
    r"""The bound :math:`\frac{1}{1-\alpha} E \log \frac1K \sum_k (p(x, z_k) / q(z_k))^{1-\alpha}`, for every datum.

    alpha = 0 is `ImportanceWeighted`; towards alpha = 1 it becomes the ELBO. A larger alpha prefers guides that stay
    where the posterior is; a negative one prefers guides that cover it, and what it reports may lie above log p(x).

    Args:
        alpha: any real but 1.

    Source: Li & Turner 2016.

    Example:
        >>> Renyi(0.5)
        Renyi(alpha=0.5)
    """

    def __init__(self, alpha: float = 0.5) -> None:
        if alpha == 1:
            raise ValueError("Renyi: expected alpha other than 1; got 1, where the bound is the ELBO. Use ELBO().")
        super().__init__()
        self.alpha = alpha
        self.kind = "lower_bound" if alpha >= 0 else "estimate"

    def combine(self, xp: Namespace, log_weights: Array) -> Array:
        """See `Weighted.combine`."""
        power = 1.0 - self.alpha
        return super().combine(xp, power * log_weights) / power

    def __repr__(self) -> str:
        return f"Renyi(alpha={self.alpha})"
