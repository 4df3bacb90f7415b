"""Straight-through: a hard value with the gradient of a relaxed one."""

from __future__ import annotations

from ppl_gen.estimators.gumbel_softmax import GumbelSoftmax
from ppl_gen.program.arrays import Array, Namespace


class StraightThrough(GumbelSoftmax):
    """The site's value is drawn as ever, 0 or 1, and passes the gradient of the relaxed value it was rounded from.

    **Biased**, so never chosen automatically. The loss is that of true values, hence the objective's own; the gradient
    is not its gradient, nor in general that of anything.

    Args:
        temperature: of the relaxed value, positive.

    Source: Bengio et al. 2013; Jang et al. 2017, section 2.2.

    Example:
        >>> StraightThrough().unbiased
        False
    """

    source = "Bengio et al. 2013; Jang et al. 2017"
    alone = True

    def value(self, xp: Namespace, soft: Array) -> Array:
        """See `GumbelSoftmax.value`."""
        hard = xp.astype(soft > 0.5, soft.dtype)
        return hard + soft - xp.stop_gradient(soft)
