"""Guides: what turns a model and data into a learning signal, one per file."""

from ppl_gen.guides.mean_field import MeanField

__all__ = ["MeanField"]
