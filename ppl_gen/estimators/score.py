"""Score-function estimator with a baseline."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_gen.estimators.base import (
    Arrays,
    Baseline,
    Estimate,
    Estimator,
    Start,
    View,
    refuse_moving_support,
    weighted_score,
)
from ppl_gen.estimators.baselines import Learned, MovingAverage
from ppl_gen.estimators.optimal import by_component, components
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array, total


class Score(Estimator):
    r"""Score function :math:`(f(z) - b) \nabla \log q(z)`, for any site whose log density can be computed.

    The signal f holds only the cost terms that the site moves (Rao-Blackwellization).

    Args:
        baseline: subtracted from the signal; None means `Learned`.
        normalize: divide the difference by its running standard deviation where that is above one (NVIL). The
            gradient's direction stays, its length does not: such an instance calls itself biased, and is only
            used when asked for.

    Source: Williams 1992; Mnih & Gregor 2014; book eq. 20.59-20.67.

    Example:
        >>> Score().unbiased, Score(normalize=True).unbiased
        (True, False)
    """

    unbiased = True
    needs = "a log density whose support does not move with what is learned"
    source = "book eq. 20.59-20.67"
    cuts = True
    alone = True

    def __init__(self, baseline: Baseline | None = None, normalize: bool = False) -> None:
        if baseline is not None and not isinstance(baseline, Baseline):
            raise TypeError(
                f"Score: expected a baseline such as Learned() or Constant(0.0); got {type(baseline).__name__}. "
                "Pass an instance from ppl_gen.estimators."
            )
        self.baseline, self.normalize = Learned() if baseline is None else baseline, normalize
        if normalize:
            self.unbiased = False  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Score(baseline={self.baseline!r}{', normalize=True' if self.normalize else ''})"

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if self.baseline.by_component and not site.is_choice:
            return f"{self.baseline!r} is for binary and categorical elements"
        return refuse_moving_support(site)

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Estimator.start`."""
        weights, averages = self.baseline.start(site, rng)
        if self.normalize:
            averages = averages | {f"gap.{n}": v for n, v in _GAP.start(site, rng)[1].items()}
        return weights, averages

    @property
    def by_particle(self) -> bool:
        """See `Estimator.by_particle`."""
        return super().by_particle and self.baseline.alone

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        own = {n: v for n, v in view.averages.items() if not n.startswith("gap.")}
        whole = [view.signal(k) for k in range(len(view.runs))]
        by_piece = self.baseline.by_component
        pieces = [components(view, *both) for both in zip(view.runs, whole, strict=True)] if by_piece else []
        seen: list[Any] = pieces or whole  # see `Baseline.by_component`
        gaps, losses = [], []
        for k, run in enumerate(view.runs):
            inputs = run.inputs.get(view.site.name)
            baseline, loss = self.baseline.judge(view.xp, seen[k], inputs, view.weights, own)
            gaps.append((pieces[k].signal if pieces else whole[k]) - baseline)
            losses += [] if loss is None else [loss / len(whole)]
        averages = self.baseline.update(view.xp, seen, own)
        if self.normalize:
            gaps, more = self._normalized(view, gaps)
            averages = averages | more
        surrogate = by_component(view, pieces, gaps) if pieces else weighted_score(view, gaps)
        return Estimate(surrogate, total(losses) if losses else None, averages)

    def _normalized(self, view: View, gaps: list[Array]) -> tuple[list[Array], Arrays]:
        """The gaps over max(1, their running standard deviation), and the averages after them."""
        xp, past = view.xp, {n.removeprefix("gap."): v for n, v in view.averages.items() if n.startswith("gap.")}
        mass = xp.where(past["mass"] > 0, past["mass"], xp.ones_like(past["mass"]))
        variance = past["square"] / mass - (past["mean"] / mass) ** 2
        spread = xp.sqrt(xp.where(variance > 1.0, variance, xp.ones_like(variance)))
        still = [xp.stop_gradient(gap) for gap in gaps]
        return [gap / spread for gap in gaps], {f"gap.{n}": v for n, v in _GAP.update(xp, still, past).items()}


_GAP = MovingAverage()
