"""Which plan a fit takes: those that could stand, measured against one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ppl_gen import estimators as known
from ppl_gen.errors import NonFinite, ProgramError
from ppl_gen.estimators import Estimator, Plan, make_plan
from ppl_gen.evaluate.measure import (
    OFTEN,
    WARM_UP,
    Draws,
    Measured,
    evaluations,
    exact_gradient,
    lowest_chance,
    luck,
    measure,
)
from ppl_gen.objectives import ELBO, Bound
from ppl_gen.program import Batch
from ppl_gen.training.prepare import Prepared, with_plan
from ppl_gen.training.trajectory import LENGTH, Point

MOST_RUNS = 16  # of the program per step and particle, for what is chosen without being asked for
MOST_SITES = 24  # enumerated ones, likewise: eliminating long chains compiles for minutes on JAX
SAMPLES = 200
NO_VARIANCE = 1e-8  # below it there is only rounding, and the fewest runs decide
MOST_VALUES = 16  # joint values of the latents up to which candidates are held against the exact gradient
FALSE_ALARM = 1e-6  # of one candidate
SHARE = 10  # measuring may take one part in so many of a fit's runs of the program
EACH = "each site's best"


@dataclass(frozen=True)
class Along:
    """One plan, measured at several points of one trajectory."""

    points: tuple[Measured, ...]

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.points[0].plan

    @property
    def cost(self) -> int:
        """Runs of the program per step."""
        return self.points[0].cost

    @property
    def variance(self) -> float:
        """Mean over the points."""
        return sum(one.variance for one in self.points) / len(self.points)

    def of_site(self, name: str) -> float:
        """See `Measured.of_site`; the mean over the points."""
        return sum(one.of_site(name) for one in self.points) / len(self.points)


def candidates(plan: Plan) -> dict[str, Estimator]:
    """What could stand at one discrete site of the plan or more, unbiased, and built without arguments."""
    found = {}
    for name in known.__all__:
        kind = getattr(known, name)
        if isinstance(kind, type) and issubclass(kind, Estimator) and kind is not Estimator and kind.unbiased:
            estimator = kind()
            if any(_suits(plan, row.site, estimator) for row in plan.rows.values() if row.estimator.cuts):
                found[name] = estimator
    return found


def _suits(plan: Plan, site: str, estimator: Estimator) -> bool:
    return estimator.refusal(plan.facts.sites["guide", site], plan.facts, plan.num_particles) is None


def trials(prepared: Prepared, asked: Mapping[str, Estimator], objective: Bound | None = None) -> dict[str, Plan]:
    """Estimator's name -> the plan that has it at every discrete site that it suits; what was asked for stays."""
    objective = ELBO() if objective is None else objective
    if objective.at_fixed_values:
        return {}
    plan, found = prepared.plan, {}
    free = [n for n in plan.rows if _is_free(plan, n, asked)]
    for label, estimator in candidates(plan).items():
        wanted = {n: estimator for n in free if _suits(plan, n, estimator)}
        try:
            trial = make_plan(plan.facts, {**asked, **wanted}, plan.num_particles)
        except ProgramError:  # each suits its site, but all together take too many runs
            continue
        if wanted and _is_right(trial, objective):
            found[label] = trial
    return found


def _is_free(plan: Plan, name: str, asked: Mapping[str, Estimator]) -> bool:
    """Whether a site's estimator may be exchanged: nobody asked for it, by argument or by a mark that is followed."""
    row, marked = plan.rows[name], plan.facts.sites["guide", name].marked
    followed = marked and row.estimator.enumerates
    return row.estimator.cuts and not followed and name not in asked and "*" not in asked


def _is_right(plan: Plan, objective: Bound) -> bool:
    """Whether the objective takes the plan, and it is not too much work to be chosen without being asked for."""
    light = evaluations(plan) <= MOST_RUNS * plan.num_particles and len(plan.enumeration.sites) <= MOST_SITES
    return light and objective.refusal(plan) is None


def worth_it(plans: Mapping[str, Plan], steps: int) -> bool:
    """Whether a fit of so many steps is long against measuring these plans twice; counted in runs, never by a clock."""
    work = 2 * (WARM_UP + SAMPLES) * sum(map(evaluations, plans.values()))
    return len(plans) > 1 and SHARE * (work + LENGTH) <= steps


