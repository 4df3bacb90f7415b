"""The verb `check`: an audit of the gradients of a user's own program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ppl_gen.backends.checks import check_gradients
from ppl_gen.backends.interface import Callback, Data, Seed
from ppl_gen.backends.seeds import as_seed
from ppl_gen.errors import NonFinite
from ppl_gen.estimators import Constant, Estimator, Pathwise, Plan, Score, make_plan
from ppl_gen.evaluate.audit import LOOKS, Audit, audited, needed, unmeasured
from ppl_gen.evaluate.measure import Draws, Measured, exact_gradient, lowest_chance, measure, warmed
from ppl_gen.evaluate.selection import trials
from ppl_gen.infer.reading import read
from ppl_gen.objectives import Bound
from ppl_gen.objectives.exact import num_joint_values
from ppl_gen.objectives.weights import Weighted, common_plates, moved_terms
from ppl_gen.program import Batch
from ppl_gen.training.prepare import Prepared, own_objective, under, with_plan
from ppl_gen.training.trainer import Trainer

MOST_VALUES = 256  # joint values of the latents that are still enumerated
MORE = 16  # times as many draws as were asked for, where it takes them to tell
REFERENCE = 4  # draws of a reference that is not exact, for one of what is audited
HOPELESS = 1.0  # relative bias: where even all draws could not show it, no more are taken


@dataclass(frozen=True)
class Report:
    """What `infer.check` found; `print` shows it as a table.

    Attributes:
        reference: what the gradients were held against.
        exact: whether that is exact.
        audits: the chosen plan first, then every other estimator that suits.
        max_samples: the most draws that the chosen plan could have been given.
    """

    reference: str
    exact: bool
    audits: tuple[Audit, ...]
    max_samples: int

    @property
    def ok(self) -> bool | None:
        """Whether the chosen plan's gradients agree with the reference; None where the draws cannot tell ("inconclusive").

        None counts as False, so that ``assert report.ok`` passes only what was shown.
        """
        return self.audits[0].ok

    def to_frame(self) -> Any:
        """One row per estimator, as a pandas DataFrame."""
        import pandas

        columns = (
            "estimators", "worst |z|", "at", "bound", "variance", "runs", "variance x runs", "signal/noise", "resolution",
            "samples", "verdict",
        )  # fmt: skip
        return pandas.DataFrame([_cells(audit) for audit in self.audits], columns=list(columns)).set_index("estimators")

    def __str__(self) -> str:
        head = ("estimators", "worst |z|", "at", "variance", "runs", "variance x runs", "signal/noise", "verdict")
        lines = [head]
        for audit in self.audits:
            name, z, at, _, *numbers, _, _, verdict = _cells(audit)
            lines.append((name, f"{z:.2f}", at, *(f"{n:.3g}" for n in numbers), verdict))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        chosen = self.audits[0]
        drawn = f"{chosen.num_samples} samples of at most {self.max_samples}"
        said = [text for text in [chosen.complaint] if text]
        return "\n".join([f"reference: {self.reference}; {drawn}; by luck |z| < {chosen.bound:.2f}", *table, *said])

    __repr__ = __str__


def _cells(audit: Audit) -> tuple[Any, ...]:
    at = max(audit.z, key=lambda name: audit.z[name], default="-")
    work = audit.variance * audit.cost
    return (
        audit.name, audit.z.get(at, 0.0), at, audit.bound, audit.variance, audit.cost, work, audit.signal_to_noise,
        max(audit.resolution.values(), default=0.0), audit.num_samples, audit.verdict,
    )  # fmt: skip


def check(
    model: Callback,
    guide: Callback | None = None,
    data: Data = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_samples: int = 1000,
    num_particles: int = 1,
    objective: Bound | None = None,
    backend: str | None = None,
    device: str = "auto",
    params: Mapping[str, Any] | None = None,
    seed: Seed = 0,
    others: bool = True,
    max_samples: int | None = None,
) -> Report:
    """Audit the gradients of one's own program: bias, variance and cost, estimator by estimator.

    The reference is exact, by enumeration, for the ELBO where all latents are binary or categorical and have at most 256
    joint values. Elsewhere it is the score function on the whole cost, with no use of dependencies or derivatives through
    values: unbiased for any program whose supports do not move, but noisy.

    The verdict says no more than the draws do. "agrees" leaves no room, at a false-alarm rate of 0.1 % for the whole report,
    for a bias above 10 % of any parameter's gradient, along it; "biased" names the parameters whose gradient is off by more
    than luck explains; "inconclusive" names the smallest bias that would have shown. The chosen plan is drawn from until it
    can be told, at most `max_samples` times.

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
        device: "auto" takes a GPU where the backend sees one and the program can run there; or a name, such as "cpu" or
            "cuda:1", which is used or refused.
        params: parameter name -> array in unconstrained space; None means the program's own initial values.
        seed: of the draws.
        others: audit every other unbiased estimator as well, each at all discrete sites that it suits, as far as that
            takes no more than 16 runs of the program per step and enumerates no more than 24 sites.
        max_samples: the most single-step gradients of the chosen plan, taken only where fewer cannot tell; None means
            16 times `num_samples`. A reference that is not exact takes four times as many.

    Returns:
        The report; `.ok` is True, False, or None where it is inconclusive.

    Raises:
        ProgramError: the program or the data cannot be trained with; the message names the site.
        NonFinite: the reference, or a step that trains the chosen plan's baselines, is NaN or infinite; the message names
            the parameter or the site.
        ValueError: the objective takes values as they were drawn, so that no estimator is asked; or there is no such device.
        TypeError: `objective` is none.

    Example:
        >>> print(infer.check(model, guide, data))  # doctest: +SKIP
    """
    max_samples = MORE * num_samples if max_samples is None else max_samples
    if not 2 <= num_samples <= max_samples:
        raise ValueError(
            f"num_samples: expected 2 or more, and at most max_samples; got {num_samples} of {max_samples}. Raise one of the two."
        )
    seed = as_seed(seed)
    choices: dict[str, Any] = {"device": device, "estimators": estimators, "num_particles": num_particles, "seed": seed}
    prepared, batch = read(model, guide, data, backend, params, **choices)
    objective = own_objective(model) if objective is None else objective
    prepared = under(prepared, objective, seed, batch)
    if objective.at_fixed_values:
        raise ValueError(
            f"objective: expected one that asks each site's estimator; got {objective!r}, which takes values as they were drawn. "
            "Audit the program under ELBO()."
        )
    bench = _Bench(prepared, batch, objective, seed)
    audits = [bench.chosen(num_samples, max_samples)]
    audits += [bench.other(name, plan, num_samples) for name, plan in trials(prepared, {}, objective).items() if others]
    return Report(bench.name, bench.exact, tuple(audits), max_samples)


class _Series:
    """Draws of one plan's gradient, taken as they are asked for."""

    def __init__(self, prepared: Prepared, batch: Batch, objective: Bound, seed: int) -> None:
        self.prepared, self.batch, self.objective, self.seed = prepared, batch, objective, seed
        self.draws: Draws = {}

    def upto(self, number: int) -> Measured:
        """So many draws, those that were taken before among them."""
        have = len(next(iter(self.draws.values()), ()))
        if number > have:
            seed = (self.seed + 7919 * have) % 2**31  # other draws than before
            found = measure(self.prepared, self.batch, number - have, seed, self.objective, warm_up=0).draws
            self.draws = {n: np.concatenate([self.draws[n], v]) if have else v for n, v in found.items()}
        return Measured(self.prepared.plan, self.draws)


