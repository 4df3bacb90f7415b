"""Estimators measured on the program at hand: variance, signal-to-noise, bias, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from ppl_gen import estimators as known
from ppl_gen.errors import NonFinite, ProgramError
from ppl_gen.estimators import Estimator, Plan, make_plan
from ppl_gen.objectives import ELBO
from ppl_gen.objectives.exact import Exact, Rarest, num_joint_values
from ppl_gen.program import PARAM, Batch
from ppl_gen.training.prepare import Prepared, start_baselines
from ppl_gen.training.trainer import Trainer, sample_gradients
from ppl_gen.training.trajectory import LENGTH, Point

ADVICE = (
    "Try more particles (num_particles, LeaveOneOut), Enumerate for sites of few values, an importance-weighted "
    "objective, a guide that starts nearer to good values, or a cost that rewards partial success."
)
Draws = dict[str, np.ndarray]
MOST_RUNS = 16  # of the program per step and particle, for what is chosen without being asked for
MOST_SITES = 24  # enumerated ones, likewise: eliminating long chains compiles for minutes on JAX
SAMPLES = 200
NO_VARIANCE = 1e-8  # below it there is only rounding, and the fewest runs decide
FEW_DRAWS = 0.05  # share of the draws below which their signal is called rare
FEWEST_LOSSES = 200  # that can show a rare one
ROUNDING = 1e-5  # of a loss
MOST_VALUES = 16  # joint values of the latents up to which candidates are held against the exact gradient
FALSE_ALARM = 1e-6  # of one candidate
OFTEN = 10  # times that a value must be drawn for the draws' own spread to be believed
SHARE = 10  # measuring may take one part in so many of a fit's runs of the program
EACH = "each site's best"
WARM_UP = 200  # steps that train baselines before anything is measured; the program's parameters stand still


@dataclass(frozen=True)
class Measured:
    """One plan's gradients at the program's present parameters.

    Attributes:
        plan: the plan.
        draws: parameter -> independent single-step gradients, (num_samples, *shape).
    """

    plan: Plan
    draws: Draws

    @property
    def variance(self) -> float:
        """Sum over all parameters' components."""
        return float(sum(values.var(0, ddof=1).sum() for values in self.draws.values()))

    @property
    def cost(self) -> int:
        """Runs of the program per step."""
        return evaluations(self.plan)

    @property
    def signal_to_noise(self) -> float:
        """Length of the mean gradient over the root of the variance, of one step; the mean's own noise taken off."""
        squares = sum(float((values.mean(0) ** 2).sum()) for values in self.draws.values())
        count = len(next(iter(self.draws.values())))
        return float(np.sqrt(max(0.0, squares - self.variance / count) / max(self.variance, 1e-300)))

    @property
    def carried_by(self) -> float:
        """Share of the draws that carry the gradient: (sum |g|)^2 / (n sum |g|^2), with |g| the deviation from the median.

        One where all draws count alike; the share of non-zero signals where the others are zero.
        """
        flat = np.concatenate([v.reshape(len(v), -1) for v in self.draws.values()], axis=1).astype(float)
        sizes = np.sqrt(((flat - np.median(flat, axis=0)) ** 2).sum(1))
        if not sizes.any():
            return float(flat.any())  # no noise at all, or nothing at all
        return float(sizes.sum() ** 2 / (len(sizes) * (sizes**2).sum()))

    def complaint(self) -> str | None:
        """What to say where good values are so rare that steps seldom see them (end of the book's section 20.9.1)."""
        if not any(row.estimator.cuts for row in self.plan.rows.values()) or not self.draws:
            return None
        share = self.carried_by
        if share >= FEW_DRAWS:  # a low signal-to-noise alone may mean that training is done
            return None
        return (
            f"rare signal: {share:.1%} of the draws carry the gradient (signal-to-noise of a step {self.signal_to_noise:.2g}). "
            + ADVICE
        )

    @property
    def broken(self) -> list[str]:
        """Parameters of which a draw is NaN or infinite."""
        return [name for name, draws in self.draws.items() if not np.isfinite(draws).all()]

    def z(self, truth: Draws, size: float = 10.0) -> dict[str, float]:
        """Parameter -> largest |mean - reference| in standard errors among its components.

        Args:
            truth: draws of the reference; a single one is exact.
            size: of the loss, nats, by which its rounding is judged.
        """
        found = {}
        for name, draws in self.draws.items():
            reference = truth[name]
            error = _squared_error(draws) + _squared_error(reference)
            floor = 1e-4 * np.abs(reference.mean(0)) + 1e-5 * size  # rounding of single precision
            gap = np.abs(draws.mean(0) - reference.mean(0)) / np.maximum(np.sqrt(error), floor)
            found[name] = float(gap.max(initial=0.0))
        return found

    @property
    def components(self) -> int:
        """Components of all parameters."""
        return sum(draws[0].size for draws in self.draws.values())

    def of_site(self, name: str) -> float:
        """The variance of the parameters that reach the site's distribution in the guide."""
        reach = self.plan.facts.sites["guide", name].reach
        return float(sum(v.var(0, ddof=1).sum() for n, v in self.draws.items() if PARAM + n in reach))


