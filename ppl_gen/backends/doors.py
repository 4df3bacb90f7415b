"""What the doors to both libraries have in common: one run of a program, looked at in several ways."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np

from ppl_gen.backends.interface import A, Library, Observer
from ppl_gen.elimination.sums import sum_out
from ppl_gen.program import Batch, Facts, Run
from ppl_gen.program.arrays import Namespace


class RunProgram(Protocol):
    """Runs a program on what it holds, or on a state and a key that it was given before."""

    def __call__(
        self,
        batch: Batch,
        fixed: Mapping[str, Any] | None = None,
        cut: Collection[str] = (),
        *,
        observer: Observer[Any] | None = None,
        predictive: bool = False,
        guide: bool = True,
    ) -> Run:
        """See the programs' own `run`."""


def is_finite(library: Library[A], run: Run) -> bool:
    """Whether every term of a run is finite."""
    return all(bool(np.isfinite(library.to_host(term)).all()) for term in run.terms.values())


def drawn(
    xp: Namespace, facts: Facts, run: RunProgram, batch: Batch, *, guide: bool, predictive: bool
) -> dict[str, dict[Any, Any]]:
    """Values, terms and records of one run; its finite choices summed out where the plan says so."""
    found = run(batch, guide=guide, predictive=predictive)
    if guide and not predictive:
        values = found.values
        found = sum_out(xp, facts, found, lambda choices: run(batch, {**values, **choices}, guide=False))
    return {"values": dict(found.values), "terms": dict(found.terms), "records": dict(found.records)}


class Watch:
    """The half of a handler of either library that reports each statement, by its name.

    Args:
        call: is called with the name of every site, parameter and plate.
    """

    def __init__(self, call: Callable[[str | None], None]) -> None:
        super().__init__()
        self.call = call

    def process_message(self, msg: Mapping[str, Any]) -> None:
        """Report a statement."""
        self.call(msg.get("name"))

    _process_message = process_message
