"""The Helmholtz machine: a sigmoid belief network that wakes and sleeps."""

from __future__ import annotations

from ppl_gen.models.sigmoid_belief_net import SigmoidBeliefNet
from ppl_gen.objectives import Bound, WakeSleep


class HelmholtzMachine(SigmoidBeliefNet):
    """A generative and a recognition network of binary layers, trained by wake-sleep unless told otherwise.

    Sites, parameters and arguments are those of `SigmoidBeliefNet`; the recognition network is its guide.

    Source: Dayan et al. 1995; Hinton et al. 1995; book section 20.10.1.

    Example:
        >>> HelmholtzMachine(64, (20, 10)).objective
        WakeSleep()
    """

    objective: Bound = WakeSleep()