def _squared_error(draws: np.ndarray) -> Any:
    return draws.var(0, ddof=1) / len(draws) if len(draws) > 1 else np.zeros(draws.shape[1:])


def luck(components: int, false_alarm: float) -> float:
    """What |z| stays below by luck alone, over so many components (Bonferroni)."""
    return NormalDist().inv_cdf(1 - false_alarm / (2 * max(1, components)))


def exact_gradient(prepared: Prepared, batch: Batch, seed: int, objective: Any, most: int) -> Draws | None:
    """The ELBO's gradient by enumeration; None where the latents have more than `most` joint values, or it is of another kind."""
    facts = prepared.plan.facts
    bound = isinstance(objective, ELBO) and objective.final_weight == 1
    steady = not facts.noise and not facts.subsampled  # else one sum over all values is one draw of several
    if not bound or not steady or num_joint_values(facts) > most:
        return None
    return measure(prepared, batch, 1, seed, Exact(), warm_up=0).draws


def lowest_chance(prepared: Prepared, batch: Batch, seed: int) -> float:
    """The lowest probability of a value of a finite latent, in a few runs; one where all are enumerated."""
    drawn = [
        row for row in prepared.plan.rows.values() if prepared.plan.facts.sites["guide", row.site].support == "finite"
    ]
    if not drawn:
        return 1.0
    with prepared.session(seed):
        trainer = Trainer(prepared, Rarest(), compile=False)
        return min(float(trainer.loss(batch, draw)) for draw in range(4))


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


