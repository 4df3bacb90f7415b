"""What runs by day and what only with PPL_GEN_NIGHTLY=1: the same claims on more programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

BACKENDS = ("torch", "jax")


def nightly(*values: Any) -> Any:
    """A parameter set for the night."""
    return pytest.param(*values, marks=pytest.mark.nightly)


def grid(names: Iterable[Any], jax: Iterable[Any], torch: Iterable[Any] | None = None) -> list[Any]:
    """(name, backend) of all names on both backends; by day those in `jax`, and in `torch` (None: all of them)."""
    by_day = {"jax": list(jax), "torch": None if torch is None else list(torch)}
    found = []
    for name in names:
        for backend in BACKENDS:
            day = by_day[backend]
            found.append((name, backend) if day is None or name in day else nightly(name, backend))
    return found
