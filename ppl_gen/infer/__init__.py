"""The verbs: fit, plan, gradient, check, load; and the `Fit`, which answers what can be asked of a trained program.

It may import everything but `models`, and no framework.
"""

from ppl_gen.infer.check import Report, check
from ppl_gen.infer.fit import Running, fit
from ppl_gen.infer.load import load
from ppl_gen.infer.result import Fit
from ppl_gen.infer.verbs import gradient, plan

__all__ = ["Fit", "Report", "Running", "check", "fit", "gradient", "load", "plan"]