def seldom_better(plan: Plan, losses: np.ndarray) -> str | None:
    """What to say of a run whose losses nearly all lie together, with a rare one far below; None where it is not so.

    Costs nothing, so that short runs get it too. The losses are those of the run's second half: where training did find
    the good values, they are no longer rare there.

    Args:
        plan: the estimators; without one that is a score function the losses say nothing of the signal.
        losses: of every step, nats.
    """
    late = np.asarray(losses, dtype=float)[len(losses) // 2 :]
    sampled = [r for r in plan.rows.values() if r.estimator.cuts and not r.estimator.enumerates]
    if len(late) < FEWEST_LOSSES or not sampled:
        return None
    middle = float(np.median(late))
    below = np.maximum(0.0, middle - late)
    below[below < ROUNDING * max(1.0, abs(middle))] = 0.0
    if not below.any():
        return None
    share = float(below.sum() ** 2 / (len(below) * (below**2).sum()))
    if share >= FEW_DRAWS:
        return None
    return (
        f"rare signal: in the run's second half {share:.1%} of the steps carry what lies below the usual loss. {ADVICE}"
    )


def evaluations(plan: Plan) -> int:
    """Runs of the program per step."""
    more = sum(row.cost - 1 for row in plan.rows.values() if not row.estimator.enumerates)
    return plan.num_particles * plan.enumeration.runs * (1 + more)


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


def with_plan(prepared: Prepared, plan: Plan, seed: int) -> Prepared:
    """The same program under another plan."""
    return replace(prepared, plan=plan, start=start_baselines(plan.facts, plan, seed))


def measure(
    prepared: Prepared, batch: Batch, num_samples: int, seed: int, objective: Any, *, warm_up: int | None = None
) -> Measured:
    """Gradients of the prepared plan, its baselines trained for `warm_up` steps (None: `WARM_UP`)."""
    ready = warmed(prepared, batch, seed, objective, warm_up)
    return Measured(ready.plan, sample_gradients(ready, objective, batch, num_samples, seed))


def warmed(prepared: Prepared, batch: Batch, seed: int, objective: Any, warm_up: int | None = None) -> Prepared:
    """The same program and plan, its baselines trained for `warm_up` steps (None: `WARM_UP`)."""
    warm_up = WARM_UP if warm_up is None else warm_up
    learns = any(tree for trees in prepared.start for tree in trees.values())
    if not (learns and warm_up):
        return prepared
    return replace(prepared, start=_warmed(prepared, batch, seed, objective, warm_up))


class Still:
    """The same batch at every step, as a source of batches."""

    one_by_one = False

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def at(self, step: int) -> tuple[list[Any], None]:
        """See `Table.at`."""
        return [], None

    def rows(self, step: int) -> None:
        """See `Table.rows`."""
        return None

    def build(self, arrays: list[Any], rows: Any) -> Batch:
        """See `Table.build`."""
        return self._batch


def _warmed(prepared: Prepared, batch: Batch, seed: int, objective: Any, steps: int) -> tuple[Any, Any]:
    """(weights, averages) after steps that leave the program's parameters alone."""
    with prepared.session(seed):
        trainer = Trainer(prepared, objective, learning_rate=0.0, steps=steps)
        before = trainer.state()
        trainer.steps(Still(batch), 0, steps)
        state = trainer.state()
        trainer.load(before)  # a network's running averages are the program's own
    return tuple(  # type: ignore[return-value]
        {site: {n: state[f"{part}/{site}/{n}"] for n in leaves} for site, leaves in tree.items()}
        for part, tree in zip(("weights", "averages"), prepared.start, strict=True)
    )


def trials(prepared: Prepared, asked: Mapping[str, Estimator], objective: Any = None) -> dict[str, Plan]:
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


def _is_right(plan: Plan, objective: Any) -> bool:
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
    objective: Any,
    plans: Any = None,
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
    plans = dict(trials(prepared, asked, objective) if plans is None else plans)

    def tried(plan: Plan) -> Along:
        found = []
        try:
            for point in points or [{}]:
                prepared.backend.set_params(prepared.program, point)
                found.append(measure(with_plan(prepared, plan, seed), batch, SAMPLES, seed, objective))
        finally:
            prepared.backend.set_params(prepared.program, points[0] if points else {})
        return Along(tuple(found))

    found, wrong = dict[str, Along](), dict[str, str]()
    for label, plan in plans.items():
        try:
            found[label] = tried(plan)
        except NonFinite as error:  # its baseline broke
            wrong[label] = f"its baselines cannot be trained ({str(error).rstrip('.')})"
    broken = {label: name for label, one in found.items() for point in one.points for name in point.broken}
    wrong |= {label: f"its gradient of '{name}' is not finite" for label, name in broken.items()}
    mixed = _site_by_site({label: one for label, one in found.items() if label not in wrong}, asked)
    if mixed:
        plan = make_plan(prepared.plan.facts, {**asked, **mixed}, prepared.plan.num_particles)
        if _is_right(plan, objective):
            plans[EACH], found[EACH] = plan, tried(plan)
    truth = exact_gradient(prepared, batch, seed, objective, MOST_VALUES) if len(found) > 1 else None
    if truth is not None and lowest_chance(prepared, batch, seed) * SAMPLES < OFTEN:
        truth = None  # whose draws may miss what counts
    wrong |= _wrong({label: one for label, one in found.items() if label not in wrong}, truth)
    work = {label: max(one.variance, NO_VARIANCE) * one.cost for label, one in found.items() if label not in wrong}
    if not work:
        return prepared.plan
    label = min(work, key=lambda name: work[name])
    best: Plan = plans[label]
    reason = _reason(work, label)
    for name, row in best.rows.items():
        if _is_free(best, name, asked):
            best.rows[name] = replace(row, reason=reason)
    left = [f"left out, as {why}: {name}" for name, why in wrong.items()]
    best.notes = (*best.notes, *left, *filter(None, [found[label].points[-1].complaint()]))
    return best


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
