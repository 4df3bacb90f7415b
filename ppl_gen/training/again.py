"""Reading a program again: what was read once must hold for other batches and other runs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.interface import Backend, Program
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Plan, make_plan
from ppl_gen.estimators.held import Held
from ppl_gen.program import Batch, Facts
from ppl_gen.training.batches import to_host

READINGS = 12  # more, of a program that draws from the host's random state
MOST_KINDS = 16  # of batches that are read


def read_again(backend: Backend, known: Program, plan: Plan, batch: Batch, seed: int, when: str) -> Plan:
    """Read the program anew, on `batch`: what was read before must cover it.

    Args:
        backend: the backend module.
        known: the program as it was read.
        plan: what was planned for it.
        batch: arguments to read it on.
        seed: of the host's random state.
        when: in what this reading differs, for the message.

    Returns:
        The plan for `batch`, with the same estimators.

    Raises:
        ProgramError: another gradient would be needed.
    """
    program = backend.Program(known.model, known.guide, seed=seed, device=known.device)
    program.row_plates = known.row_plates
    try:
        with backends.tripwire(backend.name), program.session(seed):
            other = _planned_alike(backend.read(program, batch), plan)
    except ProgramError as error:
        raise ProgramError(
            f"the program is another {when}. {error} Ask for estimators that are right in all of them, such as Score()."
        ) from error
    lack = plan.lacks(other)
    if lack is not None:
        raise ProgramError(f"the program is another {when}. {lack}. Make one program of it for all batches and runs.")
    return other


def _planned_alike(facts: Facts, plan: Plan) -> Plan:
    """The plan of these facts, with another plan's estimators."""
    latents = {site.name for site in facts.latents()}
    own = {n: row.estimator for n, row in plan.rows.items() if n in latents and not isinstance(row.estimator, Held)}
    return make_plan(facts, own, plan.num_particles)


def check_host(backend: Backend, program: Program, plan: Plan, batch: Batch, seed: int) -> None:
    """Where runs draw from Python's or NumPy's global random state, what they draw must not change the plan.

    Twelve more readings see a turn that one run in five takes with probability 0.93.

    Raises:
        ProgramError: it does in one of the readings.
    """
    with backends.tripwire(backend.name), program.session(seed):
        before = _host_state()
        backend.survey(program, batch, guide=True)
        if before == _host_state():
            return
    if backend.name == "jax":
        warnings.warn(
            "the program draws from Python's or NumPy's random state: compiled, it draws once and for all. "
            "Use numpyro.sample, or numpyro.prng_key().",
            stacklevel=2,
        )
    for number in range(1, READINGS + 1):
        read_again(backend, program, plan, batch, seed + number, "in runs that draw other random numbers of the host's")


def _host_state() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()
    return random.getstate(), np.asarray(keys).tobytes(), *rest


class Watch:
    """Reads the program on the first batch of every other kind: batches are of one kind if all but arrays is equal.

    Args:
        first: the batch that was read.
        read: reads the program on another, and raises where it is another program.
        by_data: whether arrays count too, as the program reads them on the host.
    """

    def __init__(self, first: Batch, read: Callable[[Batch, str], object], by_data: bool = False) -> None:
        self._read, self._by_data = read, by_data
        self._seen = {kind(first, by_data)}

    def __call__(self, batch: Batch) -> None:
        """Look at a batch before it is trained on."""
        found = kind(batch, self._by_data)
        if found in self._seen or len(self._seen) > MOST_KINDS:
            return
        self._seen.add(found)
        if len(self._seen) > MOST_KINDS:
            warnings.warn(
                f"data: more than {MOST_KINDS} kinds of batches, which differ in what is not an array, or in "
                "what the program reads of them on the host; the program was read on as many. Pass what varies from batch to batch as "
                "an array, and leave it one.",
                stacklevel=2,
            )
            return
        self._read(batch, f"on a batch with {_said(batch)}")


def kind(batch: Batch, by_data: bool = False) -> Hashable:
    """All of a batch but its arrays, which count by type unless `by_data`, and numbers with a point, which count by sign."""
    return _kind(batch.args, by_data), _kind(batch.kwargs, by_data)


def _kind(value: object, by_data: bool) -> Hashable:
    if isinstance(value, bool | int | str | bytes | Enum | None):
        return type(value), value
    if isinstance(value, float):  # a weight that is annealed is of one kind, but for none at all
        return float, (value > 0) - (value < 0)
    if isinstance(value, Mapping):
        return tuple(sorted((str(key), _kind(inner, by_data)) for key, inner in value.items()))
    if isinstance(value, tuple | list):
        return tuple(_kind(inner, by_data) for inner in value)
    content = to_host(value).tobytes() if by_data and hasattr(value, "shape") else b""
    return type(value), getattr(value, "ndim", None), content


def _said(batch: Batch) -> str:
    """What is no array in a batch, for messages."""
    named = [(f"argument {i}", value) for i, value in enumerate(batch.args)] + list(batch.kwargs.items())
    plain = [f"{name} {value!r:.40}" for name, value in named if not hasattr(value, "shape")]
    return ", ".join(plain) or "arrays of other kinds"
