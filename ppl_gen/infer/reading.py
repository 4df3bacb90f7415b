"""Reading a program for the verbs: on the whole data as one batch, or on the first of several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ppl_gen.backends.interface import Callback, Data
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Estimator
from ppl_gen.estimators.likelihood import lone_masks
from ppl_gen.infer.arguments import check_choices, check_program
from ppl_gen.infer.automatic import automatic, converter, knows_rows, prepare_any
from ppl_gen.infer.rows import followers, resized, settle
from ppl_gen.program import Batch
from ppl_gen.training.batches import Stream, Table, as_arguments, check_data, is_stream, length, make_source
from ppl_gen.training.model import model_of
from ppl_gen.training.prepare import Prepared, choose_backend, choose_device, no_guide


@dataclass(frozen=True)
class Settings:
    """How a verb was asked to read a program.

    Attributes:
        backend: "torch" or "jax"; None notices it.
        device: "auto", or a device's name.
        seed: of the first run.
        estimators: site name or ``"*"`` -> estimator instance.
        num_particles: draws per step.
    """

    backend: str | None = None
    device: str = "auto"
    seed: int = 0
    estimators: Mapping[str, Estimator] | None = None
    num_particles: int = 1

    def options(self, place: str, notes: tuple[str, ...]) -> dict[str, Any]:
        """Those of `prepare`."""
        own = {"seed": self.seed, "estimators": self.estimators, "num_particles": self.num_particles}
        return {**own, "device": place, "notes": notes}


def read(
    model: Callback,
    guide: Callback | None,
    data: Data,
    backend: str | None,
    params: Mapping[str, Any] | None,
    *,
    device: str = "auto",
    seed: int = 0,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
) -> tuple[Prepared, Batch]:
    """The program, read on the whole data as one batch, with these unconstrained parameters where some are given."""
    check_program(model, guide, data, backend)
    check_choices(estimators, num_particles, device)
    args, kwargs = as_arguments(data)
    parts = model_of(model)
    bad = None if parts.encode else check_data(args, kwargs)
    guide = parts.guide if guide is None else guide
    module = choose_backend(model, guide, args, kwargs, backend)
    place, notes = choose_device(module, device, model, guide)
    source = Table(parts.encoded(data), None, 0, converter(module, place))
    batch = source.first()
    makers: list[Callable[[], Callback]] = [partial(_itself, guide)] if guide is not None else []
    makers = makers or automatic(model, module, source.num_rows, batch, resized(source), seed, place)
    options = Settings(backend, device, seed, estimators, num_particles).options(place, notes)
    prepared = prepare_any(model, makers, batch, backend=module, bad=bad, **options)
    if params is not None:
        module.set_params(prepared.program, params)
    return prepared, batch


def open_program(
    model: Callback,
    guide: Callback | None,
    data: Data,
    settings: Settings,
    *,
    batch_size: int | None = None,
    encode: Callback | None = None,
    num_rows: int | None = None,
    names: Collection[str] | None = None,
) -> tuple[Prepared, Table | Stream]:
    """Read the program on the first batch and settle which plates stand for the rows.

    Args:
        model: the model.
        guide: None takes a mean-field one.
        data: in any form.
        settings: how to read it.
        batch_size: rows per step.
        encode: what a built-in model does to its data first.
        num_rows: of a saved fit, whose guide may have parameters for each of more rows than the data's.
        names: of a saved fit's parameters.
    """
    args, kwargs = as_arguments(_first_of(data))
    bad = None if encode or is_stream(data) else check_data(args, kwargs)
    backend = choose_backend(model, guide, args, kwargs, settings.backend)
    place, notes = choose_device(backend, settings.device, model, guide)
    with backend.Program(no_guide, no_guide, seed=settings.seed, device=place).session():  # a loader may draw
        source = make_source(data, batch_size, settings.seed, converter(backend, place), encode, backend.loading)
    first, other = source.first(), resized(source)
    if num_rows is not None:
        first, other = _indexed(first), other and _indexed(other)

    def settled(prepared: Prepared) -> None:
        if guide is None:
            _check_automatic(prepared, names)
        with prepared.session():
            following, beside, _ = followers(backend, prepared.program, first, other)
        prepared.program.row_plates = settle(following, beside, prepared, first)

    makers: list[Callable[[], Callback]] = [partial(_itself, guide)] if guide is not None else []
    if guide is None:
        rows = num_rows or source.num_rows
        made = automatic(model, backend, rows, first, other, settings.seed, place)
        makers = [partial(_for_data, make, source) for make in made]
    options = settings.options(place, notes)
    return prepare_any(model, makers, first, settled, backend=backend, bad=bad, **options), source


def _first_of(data: Data) -> Data:
    """The data, or the first of a list of batches; nothing of a stream, which may run but once."""
    if isinstance(data, list):
        return data[0] if data else ()
    return () if is_stream(data) else data


def _itself(guide: Callback) -> Callback:
    return guide


def _for_data(make: Callable[[], Callback], source: Table | Stream) -> Callback:
    """An automatic guide, or the reason why the data cannot have it."""
    guide = make()
    if isinstance(source, Stream) and knows_rows(guide):
        raise ProgramError(
            "data: expected arrays, as the automatic guide has parameters for each row; got an iterable of batches. "
            "Pass arrays with batch_size=, or write a guide that proposes from the data."
        )
    return guide


def _check_automatic(prepared: Prepared, names: Collection[str] | None) -> None:
    """Raise where the automatic guide does not suit the model, or is another one than a saved fit had."""
    if names is not None and set(names) != set(prepared.program.params):
        raise ProgramError(
            f"guide: expected one with the parameters {sorted(names)}; got the automatic one, with "
            f"{sorted(prepared.program.params)}. Pass the guide that the fit was trained with."
        )
    lone = lone_masks(prepared.plan.facts)
    if lone:
        raise ProgramError(
            f"site '{lone[0]}': expected the automatic guide to count wherever the prior does; the model masks this latent and the "
            "guide cannot know where, so that the loss would be no bound. Write a guide that masks it too."
        )


def _indexed(batch: Batch) -> Batch:
    """The batch as the leading rows of more."""
    return Batch(batch.args, batch.kwargs, batch.scale, np.arange(length(batch) or 0))
