"""Gradient estimators, one per file, and the baselines of the score function."""

from ppl_gen.estimators.arm import Arm
from ppl_gen.estimators.base import Baseline, Estimator
from ppl_gen.estimators.baselines import Constant, Learned, MovingAverage
from ppl_gen.estimators.disarm import DisArm
from ppl_gen.estimators.enumerate import Enumerate
from ppl_gen.estimators.leave_one_out import LeaveOneOut
from ppl_gen.estimators.pathwise import Pathwise
from ppl_gen.estimators.plan import Plan, make_plan
from ppl_gen.estimators.score import Score

__all__ = [
    "Arm",
    "Baseline",
    "Constant",
    "DisArm",
    "Enumerate",
    "Estimator",
    "LeaveOneOut",
    "Learned",
    "MovingAverage",
    "Pathwise",
    "Plan",
    "Score",
    "make_plan",
]
