"""The bidirectional Helmholtz machine: generative and recognition network as one model."""

from __future__ import annotations

from ppl_gen.models.sigmoid_belief_net import SigmoidBeliefNet
from ppl_gen.objectives import BidirectionalHelmholtz, Bound


class BidirectionalHelmholtzMachine(SigmoidBeliefNet):
    """A belief network that is fitted together with its inference network, to their geometric mean.

    Sites, parameters and arguments are those of `SigmoidBeliefNet`. Training weighs draws against one another: pass
    `num_particles` of two or more to `infer.fit`, such as 10.

    Source: Bornschein et al. 2016.

    Example:
        >>> BidirectionalHelmholtzMachine(64, (20, 10)).objective
        BidirectionalHelmholtz()
    """

    objective: Bound = BidirectionalHelmholtz()
