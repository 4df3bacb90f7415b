"""The runs of one step, what each site's estimator sees of them, and how runs are told to sum out or to try values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ppl_gen.backends.checks import check_same
from ppl_gen.elimination.expectations import Enumeration, Means
from ppl_gen.elimination.sums import sum_out
from ppl_gen.estimators.base import Arrays
from ppl_gen.estimators.plan import Plan
from ppl_gen.estimators.relaxed import refuse_not_followed
from ppl_gen.program import PLATE, Draw, Facts, Run, Site, Term
from ppl_gen.program.arrays import Array, Namespace

if TYPE_CHECKING:
    from ppl_gen.objectives.bound import Bound

Costs = dict[Term, Array]


class RunProgram(Protocol):
    """Runs guide and model on the batch."""

    def __call__(
        self,
        key: Any,
        fixed: Mapping[str, Any],
        cut: Collection[str],
        *,
        frozen: bool = False,
        guide: bool = True,
        dream: bool = False,
    ) -> Run:
        """One run: fixed values stand for draws, cut sites pass no gradient.

        `frozen`: nor do parameters. `guide`: run it too. `dream`: on data and latents that the model draws.
        """


@dataclass
class Particles:
    """One set of runs: what every site's estimate is made from.

    Attributes:
        xp: array namespace.
        run: (key, fixed values, cut sites) -> Run.
        keys: one per particle, of noise not used yet.
        plan: the estimators.
        fixed: what is tried one by one (`Enumerate`) or drawn otherwise (relaxations) in every run.
        objective: what is maximised.
        enumeration: of the sites that are tried.
        runs: one per particle.
        costs: their terms, weighted by the probability of what is tried.
    """

    xp: Namespace
    run: RunProgram
    keys: list[Any]
    plan: Plan
    fixed: Mapping[str, Any]
    objective: Bound
    enumeration: Enumeration
    runs: list[Run] = field(default_factory=list)
    costs: list[Costs] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw."""
        self.cut = [name for name, row in self.plan.rows.items() if row.estimator.cuts]
        self.runs = []
        if self.objective.same_rows and self.plan.facts.subsampled:  # the first says which rows all see
            self.keys[:1], self.runs = self._draw(self.keys[:1])
        rest = self.keys[len(self.runs) :]
        if rest:
            self.keys[len(self.runs) :], more = self._draw(rest)
            self.runs += more
        for run in self.runs:
            check_same(self.plan.facts.sites, run.terms)
        self.costs = [self.weighted(run) for run in self.runs]

    def _draw(self, keys: list[Any]) -> tuple[list[Any], list[Run]]:
        """(keys not used yet, a run each): one batch of runs where the backend can."""
        fixed = {**self.fixed, **self._rows()}

        def one(key: object) -> tuple[object, Run]:
            key, now = self.xp.split_key(key, 2)
            return key, self.run(now, fixed, self.cut)

        pairs = self.xp.each(one, keys)
        return [key for key, _ in pairs], [run for _, run in pairs]

    def _rows(self) -> Mapping[str, Any]:
        """The first particle's subsample, where the others are to see it too."""
        first = self.runs[0].values if self.runs and self.objective.same_rows else {}
        return {name: value for name, value in first.items() if name.startswith(PLATE)}

    def _fresh(self, particle: int) -> Any:
        self.keys[particle], now = self.xp.split_key(self.keys[particle], 2)
        return now

    def weighted(self, run: Run, settled: Collection[Term] = ()) -> Costs:
        """Each term's mean over the values that are tried, element by element; the `settled` pass no gradient."""
        runs = run.trials or {(): run}
        costs = {digits: self.objective.terms(self.xp, self.plan, each) for digits, each in runs.items()}
        for each in costs.values():
            each.update({term: self.xp.stop_gradient(each[term]) for term in settled})
        first = next(iter(costs.values()))
        if not self.enumeration.sites:
            return first
        means, sites = Means(self.xp, self.enumeration, runs, costs), self.plan.facts.sites
        return {term: means.of(term, sites[term].plates) for term in first}

    def replay(self, particle: int, *, frozen: bool = False) -> Run:
        """The particle's run on the values it has; `frozen`: no gradient reaches parameters but through these."""
        return self.run(self._fresh(particle), self.runs[particle].values, self.cut, frozen=frozen)

    def rerun(self, particle: int, name: str, value: Array, *, live: bool = False) -> Run:
        """The particle's run with one site's value replaced, and what depends on it drawn afresh; `live`: as relaxed."""
        moved = {n for role, n in self.plan.rows[name].terms if role == "guide"} - {name}
        kept = {n: v for n, v in self.runs[particle].values.items() if n.startswith(PLATE) or n not in moved}
        fixed = {**self.fixed, **kept, name: value}
        if live:
            fixed |= {n: Draw(self._relaxed) for n in moved if n in self.plan.facts.relaxable and n not in self.fixed}
        return self.run(self._fresh(particle), fixed, self.cut)

    def _relaxed(self, masses: Array, noise: Array) -> Array:
        """A binary value between its ends, for costs that only need to be near (Maddison et al. 2017)."""
        noise = noise[..., 1]
        logits = masses[..., 1] - masses[..., 0] + self.xp.log(noise + 1e-7) - self.xp.log(1 - noise + 1e-7)
        return self.xp.sigmoid(2.0 * logits)


