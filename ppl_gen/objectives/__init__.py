"""What is maximised, one objective per file."""

from ppl_gen.objectives.bound import Bound, Loss
from ppl_gen.objectives.elbo import ELBO

__all__ = ["ELBO", "Bound", "Loss"]
