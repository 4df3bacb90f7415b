"""What objectives that are expectations over the guide's draws share: the runs, and each site's estimate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Protocol

from ppl_gen.backends.checks import check_same
from ppl_gen.elimination.expectations import Enumeration, Means, reduced
from ppl_gen.elimination.sums import sum_out
from ppl_gen.errors import ProgramError
from ppl_gen.estimators.base import Arrays, Start
from ppl_gen.estimators.held import Held
from ppl_gen.estimators.plan import Plan
from ppl_gen.estimators.relaxed import refuse_not_followed
from ppl_gen.program import OWN, PLATE, Draw, Facts, Run, Site, Term
from ppl_gen.program.arrays import Array, Namespace, total

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


class Loss(NamedTuple):
    """What one evaluation of an objective gives.

    Attributes:
        surrogate: scalar whose gradient is the estimate (and trains the baselines).
        value: the loss, nats; for the ELBO an estimate of minus the bound.
        averages: the estimators' running averages after this step.
        buffers: the program's own state after this step.
    """

    surrogate: Array
    value: Array
    averages: dict[str, Arrays]
    buffers: dict[str, Any]


class Part(NamedTuple):
    """What some of the particles give: `Loss` before the sites' estimates, site -> those for each value tried, buffers."""

    surrogate: Array
    value: Array
    estimates: dict[str, list[Any]]
    buffers: dict[str, Any]


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