class _Bench:
    """What all audits of one report share: the program, and what its gradients are held against."""

    def __init__(self, prepared: Prepared, batch: Batch, objective: Bound, seed: int) -> None:
        self.prepared, self.batch, self.objective, self.seed = prepared, batch, objective, seed
        self.lowest = lowest_chance(prepared, batch, seed)
        truth = exact_gradient(prepared, batch, seed, objective, MOST_VALUES)
        self.exact, self.truth = truth is not None, truth or {}
        self.name = f"exact, all {int(num_joint_values(prepared.plan.facts))} joint values" if self.exact else ""
        self._whole = _Series(_whole(prepared, seed, objective), batch, objective, seed)
        self.size = self._size()

    def _size(self) -> float:
        """Of the loss in one run, nats: by it rounding is judged."""
        one = self.prepared
        with one.session(self.seed):
            return float(np.nan_to_num(abs(Trainer(one, self.objective, compile=False).loss(self.batch))))

    def refer(self, num_samples: int) -> None:
        """Draw the reference for so many draws of what is held against it, where it is not exact.

        Raises:
            NonFinite: it is not finite.
        """
        if not self.exact:
            number = REFERENCE * num_samples
            self.truth = self._whole.upto(number).draws
            self.name = f"score function on the whole cost, {number} samples"
        check_gradients(self.truth)

    def chosen(self, num_samples: int, max_samples: int) -> Audit:
        """The plan's own audit, after as many draws as it takes to tell, or as there may be."""
        series = _Series(
            warmed(self.prepared, self.batch, self.seed + 1, self.objective), self.batch, self.objective, self.seed + 1
        )
        for look in range(1, LOOKS + 1):
            self.refer(num_samples)
            found = self._held("chosen", series.upto(num_samples))
            if found.ok is not None or num_samples == max_samples or self._hopeless(found, max_samples):
                break
            last = look == LOOKS - 1
            num_samples = max_samples if last else int(min(max(needed(found), 2 * num_samples), max_samples))
        return found

    def other(self, name: str, plan: Plan, num_samples: int) -> Audit:
        """Another plan's audit."""
        seed = self.seed + 1
        try:
            ready = warmed(with_plan(self.prepared, plan, self.seed), self.batch, seed, self.objective)
        except NonFinite:
            return unmeasured(name, plan)
        return self._held(name, _Series(ready, self.batch, self.objective, seed).upto(num_samples))

    def _held(self, name: str, found: Measured) -> Audit:
        return audited(name, found, self.truth, self.size, self.lowest)

    def _hopeless(self, found: Audit, max_samples: int) -> bool:
        """Whether even all draws could not tell: a bias of the gradient's own size would not show, or a value stays unseen."""
        worst = found.resolution[found.open[0]] if found.open else 0.0
        if np.isinf(worst) and not self.exact:
            return False
        return bool(worst * np.sqrt(found.num_samples / max_samples) > HOPELESS)


def _whole(prepared: Prepared, seed: int, objective: Bound) -> Prepared:
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
