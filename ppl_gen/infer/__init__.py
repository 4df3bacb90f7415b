"""The verbs: fit, plan, gradient, load."""

from ppl_gen.infer.fit import Running, fit, load
from ppl_gen.infer.result import Fit
from ppl_gen.infer.verbs import gradient, plan

__all__ = ["Fit", "Running", "fit", "gradient", "load", "plan"]
