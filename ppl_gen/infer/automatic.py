"""The automatic guide where none was given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import numpy as np

from ppl_gen.backends.interface import Backend, Callback
from ppl_gen.errors import ProgramError
from ppl_gen.guides import MeanField
from ppl_gen.infer.rows import followers
from ppl_gen.program import Batch
from ppl_gen.training.prepare import Prepared, no_guide, prepare


def converter(backend: Backend, device: str) -> Callable[[Any], Any]:
    """Host arrays to the backend's own, on a device."""

    def convert(value: object) -> Any:
        if isinstance(value, np.ndarray) and not value.flags.writeable:  # a frame's own memory, say
            value = value.copy()
        return backend.array(value, device)

    return convert


def knows_rows(guide: object) -> TypeGuard[MeanField]:
    """Whether a guide has parameters for each row of the data it was made for."""
    return isinstance(guide, MeanField) and any(guide.row_plates & set(latent.plates) for latent in guide.latents)


def automatic(
    model: Callback, backend: Backend, num_rows: int | None, first: Batch, other: Batch | None, seed: int, device: str
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
    model: Callback,
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