class Bound(ABC):
    """An objective that is an expectation over what the guide draws, estimated from one run or several.

    Attributes:
        kind: of the likelihood it gives: "exact", "lower_bound", ...
        at_fixed_values: whether every value is taken as it was drawn, so that no site's estimator is asked.
        dreams: whether it runs the guide on data that the model draws.
        same_rows: whether particles are compared element by element, and so must see the same subsample.
        by_particle: whether several particles give the mean of what each gives alone; each class says so for itself.
    """

    kind: str
    at_fixed_values: ClassVar[bool] = False
    dreams: ClassVar[bool] = False
    same_rows: ClassVar[bool] = False
    by_particle: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass may compare particles where its parent does not."""
        super().__init_subclass__(**options)
        cls.by_particle = vars(cls).get("by_particle", False)

    @abstractmethod
    def value(self, particles: Particles) -> Array:
        """What is maximised, nats, carrying the gradient of every way that is not cut."""

    @abstractmethod
    def signal(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """`costs` as far as this particle's `site` moves what they give, shaped like the site's log q."""

    @abstractmethod
    def others(self, particles: Particles, costs: Sequence[Costs], particle: int, site: Site) -> Array:
        """The same from the other particles alone: a baseline."""

    def terms(self, xp: Namespace, plan: Plan, run: Run) -> Costs:
        """What the run's terms count as."""
        return dict(run.terms)

    def live(self, particles: Particles, value: Array) -> Array:
        """Scalar whose gradient is followed besides the sites' own: the value, or what has a better one."""
        return value

    def refusal(self, plan: Plan) -> str | None:
        """Why this objective would be wrong under `plan`; None where it is right."""
        return None

    def accept(self, plan: Plan) -> Plan:
        """The plan as this objective uses it.

        Raises:
            ProgramError: the objective would be wrong under it.
        """
        refusal = self.refusal(plan)
        if refusal is not None:
            raise ProgramError(
                f"objective: expected one that is right for the program and its plan; got {self!r}, but {refusal}."
            )
        if not self.at_fixed_values:
            return plan
        reason = f"{type(self).__name__} takes values as they were drawn"
        rows = {n: replace(row, estimator=Held(), cost=1, reason=reason) for n, row in plan.rows.items()}
        return Plan(rows, plan.facts, plan.num_particles, plan.notes)

    def start(self) -> Start:
        """What it keeps from step to step to begin with, NumPy arrays; only a fit's own steps keep anything."""
        return {}

    def at(self, xp: Namespace, kept: Arrays) -> tuple[Bound, Arrays]:
        """(the objective of this step, what is kept for the next one); with nothing kept, as it is in the end."""
        return self, kept

    def share(self, num_particles: int) -> float:
        """Weight of one particle's signal in what is maximised."""
        return 1.0 / num_particles

    def __call__(
        self,
        xp: Namespace,
        run: RunProgram,
        keys: list[Any],
        plan: Plan,
        weights: dict[str, Arrays],
        averages: dict[str, Arrays],
    ) -> Loss:
        """Evaluate on ``plan.num_particles`` draws.

        Args:
            xp: array namespace with `stop_gradient`.
            run: (key, fixed values, cut sites) -> Run.
            keys: one per particle.
            plan: the estimators.
            weights: site -> weights of its estimator.
            averages: site -> running averages of its estimator.
        """
        estimators = {name: row.estimator for name, row in plan.rows.items()}
        alone = len(keys) > 1 and self.by_particle and all(one.by_particle for one in estimators.values())

        def some(keys: list[Any]) -> Part:
            return self._evaluate(xp, run, keys, plan, weights, averages, alone=alone)

        parts: list[Part] = xp.each(lambda key: some([key]), keys) if alone else [some(list(keys))]
        surrogate, value = _average([part.surrogate for part in parts]), _average([part.value for part in parts])
        found: dict[str, list[Arrays]] = {name: [] for name in plan}
        for name, estimator in estimators.items():
            for each in zip(*(part.estimates[name] for part in parts), strict=True):
                estimate = estimator.joined(xp, each) if alone else each[0]
                surrogate = surrogate - estimate.surrogate
                found[name].append(estimate.averages)
                surrogate = surrogate if estimate.loss is None else surrogate + estimate.loss
        # values that are tried share their noise: none may see what another's signal has made of the averages
        after = {name: _mean(found[name]) if found.get(name) else own for name, own in averages.items()}
        after |= {OWN: self.at(xp, averages[OWN])[1]} if OWN in averages else {}
        return Loss(surrogate, value, after, parts[-1].buffers)

    def _evaluate(
        self,
        xp: Namespace,
        run: RunProgram,
        keys: list[Any],
        plan: Plan,
        weights: dict[str, Arrays],
        averages: dict[str, Arrays],
        *,
        alone: bool,
    ) -> Part:
        """What these particles give; `alone`: one of several that are evaluated one by one."""
        enumeration = plan.enumeration
        run = enumerated(summed(xp, run, plan.facts), enumeration)
        objective, _ = self.at(xp, averages.get(OWN, {}))
        sites = {name: plan.facts.sites["guide", name] for name in plan}
        drawn = {name: draw for name, row in plan.rows.items() if (draw := row.estimator.draw(xp)) is not None}
        surrogate, value, buffers = xp.zeros(()), xp.zeros(()), {}
        estimates: dict[str, list[Any]] = {name: [] for name in plan}
        for fixed in enumeration.assignments():
            particles = Particles(xp, run, list(keys), plan, {**fixed, **drawn}, objective, enumeration)
            bound = objective.value(particles)
            surrogate, value = surrogate - objective.live(particles, bound), value - xp.stop_gradient(bound)
            for name, row in plan.rows.items():
                view = SiteView(particles, objective, sites[name], weights.get(name, {}), averages.get(name, {}))
                estimate = row.estimator.part(view) if alone else row.estimator.estimate(view)
                estimates[name] += [] if estimate is None else [estimate]
            buffers = particles.runs[-1].buffers
        return Part(surrogate, value, estimates, buffers)

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "kind")
        return f"{type(self).__name__}({options})"


def _average(several: Sequence[Array]) -> Array:
    """Their mean; one alone stays as it is."""
    return several[0] if len(several) == 1 else total(several) / len(several)


def _mean(several: list[Arrays]) -> Arrays:
    """The running averages that different tries came to, as one."""
    if len(several) == 1:
        return several[0]
    return {name: total([each[name] for each in several]) / len(several) for name in several[0]}


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


def downstream(xp: Namespace, costs: Mapping[Term, Array], plan: Plan, site: Site) -> Array:
    """Sum of the terms that the site moves, shaped like its log q: dimensions that are not its own are summed."""
    facts = plan.facts
    found = []
    for term, mixed in plan.rows[site.name].terms.items():
        own = facts.sites[term].plates
        kept = {dim for plate, dim in own.items() if site.plates.get(plate) == dim and plate not in mixed}
        cost = costs[term]
        found.append(reduced(xp.sum, cost, [dim for dim in range(-cost.ndim, 0) if dim not in kept]))
    return total(found)
