"""Guides: what turns a model and data into a learning signal, one per file.

They may import `ppl_gen.data`, `ppl_gen.nn` and what is above these.
"""

from ppl_gen.guides.mean_field import MeanField

__all__ = ["MeanField"]
