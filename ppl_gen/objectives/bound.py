"""What objectives that are expectations over the guide's draws share: the runs, and each site's estimate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

from ppl_gen.elimination.expectations import reduced
from ppl_gen.errors import ProgramError
from ppl_gen.estimators.base import Arrays, Start
from ppl_gen.estimators.held import Held
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.particles import Costs, Particles, RunProgram, SiteView, enumerated, summed
from ppl_gen.program import OWN, Run, Site, Term
from ppl_gen.program.arrays import Array, Namespace, total


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
    averages: Mapping[str, Arrays]
    buffers: dict[str, Any]


class Part(NamedTuple):
    """What some of the particles give: `Loss` before the sites' estimates, site -> those for each value tried, buffers."""

    surrogate: Array
    value: Array
    estimates: dict[str, list[Any]]
    buffers: dict[str, Any]


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
        weights: Mapping[str, Arrays],
        averages: Mapping[str, Arrays],
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
        weights: Mapping[str, Arrays],
        averages: Mapping[str, Arrays],
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
