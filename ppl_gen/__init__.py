"""ppl_gen: every sample site of a stochastic program gets a gradient estimator that is chosen, right and explained."""

from __future__ import annotations

import importlib
from typing import Any

from ppl_gen import language as _language
from ppl_gen import nn
from ppl_gen.errors import NonFinite, ProgramError
from ppl_gen.language import density, deterministic, dist, factor, module, param, plate, sample, xp

__version__ = "0.1.0"

_LAZY = ("data", "estimators", "evaluate", "guides", "infer", "models", "objectives")

__all__ = [
    "NonFinite",
    "ProgramError",
    "data",
    "density",
    "deterministic",
    "dist",
    "estimators",
    "evaluate",
    "factor",
    "guides",
    "infer",
    "models",
    "module",
    "nn",
    "objectives",
    "param",
    "plate",
    "sample",
    "xp",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"ppl_gen.{name}")
    raise AttributeError(f"module 'ppl_gen' has no attribute '{name}'")


del _language
