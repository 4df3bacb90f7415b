"""Does a density jump along a latent's value, though every operation on the way has a derivative?

A quotient does where its denominator passes zero: z / |z| has the derivative zero almost everywhere, and is a step. No
reading of operations tells it from z / (1 + |z|). But along a line a smooth function changes by the integral of its slope,
and a step does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ppl_gen.program import Facts, Path, Term

Slopes = Callable[[np.ndarray, np.ndarray, float], dict[Term, tuple[np.ndarray, np.ndarray]]]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)
SMALLEST = 2.0**-18  # of a line: what is no smaller over so short a piece is a step
TOLERANCE = 1e-3  # of all the change along the line
ROUNDING = 1e-5  # of the density
FAR = 3.0  # from zero, in unconstrained space: the ends of the last line
FURTHEST = 6.0  # likewise, where the support has an edge: beyond it the edge is reached up to rounding, in steps
NEIGHBOURS = 4  # pieces on either side that a step must stand out from
MOST_RUNS = 400  # of the program; a line that is not settled by then is taken to be smooth


def find_jumps(values: Sequence[np.ndarray], slopes: Slopes) -> list[Term]:
    """Terms that jump along a line between two of a latent's values; empty where none was found.

    Args:
        values: draws of the latent, in unconstrained space; each is joined with the next, and then two far ends.
        slopes: (start, end, t) -> term -> (its density's elements at start + t (end - start), their derivatives in t).
    """
    points = [*values, np.full_like(values[0], -FAR), np.full_like(values[0], FAR)]
    for start, end in zip(points, points[1:], strict=False):
        try:
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite says nothing
                found = _Line(partial(slopes, start, end)).jumps()
        except (
            RuntimeError,
            TypeError,
        ):  # an operation without a derivative in forward mode: nothing to hold the change against
            return []
        if found:
            return found
    return []


def free(value: np.ndarray, unconstrained: np.ndarray) -> np.ndarray:
    """A draw in unconstrained space, kept away from its support's edge."""
    return value if np.array_equal(value, unconstrained) else np.clip(unconstrained, -FURTHEST, FURTHEST)


class _Line:
    """One line through the program's densities."""

    def __init__(self, at: Callable[[float], dict[Term, tuple[np.ndarray, np.ndarray]]]) -> None:
        self._at, self._runs = at, 0
        self._known: dict[float, dict[Term, tuple[np.ndarray, np.ndarray]]] = {}

    def jumps(self) -> list[Term]:
        """Terms with a step; the search halves what does not add up and goes into the worse half first."""
        _, change, size = self._gap(0.0, 1.0)
        limit = {term: TOLERANCE * change[term] + ROUNDING * size[term] + 1e-6 for term in change}
        pieces = [(0.0, 1.0)]
        while pieces and self._runs < MOST_RUNS:
            low, high = pieces.pop()
            gap, _, _ = self._gap(low, high)
            bad = {term: excess for term in limit if (excess := _excess(gap[term], limit[term])) > 0}
            if not bad:
                continue
            if high - low <= SMALLEST:
                steps = [term for term in bad if self._stands_out(term, low, high)]
                if steps:
                    return sorted(steps)
                continue
            middle = (low + high) / 2
            halves = [(low, middle), (middle, high)]
            worst = [sum(_excess(self._gap(*half)[0][term], limit[term]) for term in bad) for half in halves]
            pieces += halves if worst[1] > worst[0] else halves[::-1]
        return []

    def _stands_out(self, term: Term, low: float, high: float) -> bool:
        """Whether what does not add up over a piece is more than on either side of it, where rounding is as much."""
        size = high - low
        gaps = {
            place: np.nan_to_num(self._gap(low + place * size, high + place * size)[0][term], posinf=0.0)
            for place in range(-NEIGHBOURS, NEIGHBOURS + 1)
        }
        beside = [gap for place, gap in gaps.items() if place]
        return bool((gaps[0] > 2 * np.max(beside, axis=0)).any())

    def _gap(self, low: float, high: float) -> tuple[dict[Term, np.ndarray], ...]:
        """Per term: |change - integral of the slope|, all that it changes by, and its size."""
        ends = self._value(low), self._value(high)
        inner = [self._value((low + high) / 2 + node * (high - low) / 2) for node in NODES]
        gap, change, size = {}, {}, {}
        for term in ends[0]:
            (before, _), (after, _) = ends[0][term], ends[1][term]
            moved = after - before
            steps = [weight * (high - low) / 2 * one[term][1] for weight, one in zip(WEIGHTS, inner, strict=True)]
            gap[term] = np.abs(moved - sum(steps))
            change[term] = np.maximum(np.abs(moved), sum(map(np.abs, steps)))
            size[term] = np.maximum(np.abs(before), np.abs(after))
        return gap, change, size

    def _value(self, t: float) -> dict[Term, tuple[np.ndarray, np.ndarray]]:
        if t not in self._known:
            self._runs += 1
            self._known[t] = {term: (_double(a), _double(b)) for term, (a, b) in self._at(t).items()}
        return self._known[t]


def _double(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _excess(gap: np.ndarray, limit: np.ndarray) -> float:
    """By how often the worst element is beyond its limit; 0 where all are within. What is not finite says nothing."""
    times = np.where(np.isfinite(gap) & np.isfinite(limit), gap / limit, 0.0)
    worst = float(times.max(initial=0.0))
    return worst if worst > 1 else 0.0


def with_jumps(
    facts: Facts,
    poles: Mapping[str, str],
    values: Callable[[str], Sequence[np.ndarray]],
    slopes: Callable[[str], Slopes],
) -> Facts:
    """`facts`, with the jumps that were found along the latents in question.

    Args:
        facts: as the reading of operations left them.
        poles: latent -> where it comes into a denominator, or what else has a pole.
        values: latent -> draws of it, in unconstrained space.
        slopes: latent -> see `find_jumps`.
    """
    sites = dict(facts.sites)
    for name in _doubtful(facts, poles):
        for term in find_jumps(values(name), partial(_but_its_own, name, slopes(name))):
            reach = {**sites[term].reach, name: Path(poles[name])}
            sites[term] = replace(sites[term], reach=reach)
    return replace(facts, sites=sites)


def _but_its_own(name: str, slopes: Slopes, start: np.ndarray, end: np.ndarray, t: float) -> dict[Term, Any]:
    """Without the density that the guide draws the latent by, which is smooth, and far out a matter of rounding."""
    return {term: found for term, found in slopes(start, end, t).items() if term != ("guide", name)}


def _doubtful(facts: Facts, poles: Mapping[str, str]) -> Iterator[str]:
    """Latents that are to be differentiated and have a pole on the way."""
    for site in facts.latents():
        if site.name in poles and site.support == "real" and site.reparametrized and facts.jump(site.name) is None:
            yield site.name
