"""The sigmoid belief network over any directed acyclic graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_gen.language import dist, initial_generator, param, plate, sample, xp
from ppl_gen.models.pixels import Pixels
from ppl_gen.nn import linear
from ppl_gen.program.arrays import Array

_WHERE = "models.BeliefGraph"


class BeliefGraph:
    r"""Sigmoid belief network whose binary units are the nodes of a directed acyclic graph.

    .. math:: p(s_i = 1 \mid s_{pa(i)}) = \sigma\Big(\sum_{j \in pa(i)} W_{ji} s_j + b_i\Big)

    Units are taken together whose parents all come before them, generation by generation. Sites in the plate "data":
    observed "x0", "x1", ... and latent "h0", "h1", ..., numbered by generation, where there are any. With every unit
    observed there is nothing latent: the fully visible belief network, whose likelihood is exact. Parameters:
    "generation.0.bias", "generation.1.weight" (all earlier units, its units), ..., and those of the guide.

    Args:
        parents: ``parents[i, j]`` says that unit j is a parent of unit i; shape (units, units), without cycles.
        observed: the units that the data show, in the order of the data's columns; at least one.

    Attributes:
        generations: the units of each generation, in the order in which they are drawn.

    Raises:
        ValueError: `parents` is not square or has a cycle; a unit is observed twice or is not there.

    Source: book eq. 20.70; Neal 1992.

    Example:
        >>> BeliefGraph.fully_visible(3).generations
        ((0,), (1,), (2,))
    """

    def __init__(self, parents: ArrayLike, observed: Sequence[int]) -> None:
        self.parents = np.asarray(parents, dtype=bool)
        if self.parents.ndim != 2 or self.parents.shape[0] != self.parents.shape[1]:
            raise ValueError(
                f"{_WHERE}: expected parents of shape (units, units); got {self.parents.shape}. Use a square table."
            )
        self.generations = _generations(self.parents)
        self.observed = tuple(int(unit) for unit in observed)
        known = set(range(len(self.parents)))
        if not self.observed or len(set(self.observed)) != len(self.observed) or not set(self.observed) <= known:
            raise ValueError(
                f"{_WHERE}: expected observed units among 0 .. {len(known) - 1}, each once; got {self.observed}. "
                "Name the unit of each column of the data."
            )
        self._pixels = Pixels(_WHERE, len(self.observed))
        latents = [unit for units in self.generations for unit in units if unit not in self.observed]
        if not latents:
            self.guide = None  # type: ignore[assignment]

    @classmethod
    def fully_visible(cls, data_dim: int) -> BeliefGraph:
        """Every unit is observed and has all units before it as parents: logistic autoregression (eq. 20.70)."""
        return cls(np.tri(data_dim, k=-1), range(data_dim))

    def __repr__(self) -> str:
        """Sizes."""
        edges = int(self.parents.sum())
        return f"BeliefGraph(units={len(self.parents)}, edges={edges}, observed={len(self.observed)})"

    def __call__(self, x: Array) -> None:
        """The model, generation by generation.

        Args:
            x: zeros and ones, shape (rows, observed units).

        Raises:
            ValueError: another shape.
        """
        rows, before, order = self._pixels.rows(x), xp.zeros((len(x), 0)), list[int]()
        with plate("data", len(x)):
            for number, units in enumerate(self.generations):
                logits = self._logits(number, before, order, units)
                columns, values = dict[int, int](), []
                for name, mine in self._parts(number, units):
                    chosen = _take(logits, [units.index(unit) for unit in mine])
                    shown = _take(rows, [self.observed.index(u) for u in mine]) if name[0] == "x" else None
                    values.append(
                        xp.astype(sample(name, dist.Bernoulli(logits=chosen).to_event(1), obs=shown), xp.float32)
                    )
                    columns |= {unit: len(columns) for unit in mine}
                before = xp.concat([before, *values], axis=-1)
                order += columns

    def guide(self, x: Array) -> None:
        """The inference network: each generation's latents given the data and the latents before them."""
        seen = self._pixels.centred(x)
        with plate("data", len(x)):
            for number, units in enumerate(self.generations):
                for name, mine in self._parts(number, units):
                    if name[0] == "h":
                        logits = linear(f"guide.{number}", seen, len(mine))
                        value = sample(name, dist.Bernoulli(logits=logits).to_event(1))
                        seen = xp.concat([seen, xp.astype(value, xp.float32)], axis=-1)

    def _parts(self, number: int, units: Sequence[int]) -> list[tuple[str, list[int]]]:
        """(site's name, its units) of one generation, latents first."""
        hidden = [unit for unit in units if unit not in self.observed]
        shown = [unit for unit in units if unit in self.observed]
        return [(f"{kind}{number}", mine) for kind, mine in (("h", hidden), ("x", shown)) if mine]

    def _logits(self, number: int, before: Array, order: list[int], units: Sequence[int]) -> Array:
        """Log-odds of one generation's units, given all earlier units' values."""
        bias = param(f"generation.{number}.bias", lambda: xp.zeros(len(units)))
        if not order:
            return xp.zeros((before.shape[0], len(units))) + bias
        edges = self.parents[np.ix_(list(units), order)].T.astype(np.float32)

        def start() -> Array:
            draw = initial_generator(f"generation.{number}.weight").standard_normal(edges.shape)
            return xp.asarray((draw / np.sqrt(np.maximum(edges.sum(0), 1))).astype(np.float32))

        weight = param(f"generation.{number}.weight", start)
        return xp.matmul(before, weight * xp.asarray(edges)) + bias


def _take(array: Array, columns: list[int]) -> Array:
    """Some columns, by a constant index."""
    return xp.take(array, xp.asarray(np.array(columns)), axis=-1)


def _generations(parents: NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    """Units grouped so that all parents come in earlier groups.

    Raises:
        ValueError: there is a cycle.
    """
    left, found = set(range(len(parents))), list[tuple[int, ...]]()
    while left:
        ready = tuple(sorted(unit for unit in left if not left & set(np.flatnonzero(parents[unit]).tolist())))
        if not ready:
            raise ValueError(
                f"{_WHERE}: expected a graph without cycles; got one through units {sorted(left)}. Remove an edge."
            )
        found.append(ready)
        left -= set(ready)
    return tuple(found)
