"""One run of a program, and what it is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppl_gen.program.arrays import Array
from ppl_gen.program.site import Term

PLATE = "plate:"  # prefix of a subsampled plate's indices among the values of a run
OWN = "objective:"  # what an objective keeps from step to step, among the running averages of the sites


class Choice(NamedTuple):
    """Stands among fixed values for the value of that number of a finite site, at every batch element."""

    number: int


class Draw(NamedTuple):
    """Stands among fixed values for a value made from a finite site's log masses and uniform noise, both (..., levels)."""

    make: Callable[[Array, Array], Array]


def assignments(sizes: Mapping[str, int]) -> list[dict[str, Choice]]:
    """Every joint choice of the finite sites in `sizes`."""
    joint = itertools.product(*(range(size) for size in sizes.values()))
    return [dict(zip(sizes, map(Choice, indices), strict=True)) for indices in joint]


@dataclass
class Run:
    """One run of guide and model, as the loss needs it.

    Attributes:
        values: latent site -> value (and subsampled plate -> its indices).
        terms: term -> + log p or - log q, scaled and masked, nats; only plate dimensions are left.
        logq: latent site -> log q, unscaled and unmasked, nats; only plate dimensions are left.
        inputs: latent site -> parameters of its distribution, batch + features, detached; None where there are none.
        masses: cut finite site -> function giving its live log masses, batch + event + (levels,).
        parameters: cut site -> function giving its distribution's live parameters by name, broadcast to batch + event.
        divergences: latent site -> function giving KL(q || p) of its distributions in this run, shaped and scaled like
            its terms; None where there is no formula, or where masks or scales differ.
        factors: term -> plate -> what the plate multiplies the term by (rows left out, in a batch or a subsample).
        records: every sample and deterministic site of the model -> value.
        buffers: state the program itself carries from run to run (running averages of a network).
        noise: whether the program asked for random numbers of its own.
        shown: observed site -> its value in the data, where the run drew another.
        trials: digits -> the run on other values of the sites that are enumerated; see `ppl_gen.elimination.trials`.
    """

    values: dict[str, Array] = field(default_factory=dict)
    terms: dict[Term, Array] = field(default_factory=dict)
    logq: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Array | None] = field(default_factory=dict)
    masses: dict[str, Callable[[], Array]] = field(default_factory=dict)
    parameters: dict[str, Callable[[], Mapping[str, Array]]] = field(default_factory=dict)
    divergences: dict[str, Callable[..., Array | None]] = field(default_factory=dict)
    factors: dict[Term, dict[str, float]] = field(default_factory=dict)
    records: dict[str, Array] = field(default_factory=dict)
    buffers: dict[str, Array] = field(default_factory=dict)
    noise: bool = False
    shown: dict[str, Array] = field(default_factory=dict)
    trials: dict[tuple[int, ...], Run] = field(default_factory=dict)

    @property
    def subsampled(self) -> tuple[str, ...]:
        """The plates that drew which of their elements were seen."""
        return tuple(name.removeprefix(PLATE) for name in self.values if name.startswith(PLATE))


@dataclass(frozen=True)
class Batch:
    """The arguments of one call of model and guide.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        scale: number of rows this batch stands for, divided by its own number of rows.
        rows: the batch's row numbers in the whole data; None for the whole data at once.
    """

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    scale: float = 1.0
    rows: Array | NDArray[np.intp] | None = None