@dataclass
class SiteView:
    """See `ppl_gen.estimators.base.View`."""

    particles: Particles
    objective: Bound
    site: Site
    weights: Arrays
    averages: Arrays

    def __post_init__(self) -> None:
        """The parts that estimators read most."""
        self.xp, self.runs = self.particles.xp, self.particles.runs
        self.share = self.objective.share(len(self.runs))
        self.relaxable = refuse_not_followed(self.site, self.particles.plan.facts) is None

    def signal(self, particle: int, run: Run | None = None) -> Array:
        """See `View.signal`."""
        costs = list(self.particles.costs)
        if run is not None:
            costs[particle] = self.particles.weighted(run)
        return self.xp.stop_gradient(self._signal(costs, particle))

    def _signal(self, costs: list[Costs], particle: int) -> Array:
        return self.objective.signal(self.particles, costs, particle, self.site)

    def others(self, particle: int) -> Array:
        """See `View.others`."""
        return self.xp.stop_gradient(self.objective.others(self.particles, self.particles.costs, particle, self.site))

    def again(self, particle: int, value: Array) -> Run:
        """See `View.again`."""
        return self.particles.rerun(particle, self.site.name, self.xp.stop_gradient(value))

    def slope(self, particle: int, value: Array) -> tuple[Array, Array]:
        """See `View.slope`."""
        moved = copy(self.particles)
        moved.cut = list(moved.enumeration.sites)  # every other way is followed

        def follow(place: Array) -> tuple[Array, Array]:
            moved.runs, moved.costs = list(self.particles.runs), list(self.particles.costs)
            moved.runs[particle] = run = moved.rerun(particle, self.site.name, place, live=True)
            moved.costs[particle] = moved.weighted(run)
            # the whole, not the signal's sum: what mixes elements stands in each one's signal
            return self.objective.value(moved) / self.share, self._signal(moved.costs, particle)

        found: tuple[Array, Array] = self.xp.value_and_slope(follow, value)
        return found

    def uniform(self, particle: int, like: Array) -> Array:
        """See `View.uniform`."""
        return self.xp.uniform_like(self.particles._fresh(particle), like)

    def expand(self, signal: Array) -> Array:
        """See `View.expand`."""
        return self.xp.reshape(signal, (*signal.shape, *(1 for _ in self.site.event_shape)))


def summed(xp: Namespace, run: RunProgram, facts: Facts) -> RunProgram:
    """The same runs, the model's own finite sites summed out."""
    if facts.summed is None:
        return run

    def whole(key: object, fixed: Mapping[str, Any], cut: Collection[str], **options: bool) -> Run:
        first = run(key, fixed, cut, **options)
        if options.get("dream"):  # everything was drawn
            return first
        known = {**fixed, **first.values}
        return sum_out(xp, facts, first, lambda choices: run(key, {**known, **choices}, cut, guide=False, **options))

    return whole


def enumerated(run: RunProgram, enumeration: Enumeration) -> RunProgram:
    """The same runs, each with those on the other values of the sites that are tried."""
    trials = enumeration.trials
    if not trials.sizes:
        return run

    def whole(key: object, fixed: Mapping[str, Any], cut: Collection[str], **options: bool) -> Run:
        first = run(key, {**fixed, **trials.choices((0,) * len(trials.levels))}, cut, **options)
        known = {**fixed, **first.values}
        others = {d: run(key, {**known, **trials.choices(d)}, cut, **options) for d in trials if any(d)}
        return replace(first, trials={d: others.get(d, first) for d in trials})

    return whole
