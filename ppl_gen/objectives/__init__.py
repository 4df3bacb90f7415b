"""What is maximised, one objective per file.

It may import `estimators` and what is above it, and no framework.
"""

from ppl_gen.objectives.bidirectional_helmholtz import BidirectionalHelmholtz
from ppl_gen.objectives.bound import Bound, Loss
from ppl_gen.objectives.elbo import ELBO
from ppl_gen.objectives.importance_weighted import ImportanceWeighted
from ppl_gen.objectives.renyi import Renyi
from ppl_gen.objectives.reweighted_wake_sleep import ReweightedWakeSleep
from ppl_gen.objectives.wake_sleep import WakeSleep
from ppl_gen.objectives.warmup import Warmup

__all__ = [
    "ELBO",
    "BidirectionalHelmholtz",
    "Bound",
    "ImportanceWeighted",
    "Loss",
    "Renyi",
    "ReweightedWakeSleep",
    "WakeSleep",
    "Warmup",
]
