"""Gradient estimators, one per file, the baselines of the score function, the choice among them, and the plan.

It may import `backends` and what is above it, and no framework.
"""

from ppl_gen.estimators.arm import Arm
from ppl_gen.estimators.base import Baseline, Estimator
from ppl_gen.estimators.baselines import Constant, Learned, MovingAverage
from ppl_gen.estimators.disarm import DisArm
from ppl_gen.estimators.double_control import DoubleControl
from ppl_gen.estimators.enumerate import Enumerate
from ppl_gen.estimators.gumbel_softmax import GumbelSoftmax
from ppl_gen.estimators.leave_one_out import LeaveOneOut
from ppl_gen.estimators.measure_valued import MeasureValued
from ppl_gen.estimators.muprop import MuProp
from ppl_gen.estimators.optimal import Optimal
from ppl_gen.estimators.pathwise import Pathwise
from ppl_gen.estimators.plan import Plan, make_plan
from ppl_gen.estimators.rebar import Rebar
from ppl_gen.estimators.relax import Relax
from ppl_gen.estimators.rodeo import Rodeo
from ppl_gen.estimators.score import Score
from ppl_gen.estimators.straight_through import StraightThrough

__all__ = [
    "Arm",
    "Baseline",
    "Constant",
    "DisArm",
    "DoubleControl",
    "Enumerate",
    "Estimator",
    "GumbelSoftmax",
    "LeaveOneOut",
    "Learned",
    "MeasureValued",
    "MovingAverage",
    "MuProp",
    "Optimal",
    "Pathwise",
    "Plan",
    "Rebar",
    "Relax",
    "Rodeo",
    "Score",
    "StraightThrough",
    "make_plan",
]
