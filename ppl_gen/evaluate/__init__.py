"""Numbers about a fit or a gradient that carry what they are, one metric or diagnostic per file.

It may import `training` and what is above it, and no framework.
"""

from ppl_gen.evaluate.log_prob import LogProb

__all__ = ["LogProb"]
