"""ARM: augment, reinforce, merge."""

from __future__ import annotations

from ppl_gen.estimators.base import View
from ppl_gen.estimators.disarm import DisArm
from ppl_gen.program.arrays import Array


class Arm(DisArm):
    r"""Two runs from noise u and 1 - u, their difference weighted by u - 1/2.

    Never better than `DisArm`, which averages the noise out; here to be compared with.

    Source: Yin & Zhou 2019.

    Example:
        >>> Arm().unbiased
        True
    """

    source = "Yin & Zhou 2019"
    alone = True

    def weight(self, view: View, first: Array, second: Array, noise: Array, logits: Array) -> Array:
        """See `DisArm.weight`."""
        return 1.0 - 2.0 * noise
