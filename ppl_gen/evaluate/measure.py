"""Estimators measured on the program at hand: variance, signal-to-noise, bias, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from ppl_gen.estimators import Plan
from ppl_gen.evaluate.rare import FEW_DRAWS, rare_signal
from ppl_gen.objectives import ELBO
from ppl_gen.objectives.exact import Exact, Rarest, num_joint_values
from ppl_gen.program import PARAM, Batch
from ppl_gen.training.prepare import Baselines, Prepared
from ppl_gen.training.step import Objective
from ppl_gen.training.trainer import Trainer, sample_gradients

Draws = dict[str, np.ndarray]
OFTEN = 10  # times that a value must be drawn for the draws' own spread to be believed
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
        noise = f"(signal-to-noise of a step {self.signal_to_noise:.2g})"
        return rare_signal(f"{share:.1%} of the draws carry the gradient {noise}")

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


def _squared_error(draws: np.ndarray) -> np.ndarray:
    return np.asarray(draws.var(0, ddof=1) / len(draws) if len(draws) > 1 else np.zeros(draws.shape[1:]))


def luck(components: int, false_alarm: float) -> float:
    """What |z| stays below by luck alone, over so many components (Bonferroni)."""
    return NormalDist().inv_cdf(1 - false_alarm / (2 * max(1, components)))


def exact_gradient(prepared: Prepared, batch: Batch, seed: int, objective: Objective, most: int) -> Draws | None:
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


def evaluations(plan: Plan) -> int:
    """Runs of the program per step."""
    more = sum(row.cost - 1 for row in plan.rows.values() if not row.estimator.enumerates)
    return plan.num_particles * plan.enumeration.runs * (1 + more)


def measure(
    prepared: Prepared, batch: Batch, num_samples: int, seed: int, objective: Objective, *, warm_up: int | None = None
) -> Measured:
    """Gradients of the prepared plan, its baselines trained for `warm_up` steps (None: `WARM_UP`)."""
    ready = warmed(prepared, batch, seed, objective, warm_up)
    return Measured(ready.plan, sample_gradients(ready, objective, batch, num_samples, seed))


def warmed(prepared: Prepared, batch: Batch, seed: int, objective: Objective, warm_up: int | None = None) -> Prepared:
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

    def build(self, arrays: list[Any], rows: np.ndarray | None) -> Batch:
        """See `Table.build`."""
        return self._batch


def _warmed(prepared: Prepared, batch: Batch, seed: int, objective: Objective, steps: int) -> Baselines:
    """(weights, averages) after steps that leave the program's parameters alone."""
    with prepared.session(seed):
        trainer = Trainer(prepared, objective, learning_rate=0.0, steps=steps)
        before = trainer.state()
        trainer.steps(Still(batch), 0, steps)
        state = trainer.state()
        trainer.load(before)  # a network's running averages are the program's own
    weights, averages = (
        {site: {n: state[f"{part}/{site}/{n}"] for n in leaves} for site, leaves in tree.items()}
        for part, tree in zip(("weights", "averages"), prepared.start, strict=True)
    )
    return weights, averages
