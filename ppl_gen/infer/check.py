"""The verb `check`: an audit of the gradients of a user's own program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ppl_gen.estimators import Constant, Enumerate, Estimator, Pathwise, Plan, Score, make_plan
from ppl_gen.infer.measure import (
    OFTEN,
    Draws,
    Measured,
    exact_gradient,
    lowest_chance,
    luck,
    measure,
    trials,
    with_plan,
)
from ppl_gen.infer.prepare import Prepared, own_objective, under
from ppl_gen.infer.seeds import as_seed
from ppl_gen.infer.verbs import read
from ppl_gen.objectives.exact import num_joint_values
from ppl_gen.objectives.weights import Weighted, common_plates, moved_terms
from ppl_gen.program import Batch

MOST_VALUES = 256  # joint values of the latents that are still enumerated
FALSE_ALARM = 1e-3  # of a whole report


@dataclass(frozen=True)
class Audit:
    """How one choice of estimators did.

    Attributes:
        name: "chosen", or the estimator that was put wherever it is right.
        plan: what each site had.
        z: parameter -> largest |mean - reference| in standard errors among its components.
        variance: sum over all parameters' components of a single step's gradient.
        cost: runs of the program per step.
        signal_to_noise: length of the mean gradient over the root of the variance, one step.
        components: number of components compared.
        complaint: what to try where the signal is weak; None where it is not.
        seen: how often, on average, the draws see the rarest value of a latent that is drawn.
    """

    name: str
    plan: Plan
    z: Mapping[str, float]
    variance: float
    cost: int
    signal_to_noise: float
    components: int
    complaint: str | None = None
    seen: float = np.inf

    @property
    def bound(self) -> float:
        """What |z| stays below by luck alone: Bonferroni over the components, at `FALSE_ALARM` in all."""
        return luck(self.components, FALSE_ALARM)

    @property
    def off(self) -> list[str]:
        """Parameters whose gradient is further from the reference than luck explains, if every value was drawn often."""
        return [name for name, z in self.z.items() if z > self.bound]

    @property
    def biased(self) -> list[str]:
        """Parameters whose gradient is not the reference's."""
        return self.off if self.seen >= OFTEN else []

    @property
    def verdict(self) -> str:
        """In words."""
        if self.off and not self.biased:
            return f"cannot tell: the rarest value is drawn {self.seen:.2g} times; take more samples"
        return "biased: " + ", ".join(self.biased) if self.biased else "agrees"


@dataclass(frozen=True)
class Report:
    """What `infer.check` found; `print` shows it as a table.

    Attributes:
        reference: what the gradients were held against.
        exact: whether that is exact.
        audits: the chosen plan first, then every other estimator that suits.
    """

    reference: str
    exact: bool
    audits: tuple[Audit, ...]

    @property
    def ok(self) -> bool:
        """Whether the chosen plan's gradients agree with the reference."""
        return not self.audits[0].biased

    def to_frame(self) -> Any:
        """One row per estimator, as a pandas DataFrame."""
        import pandas

        columns = ("estimators", "worst |z|", "at", "bound", "variance", "runs", "variance x runs", "signal/noise")
        return pandas.DataFrame([_cells(audit) for audit in self.audits], columns=list(columns)).set_index("estimators")

    def __str__(self) -> str:
        head = ("estimators", "worst |z|", "at", "variance", "runs", "variance x runs", "signal/noise", "verdict")
        lines = [head]
        for audit in self.audits:
            name, z, at, _, *numbers = _cells(audit)
            lines.append((name, f"{z:.2f}", at, *(f"{n:.3g}" for n in numbers), audit.verdict))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        bound = self.audits[0].bound
        said = [text for text in [self.audits[0].complaint] if text]
        return "\n".join([f"reference: {self.reference}; by luck |z| < {bound:.2f}", *table, *said])

    __repr__ = __str__


def _cells(audit: Audit) -> tuple[Any, ...]:
    at = max(audit.z, key=lambda name: audit.z[name], default="-")
    work = audit.variance * audit.cost
    return (
        audit.name, audit.z.get(at, 0.0), at, audit.bound, audit.variance, audit.cost, work, audit.signal_to_noise
    )  # fmt: skip


