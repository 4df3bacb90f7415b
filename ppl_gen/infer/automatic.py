"""The automatic guide where none was given, and which plates stand for the rows of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ppl_gen.backends.held import as_they_were
from ppl_gen.errors import ProgramError
from ppl_gen.guides import MeanField
from ppl_gen.program import Batch, Latent
from ppl_gen.training.batches import Stream, Table, length
from ppl_gen.training.prepare import Prepared, no_guide, prepare


def converter(backend: Any, device: str) -> Callable[[Any], Any]:
    """Host arrays to the backend's own, on a device."""

    def convert(value: Any) -> Any:
        shared = isinstance(value, np.ndarray) and not value.flags.writeable  # a frame's own memory, say
        return backend.array(value.copy() if shared else value, device)

    return convert


def resized(source: Table | Stream) -> Batch | None:
    """The first batch with one row less, or with another one where it has but one; None where rows are not counted."""
    rows = source.first_rows
    return None if not rows else source.first(rows - 1 if rows > 1 else 2)


def followers(
    backend: Any, program: Any, first: Batch, other: Batch | None, guide: bool = True
) -> tuple[set[str], set[str], list[Latent]]:
    """(plates whose size follows the number of rows, the model's sites whose shape does, its latents).

    The size of a plate that draws a subsample is the subsample's: such a plate follows where it states the whole number of
    rows, and the batch's as the size of a subsample.

    Args:
        backend: the backend module.
        program: the program.
        first: what it is read on.
        other: the same with one row more or less; None where rows are not counted.
        guide: whether the guide is run too.
    """
    sizes, latents, shapes = backend.survey(program, first, guide=guide)
    if other is None:
        return set(), set(), latents
    rows = length(first) or 1
    try:
        with as_they_were(program.model, program.guide):
            changed, resized_latents, others = backend.survey(program, other, guide=guide)
    except Exception:  # a program that cannot run on another number of rows: go by length
        plates, beside = {name for name, (size, _) in sizes.items() if size == rows}, set()
    else:
        plates = {name for name, (size, _) in sizes.items() if abs(changed.get(name, (size, 0))[0] - size) == 1}
        shapes |= {latent.name: latent.shape for latent in latents}
        others |= {latent.name: latent.shape for latent in resized_latents}
        beside = {name for name, shape in shapes.items() if others.get(name, shape) != shape}
    own = {name for name, (size, full) in sizes.items() if size != full}
    whole = {name for name in own & plates if sizes[name][1] == round(first.scale * rows)}
    return plates, beside, [replace(latent, subsampled=bool(own & set(latent.plates) - whole)) for latent in latents]


def automatic(
    model: Any, backend: Any, num_rows: int | None, first: Batch, other: Batch | None, seed: int, device: str
) -> list[Callable[[], Any]]:
    """Makers of guides for a model that comes without one, the best first.

    They are mean-field: without the finite latents, which may be summed out, and with them. The last holds every latent.
    """
    program = backend.Program(model, no_guide, seed=seed, device=device)
    try:
        with program.session():
            following, _, latents = followers(backend, program, first, other, guide=False)
    except Exception:  # the reading that follows says what is wrong, in full
        return [lambda: no_guide]
    free = [latent for latent in latents if latent.num_values is None]
    kinds = [free] if len(free) == len(latents) else [free, latents]
    return [partial(MeanField, some, following, num_rows) if some else lambda: no_guide for some in kinds]


def prepare_any(
    model: Any,
    makers: list[Callable[[], Any]],
    batch: Batch,
    settle: Callable[[Prepared], None] = lambda prepared: None,
    **options: Any,
) -> Prepared:
    """The program with the first guide that it can be trained with.

    Args:
        model: the model.
        makers: of guides.
        batch: what is read.
        settle: what else is to be asked of the program, and raises where it does not suit.
        options: of `prepare`.

    Raises:
        ProgramError: it can be trained with none.
    """

    def with_guide(make: Callable[[], Any], unsummed: str | None = None) -> Prepared:
        prepared = prepare(model, make(), batch, unsummed=unsummed, **options)
        settle(prepared)
        return prepared

    why = None
    for make in makers[:-1]:
        try:
            return with_guide(make)
        except ProgramError as error:  # too much to sum out
            why = str(error)
    return with_guide(makers[-1], why)