def best_plan(
    prepared: Prepared,
    batch: Batch,
    asked: Mapping[str, Estimator],
    seed: int,
    objective: Bound,
    plans: Mapping[str, Plan] | None = None,
    points: Sequence[Point] = (),
) -> Plan:
    """The plan with the least variance times runs, as measured; `asked` stays.

    Tried are the plans of one estimator wherever it suits, and the one that has at each site what did best there.

    Args:
        prepared: the program.
        batch: what gradients are taken of.
        asked: site -> estimator that the user asked for.
        seed: of the draws.
        objective: what is trained on.
        plans: name -> plan to be tried; None means all that `trials` gives.
        points: parameters to measure at, of which the first are put back; none means the present ones.
    """
    plans = trials(prepared, asked, objective) if plans is None else plans
    bench = _Bench(prepared, batch, asked, seed, objective, points or [{}])
    bench.measure(plans)
    bench.mix()
    bench.hold_against_truth()
    work = {label: max(one.variance, NO_VARIANCE) * one.cost for label, one in bench.right.items()}
    if not work:
        return prepared.plan
    label = min(work, key=lambda name: work[name])
    best = bench.right[label].plan
    for name, row in best.rows.items():
        if _is_free(best, name, asked):
            best.rows[name] = replace(row, reason=_reason(work, label))
    left = [f"left out, as {why}: {name}" for name, why in bench.wrong.items()]
    best.notes = (*best.notes, *left, *filter(None, [bench.right[label].points[-1].complaint()]))
    return best


@dataclass
class _Bench:
    """What all plans are measured on, what was found of each, and why some are out."""

    prepared: Prepared
    batch: Batch
    asked: Mapping[str, Estimator]
    seed: int
    objective: Bound
    points: Sequence[Point]
    found: dict[str, Along] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> dict[str, Along]:
        """What is not out."""
        return {label: one for label, one in self.found.items() if label not in self.wrong}

    def _tried(self, plan: Plan) -> Along:
        set_params, found = self.prepared.backend.set_params, []
        try:
            for point in self.points:
                set_params(self.prepared.program, point)
                one = with_plan(self.prepared, plan, self.seed)
                found.append(measure(one, self.batch, SAMPLES, self.seed, self.objective))
        finally:
            set_params(self.prepared.program, self.points[0])
        return Along(tuple(found))

    def measure(self, plans: Mapping[str, Plan]) -> None:
        """Each plan; out is one whose baselines or gradients are not finite."""
        for label, plan in plans.items():
            try:
                self.found[label] = self._tried(plan)
            except NonFinite as error:  # its baseline broke
                self.wrong[label] = f"its baselines cannot be trained ({str(error).rstrip('.')})"
        broken = {label: name for label, one in self.found.items() for point in one.points for name in point.broken}
        self.wrong |= {label: f"its gradient of '{name}' is not finite" for label, name in broken.items()}

    def mix(self) -> None:
        """Try the plan that has at each site what did best there, where these differ."""
        mixed = _site_by_site(self.right, self.asked)
        if mixed:
            facts, particles = self.prepared.plan.facts, self.prepared.plan.num_particles
            plan = make_plan(facts, {**self.asked, **mixed}, particles)
            if _is_right(plan, self.objective):
                self.found[EACH] = self._tried(plan)

    def hold_against_truth(self) -> None:
        """Out is what differs from the exact gradient, where that can be had and draws show enough of it."""
        if len(self.found) < 2:
            return
        truth = exact_gradient(self.prepared, self.batch, self.seed, self.objective, MOST_VALUES)
        if truth is not None and lowest_chance(self.prepared, self.batch, self.seed) * SAMPLES < OFTEN:
            truth = None  # whose draws may miss what counts
        self.wrong |= _wrong(self.right, truth)


def _wrong(found: Mapping[str, Along], truth: Draws | None) -> dict[str, str]:
    """The plans whose gradient at the first point is not the exact one; where signals are rare none can be told."""
    if truth is None:
        return {}
    firsts = {label: one.points[0] for label, one in found.items() if one.points[0].complaint() is None}
    far = {label: max(one.z(truth).values(), default=0.0) for label, one in firsts.items()}
    return {
        label: f"its gradient is not the exact one (|z| = {z:.1f})"
        for label, z in far.items()
        if z > luck(firsts[label].components, FALSE_ALARM)
    }


def _site_by_site(found: Mapping[str, Along], asked: Mapping[str, Estimator]) -> dict[str, Estimator]:
    """Site -> the estimator that did best by its own parameters' variance; nothing where one did so everywhere."""
    best: dict[str, tuple[float, str, Estimator]] = {}
    for label, one in found.items():
        for name, row in one.plan.rows.items():
            if name not in asked and type(row.estimator).__name__ == label:
                work = max(one.of_site(name), NO_VARIANCE) * one.cost
                if name not in best or work < best[name][0]:
                    best[name] = (work, label, row.estimator)
    differ = len({label for _, label, _ in best.values()}) > 1
    return {name: estimator for name, (_, _, estimator) in best.items()} if differ else {}


def _reason(work: Mapping[str, float], chosen: str) -> str:
    others = sorted((value, label) for label, value in work.items() if label != chosen)
    beaten = ", ".join(f"{label} {value:.3g}" for value, label in others[:3])
    return f"measured: least variance x runs, {work[chosen]:.3g}" + (f" (then {beaten})" if beaten else "")
