"""Named data sets with fixed splits, binarization, fingerprints, and schemas of named variables.

It may import what is above it down to `objectives`, and no framework.
"""

from ppl_gen.data.binarization import binarize, binarize_stochastically
from ppl_gen.data.dataset import Dataset, fingerprint
from ppl_gen.data.loading import load
from ppl_gen.data.schema import Schema
from ppl_gen.data.variable import Variable

__all__ = [
    "Dataset",
    "Schema",
    "Variable",
    "binarize",
    "binarize_stochastically",
    "fingerprint",
    "load",
]
