"""Finite latents that the guide enumerates: what each term is worth on average over their values, exactly.

A term is a table over the enumerated sites that it reads (see `ppl_gen.elimination.trials`), and so is the guide's own log q of each
of them. A term's mean takes the probabilities of the values that it reads, and these are made from the probabilities of
fewer and earlier sites: chains and trees need no product over all sites. Sites that move other draws stay apart; their
joint values are tried one by one, as what is drawn differs from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from ppl_gen.elimination.trials import Trials, align
from ppl_gen.program import Choice, Facts, Run, Site, Term, assignments
from ppl_gen.program.arrays import Array, Namespace

Digits = tuple[int, ...]


@dataclass(frozen=True)
class Enumeration:
    """How the enumerated sites of a guide are tried.

    Attributes:
        joint: sites that move other draws -> their sizes; every joint value is tried by itself.
        reads: term -> the other enumerated sites that it is a table over, in the order of the guide.
        parents: each of these -> those that its own distribution reads.
        trials: the runs that fill the tables, for each joint value of `joint`.
        sites: all enumerated ones.
    """

    joint: Mapping[str, int]
    reads: Mapping[Term, tuple[str, ...]]
    parents: Mapping[str, tuple[str, ...]]
    trials: Trials
    sites: Mapping[str, Site]

    @property
    def runs(self) -> int:
        """Runs of the program in all."""
        return math.prod(self.joint.values()) * self.trials.number

    @property
    def largest(self) -> int:
        """Cells of the largest table of probabilities that a term needs, for one element."""
        sizes, seen, most = self.trials.sizes, set[tuple[str, ...]](), 1
        waiting = list(self.reads.values())
        while waiting:
            names = waiting.pop()
            if names and names not in seen:
                seen.add(names)
                before = self.before(names)
                most = max(most, math.prod(sizes[name] for name in {*before, names[-1]}))
                waiting.append(before)
        return most

    def assignments(self) -> list[dict[str, Choice]]:
        """Every joint value of the sites that move other draws."""
        return assignments(self.joint)

    def before(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The sites whose joint probabilities give those of `names`: all but the last, and the last one's parents."""
        wanted = {*names[:-1], *self.parents[names[-1]]}
        return tuple(name for name in self.trials.sizes if name in wanted)


def enumeration(facts: Facts, moved: Mapping[str, Collection[Term]], names: Collection[str]) -> Enumeration:
    """How the sites in `names` are tried.

    Args:
        facts: of the program.
        moved: latent -> the terms that it moves, by way of other latents too.
        names: the enumerated latents.
    """
    others = {("guide", name) for name in moved if name not in names}
    sites = {site.name: site for site in facts.latents() if site.name in names}
    joint = {name: site.size or 1 for name, site in sites.items() if others & set(moved[name])}
    free = [name for name in sites if name not in joint]
    reads = {
        term: tuple(name for name in free if name in site.reach or term in (("guide", name), ("model", name)))
        for term, site in facts.sites.items()
    }
    parents = {name: tuple(n for n in reads["guide", name] if n != name) for name in free}
    trials = Trials.of({name: sites[name].size or 1 for name in free}, list(reads.values()))
    return Enumeration(joint, reads, parents, trials, sites)


class Means:
    """Means of terms over the values of the enumerated sites.

    Args:
        xp: array namespace.
        plan: how they are tried.
        runs: digits -> run; all share what was drawn otherwise.
        costs: digits -> every term, as that run has it.
    """

    def __init__(
        self, xp: Namespace, plan: Enumeration, runs: Mapping[Digits, Run], costs: Mapping[Digits, Mapping[Term, Array]]
    ) -> None:
        self.xp, self.plan, self.runs, self.costs = xp, plan, runs, costs
        log_q: list[Array] = [run.logq[name] for run in runs.values() for name in plan.sites]
        self.batch = max(array.ndim for array in (*log_q, *(c for each in costs.values() for c in each.values())))
        self._known: dict[tuple[str, ...], Array] = {}

    def of(self, term: Term, plates: Mapping[str, int]) -> Array:
        """The mean of one term with these plates, batch dimensions only."""
        xp, names = self.xp, self.plan.reads[term]
        mean = self._table(names, lambda digits: self.costs[digits][term])
        if names:
            weight = self._on(plates, names, self._probabilities(names))
            mean = xp.sum(self._weighted(weight, mean), axis=tuple(range(len(names))))
        for name in self.plan.joint:  # the same in all these runs; terms it does not move get weights that sum to one
            mean = self._weighted(self._on(plates, (name,), self._table((), self._probability(name))), mean)
        return mean

    def _weighted(self, weight: Array, values: Array) -> Array:
        """Their product; nothing where a value has no probability and is worth minus infinity, as its own log q is."""
        xp = self.xp
        never = (weight == 0) & ~xp.isfinite(values)
        return weight * xp.where(never, xp.zeros_like(values), values)

    def _probabilities(self, names: tuple[str, ...]) -> Array:
        """Joint probabilities of some sites' values, (values of each, ..., batch dimensions)."""
        if names not in self._known:
            before, own = self.plan.before(names), (*self.plan.parents[names[-1]], names[-1])
            over = (*before, names[-1])
            joint = align(self.xp, self._table(own, self._probability(names[-1])), own, over)
            if before:
                joint = joint * align(self.xp, self._probabilities(before), before, over)
            gone = tuple(axis for axis, name in enumerate(before) if name not in names)
            self._known[names] = self.xp.sum(joint, axis=gone) if gone else joint
        return self._known[names]

    def _table(self, names: tuple[str, ...], cell: Callable[[Digits], Array]) -> Array:
        return self.plan.trials.table(self.xp, names, self.batch, cell)

    def _probability(self, name: str) -> Callable[[Digits], Array]:
        return lambda digits: self.xp.exp(self.runs[digits].logq[name])

    def _on(self, plates: Mapping[str, int], names: tuple[str, ...], weight: Array) -> Array:
        """Weights for a term with these plates: a plate that it lacks does not move it, so that any element's will do."""
        own = {dim for name in names for p, dim in self.plan.sites[name].plates.items() if plates.get(p) == dim}
        return reduced(self.xp.mean, weight, [dim for dim in range(-self.batch, 0) if dim not in own])


def reduced(reduction: Callable[..., Array], array: Array, dims: list[int]) -> Array:
    """A reduction over dimensions, which are kept with size 1."""
    dims = [dim for dim in dims if array.shape[dim] != 1]
    return reduction(array, axis=tuple(dims), keepdims=True) if dims else array
