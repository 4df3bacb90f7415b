"""Data that the model draws, in the place of the data it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch, Run, Term

Dream = tuple[Batch, dict[str, Any], dict[Term, Any]]


def dreamt(batch: Batch, run: Run, like: Callable[[Any, Any], Any]) -> Dream:
    """(the batch as the model draws it, its sites' values, their terms).

    Each argument that a site observes is replaced by what the site drew; the others stay.

    Args:
        batch: what the program was called with.
        run: of the model, its observed sites drawn.
        like: (value, argument) -> the value in the argument's type.

    Raises:
        ProgramError: an observed site does not show an argument just as it was given, or two show the same.
    """
    values: dict[int | str, Any] = dict(batch_items(batch))
    taken: dict[int | str, str] = {}
    records: dict[str, Any] = run.records
    for name, shown in run.shown.items():
        place = next((key for key, value in batch_items(batch) if value is shown), None)
        if place is None or place in taken or records[name].shape != values[place].shape:
            raise ProgramError(
                f"site '{name}': expected obs= to be an argument of the program, whole and at no other site, so that the guide "
                "can be shown another value in its place; got something made from the arguments. "
                "Pass the observed values as an argument of their own, or use ReweightedWakeSleep()."
            )
        taken[place], values[place] = name, like(records[name], values[place])
    return _filled(batch, values), {**run.records, **run.values}, dict(run.terms)


def redrawn(batch: Batch, run: Run, like: Callable[[Any, Any], Any]) -> Batch:
    """As `dreamt`, as far as it goes: what no site shows just as it was given stays as it is."""
    values: dict[int | str, Any] = dict(batch_items(batch))
    records: dict[str, Any] = run.records
    for name, shown in run.shown.items():
        place = next((key for key, value in batch_items(batch) if value is shown), None)
        if place is not None and records[name].shape == values[place].shape:
            values[place] = like(records[name], values[place])
    return _filled(batch, values)


def _filled(batch: Batch, values: Mapping[int | str, Any]) -> Batch:
    """The batch with these arguments."""
    args = tuple(values[i] for i in range(len(batch.args)))
    return Batch(args, {key: values[key] for key in batch.kwargs}, batch.scale, batch.rows)


DREAMS = 4  # dreams that are compared: bits that happen to agree with the data are few after as many


def check_dreams(dream: Callable[..., Any], batch: Batch, seed: int) -> None:
    """Raise where the densities of what the model draws depend on the data it is shown.

    Args:
        dream: (batch, seed, values) -> the batch as the model draws it, the values of all its sites, which are drawn or
            those that are given, and their terms.
        batch: the data.
        seed: of the noise.

    Raises:
        ProgramError: a distribution of the model reads an argument that is dreamt.
    """
    _, values, expected = dream(batch, seed, {})
    for number in range(1, DREAMS + 1):
        other, _, _ = dream(batch, seed + number, {})
        _, _, terms = dream(other, seed, values)
        for term in {**expected, **terms}:
            if term not in terms or term not in expected or not _same(expected[term], terms[term]):
                raise ProgramError(
                    f"site '{term[1]}': expected a distribution that does not read the data it is to be drawn for, so that the "
                    "model can dream; got one that changes with them (an autoregressive density?). Use "
                    "ReweightedWakeSleep() or ELBO()."
                )


def _same(one: ArrayLike, other: ArrayLike) -> bool:
    """Whether two arrays hold the same numbers, up to rounding."""
    return bool(np.allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-5, equal_nan=True))


def batch_items(batch: Batch) -> list[tuple[int | str, Any]]:
    """(position or name, argument) of all arguments."""
    return [*enumerate(batch.args), *batch.kwargs.items()]
