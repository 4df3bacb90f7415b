"""What a trained program is asked with: data in the form that it was trained on, where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ppl_gen.backends.dreams import batch_items
from ppl_gen.backends.interface import Backend
from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch
from ppl_gen.training.batches import is_array


def check_device(backend: Backend, device: str, own: str) -> None:
    """Raise unless a device that is asked for is a fit's own.

    Raises:
        ValueError: it is another one, or none.
    """
    place = own if device == "auto" else backend.resolve_device(device)
    if place.removesuffix(":0") != own.removesuffix(":0"):
        raise ValueError(
            f"device: expected 'auto' or {own!r}, where the fit is; got {device!r}. Save the fit, and load it there: "
            f"infer.load(path, model, device={device!r})."
        )


@contextmanager
def held_to_form(given: Batch, trained: Batch) -> Iterator[None]:
    """Inside, a program that cannot run on what it is given says which argument is of another form than in training.

    What the program does run on is not looked at: None, for one, may stand for what it is to draw.

    Raises:
        ProgramError: it could not; the message names the argument.
    """
    try:
        yield
    except Exception as error:
        odd = None if isinstance(error, ProgramError) else _odd(given, trained)
        if odd is None:
            raise
        raise ProgramError(f"{odd} The program could not run on it ({type(error).__name__}: {error}).") from error


def _odd(given: Batch, trained: Batch) -> str | None:
    """What is of another form, in words; None where nothing is."""
    ours, theirs = dict(batch_items(given)), dict(batch_items(trained))
    for key, value in theirs.items():
        if key not in ours:
            return f"data: expected [{key!r}], as in training; got {sorted(map(str, ours))}. Pass it, or None where it is to be drawn."
        if is_array(value) and not is_array(ours[key]):
            return (
                f"data[{key!r}]: expected an array, as in training; got {ours[key]!r:.40}. Pass an array; None does where the program "
                "draws what it is not given."
            )
    extra = sorted(str(key) for key in ours if key not in theirs)
    return (
        f"data: expected {sorted(map(str, theirs))}, as in training; got {', '.join(extra)} too. Leave it out."
        if extra
        else None
    )
