"""What is maximised, one objective per file."""

from ppl_gen.objectives.elbo import ELBO, Loss

__all__ = ["ELBO", "Loss"]