def check(
    model: Any,
    guide: Any = None,
    data: Any = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_samples: int = 1000,
    num_particles: int = 1,
    objective: Any = None,
    backend: str | None = None,
    params: Mapping[str, Any] | None = None,
    seed: Any = 0,
    others: bool = True,
) -> Report:
    """Audit the gradients of one's own program: bias, variance and cost, estimator by estimator.

    The reference is exact, by enumeration, for the ELBO where all latents are binary or categorical and have at most 256
    joint values. Elsewhere it is the score function on the whole cost, with no use of dependencies or derivatives through
    values: unbiased for any program whose supports do not move, but noisy, so that small biases stay unseen.

    Args:
        model: a Pyro, NumPyro or portable program.
        guide: the program that proposes its latents; None takes the model's own, else a mean-field one, with
            finite latents left out where they can be summed out.
        data: one argument, a tuple of positional or a dict of keyword arguments.
        estimators: site name or ``"*"`` -> estimator instance, to be audited in place of the automatic choice.
        num_samples: single-step gradients per row of the report.
        num_particles: draws per step.
        objective: what is trained on; None means the model's own, else the ELBO.
        backend: "torch" or "jax"; None notices it.
        params: parameter name -> array in unconstrained space; None means the program's own initial values.
        seed: of the draws.
        others: audit every other unbiased estimator as well, each at all discrete sites that it suits, as far as that
            takes no more than 16 runs of the program per step and enumerates no more than 24 sites.

    Raises:
        ProgramError: the program or the data cannot be trained with; the message names the site.
        ValueError: the objective takes values as they were drawn, so that no estimator is asked.
        TypeError: `objective` is none.

    Example:
        >>> print(infer.check(model, guide, data))  # doctest: +SKIP
    """
    seed = as_seed(seed)
    prepared, batch = read(
        model, guide, data, backend, params, estimators=estimators, num_particles=num_particles, seed=seed
    )
    objective = own_objective(model) if objective is None else objective
    prepared = under(prepared, objective, seed, batch)
    if objective.at_fixed_values:
        raise ValueError(
            f"objective: expected one that asks each site's estimator; got {objective!r}, which takes values as they were drawn. "
            "Audit the program under ELBO()."
        )
    name, truth = _reference(prepared, batch, objective, num_samples, seed)
    plans = {"chosen": prepared.plan}
    if others:
        plans |= trials(prepared, {}, objective)
    lowest, audits = lowest_chance(prepared, batch, seed), []
    for label, plan in plans.items():
        found = measure(with_plan(prepared, plan, seed), batch, num_samples, seed + 1, objective)
        audits.append(_audit(label, found, truth, lowest * num_samples))
    return Report(name, len(next(iter(truth.values()), [0])) == 1, tuple(audits))


def _reference(prepared: Prepared, batch: Batch, objective: Any, num_samples: int, seed: int) -> tuple[str, Draws]:
    """(what it is, parameter -> draws of it; a single one is exact)."""
    exact = exact_gradient(prepared, batch, seed, objective, MOST_VALUES)
    if exact is not None:
        return f"exact, all {int(num_joint_values(prepared.plan.facts))} joint values", exact
    found = measure(_whole(prepared, seed, objective), batch, 4 * num_samples, seed, objective, warm_up=0)
    return f"score function on the whole cost, {4 * num_samples} samples", found.draws


def _whole(prepared: Prepared, seed: int, objective: Any) -> Prepared:
    """Score function wherever it is right, each signal the whole cost; of weights, all of an element's own bound."""
    facts = prepared.plan.facts
    asked: dict[str, Estimator] = {}
    for site in facts.latents():
        score = Score(Constant(0.0))
        asked[site.name] = score if score.refusal(site, facts, 1) is None else Pathwise()
    plan = make_plan(facts, asked, prepared.plan.num_particles)
    apart, terms = set[str](), set(facts.sites)
    if isinstance(objective, Weighted):  # the plates whose elements have weights of their own are part of what is asked
        apart, terms = set(common_plates(prepared.plan)), moved_terms(prepared.plan)
    everything = {term: frozenset(facts.sites[term].plates) - apart for term in terms}
    plan.rows.update({name: replace(row, terms=everything) for name, row in plan.rows.items()})
    return with_plan(prepared, plan, seed)


def _audit(name: str, found: Measured, truth: Draws, seen: float) -> Audit:
    sampled = any(row.estimator.cuts and not isinstance(row.estimator, Enumerate) for row in found.plan.rows.values())
    return Audit(
        name,
        found.plan,
        found.z(truth),
        found.variance,
        found.cost,
        found.signal_to_noise,
        found.components,
        found.complaint(),
        seen if sampled else np.inf,
    )
