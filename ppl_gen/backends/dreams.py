"""Data that the model draws, in the place of the data it was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch, Run


def dreamt(batch: Batch, run: Run, like: Callable[[Any, Any], Any]) -> Batch:
    """The batch, each argument that a site observes replaced by what the site drew; the others stay.

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
    args = tuple(values[i] for i in range(len(batch.args)))
    return Batch(args, {key: values[key] for key in batch.kwargs}, batch.scale, batch.rows)


def check_dreams(dream: Callable[[Batch], Batch], batch: Batch) -> None:
    """Raise where what the model draws depends on the data it is shown: with the same noise a dream's dream is itself.

    Args:
        dream: a batch -> the batch as the model draws it, with the same noise at every call.
        batch: the data.

    Raises:
        ProgramError: a distribution of the model reads an argument that is dreamt.
    """
    once = dream(batch)
    again = dream(once)
    for (place, first), (_, second) in zip(batch_items(once), batch_items(again), strict=True):
        if first is not second and not bool((first == second).all()):
            where = f"argument {place}" if isinstance(place, int) else f"argument '{place}'"
            raise ProgramError(
                f"{where}: expected data that the model draws without reading them, to dream of; got a model whose "
                "distributions change with them (an autoregressive density?). Use ReweightedWakeSleep() or ELBO()."
            )


def batch_items(batch: Batch) -> list[tuple[int | str, Any]]:
    """(position or name, argument) of all arguments."""
    return [*enumerate(batch.args), *batch.kwargs.items()]
