"""Numbers about a fit that carry what they are, one metric per file."""

from ppl_gen.evaluate.log_prob import LogProb

__all__ = ["LogProb"]
