"""Finite sites whose values are all tried: which runs that takes, and the tables over values that the runs give.

A term is a table over the values of the sites that it reads. Sites that no table reads together share a colour and are
tried together, so a chain of any length with K levels takes K^2 runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from ppl_gen.program import Choice
from ppl_gen.program.arrays import Array, Namespace


@dataclass(frozen=True)
class Trials:
    """The runs that fill every table.

    Attributes:
        sizes: site -> its number of values.
        colors: site -> its place among the digits of a trial.
    """

    sizes: Mapping[str, int]
    colors: Mapping[str, int]

    @classmethod
    def of(cls, sizes: Mapping[str, int], groups: Collection[tuple[str, ...]]) -> Trials:
        """Trials for tables over each of the groups of sites; colours are given greedily."""
        colors: dict[str, int] = {}
        for name in sizes:
            taken = {colors[other] for group in groups if name in group for other in group if other in colors}
            colors[name] = next(c for c in itertools.count() if c not in taken)
        return cls(dict(sizes), colors)

    @property
    def levels(self) -> tuple[int, ...]:
        """Values of each colour."""
        count = max(self.colors.values(), default=-1) + 1
        return tuple(max(self.sizes[n] for n, c in self.colors.items() if c == color) for color in range(count))

    @property
    def number(self) -> int:
        """Runs in all."""
        return math.prod(self.levels)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Every digit of every colour."""
        return itertools.product(*(range(n) for n in self.levels))

    def choices(self, digits: tuple[int, ...]) -> dict[str, Choice]:
        """The values that are fixed in one trial."""
        return {name: Choice(digits[self.colors[name]] % size) for name, size in self.sizes.items()}

    def table(
        self, xp: Namespace, names: tuple[str, ...], batch: int, cell: Callable[[tuple[int, ...]], Array]
    ) -> Array:
        """What a trial gives, as (values of each of `names`, ..., `batch` dimensions).

        Args:
            xp: array namespace.
            names: the sites it reads.
            batch: number of batch dimensions, at least those of every cell.
            cell: digits of a trial -> array.
        """
        cells = []
        for values in itertools.product(*(range(self.sizes[name]) for name in names)):
            digits = [0] * len(self.levels)
            for name, value in zip(names, values, strict=True):
                digits[self.colors[name]] = value
            found = cell(tuple(digits))
            cells.append(xp.reshape(found, (*(1 for _ in range(batch - found.ndim)), *found.shape)))
        stacked = xp.stack(xp.broadcast_arrays(*cells))
        return xp.reshape(stacked, (*(self.sizes[name] for name in names), *stacked.shape[1:]))


def align(xp: Namespace, array: Array, names: tuple[str, ...], over: tuple[str, ...]) -> Array:
    """A table over `names` as one over more sites, in the order of `over`; the new ones have size 1."""
    order = [names.index(name) for name in over if name in names]
    array = xp.permute_dims(array, (*order, *range(len(order), array.ndim)))
    sizes = iter(array.shape[: len(order)])
    lead = [next(sizes) if name in names else 1 for name in over]
    return xp.reshape(array, (*lead, *array.shape[len(order) :]))
