"""What every gradient estimator and every baseline offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ppl_gen.program import PARAM, Draw, Facts, Run, Site
from ppl_gen.program.arrays import Array, Namespace, total

Arrays = dict[str, Array]
Start = dict[str, NDArray[np.float32]]  # what an estimator keeps, at its start


class Estimate(NamedTuple):
    """What an estimator gives for one site.

    Attributes:
        surrogate: scalar whose gradient is the site's part of the gradient of what is maximised.
        loss: scalar that trains the estimator's own weights; None without weights.
        averages: its running averages after this step.
    """

    surrogate: Array
    loss: Array | None
    averages: Arrays


class View(Protocol):
    """What an estimator sees of a step: one site, its particles' runs, and the means to try other values.

    A *signal* is what is maximised, in nats, as far as the site moves it: an array shaped like the site's log q (an
    event is one element; a plate whose elements mix is summed). It never carries a gradient.

    Attributes:
        xp: array namespace with `stop_gradient`.
        site: the site.
        runs: one per particle.
        share: weight of one particle's surrogate in the step's.
        weights: the estimator's own, for this site.
        averages: likewise.
        relaxable: whether `slope` follows every way by which the site's value moves the signal.
    """

    xp: Namespace
    site: Site
    runs: list[Run]
    share: float
    weights: Arrays
    averages: Arrays
    relaxable: bool

    def signal(self, particle: int, run: Run | None = None) -> Array:
        """The signal, of the particle's own run or as if `run` had been the particle's."""

    def others(self, particle: int) -> Array:
        """What the other particles alone would expect the signal to be; there are two or more."""

    def again(self, particle: int, value: Array) -> Run:
        """The particle's run with the site's value replaced, and all that depends on it drawn afresh."""

    def slope(self, particle: int, value: Array) -> tuple[Array, Array]:
        """(signal, derivative of what is maximised by `value`) of such a run at a real `value`, shaped (log q, value).

        Everything that depends on the value is drawn afresh, as relaxed values where it is binary.
        """

    def uniform(self, particle: int, like: Array) -> Array:
        """Fresh uniform noise in (0, 1), shaped like `like`."""

    def expand(self, signal: Array) -> Array:
        """A signal with the site's event dimensions appended, to be held against values."""


class Estimator(ABC):
    """How the gradient of an expectation over one latent site is estimated.

    Attributes:
        unbiased: whether the estimate's mean is the gradient.
        needs: what a site must offer.
        source: where the estimator comes from.
        cuts: whether values of the site pass no gradient, and `estimate` makes up for it.
        alone: whether several particles give the mean of what each gives alone; each class says so for itself.
        side_by_side: whether all elements of a plate are replaced at once, each taken to move its own signal alone.
        enumerates: whether every value of the site is tried, and log q weighs it.
        pathwise: whether the values are those of the site's own sampler, and pass its gradient.
        own_signals: whether particles are compared whose signals must be their own.
    """

    unbiased: ClassVar[bool]
    needs: ClassVar[str]
    source: ClassVar[str]
    cuts: ClassVar[bool]
    alone: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = False
    enumerates: ClassVar[bool] = False
    pathwise: ClassVar[bool] = False
    own_signals: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass may compare particles where its parent does not."""
        super().__init_subclass__(**options)
        cls.alone = vars(cls).get("alone", False)

    @property
    def by_particle(self) -> bool:
        """Whether each particle may be estimated by itself, and the estimates averaged."""
        return self.alone

    @abstractmethod
    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """Why this estimator would be wrong for `site`; None where it is right."""

    def cost(self, site: Site) -> int:
        """Runs of the program per particle."""
        return 1

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """(weights that are trained, running averages) to begin with, NumPy arrays."""
        return {}, {}

    def draw(self, xp: Namespace) -> Draw | None:
        """How the site's value is drawn where not by its own sampler."""
        return None

    def estimate(self, view: View) -> Estimate | None:
        """The site's part of the gradient; None where it is all in the value's own path or in log q's weight."""
        return None

    def part(self, view: View) -> Any:
        """What one particle, seen alone, has to say to `joined`: its estimate, or other arrays; None if nothing."""
        return self.estimate(view)

    def joined(self, xp: Namespace, parts: Sequence[Any]) -> Estimate:
        """The estimate from all particles' parts."""
        loss = None if parts[0].loss is None else total([part.loss for part in parts]) / len(parts)
        averages = {n: total([part.averages[n] for part in parts]) / len(parts) for n in parts[0].averages}
        return Estimate(total([part.surrogate for part in parts]) / len(parts), loss, averages)

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({options})"


class Baseline(ABC):
    """What is subtracted from the signal; it may depend on anything but the site's own value (eq. 20.63-20.67).

    Attributes:
        by_component: whether each component of a binary or categorical site's logits has its own; the signals that
            `judge` and `update` see are then `Piece`s, see `Optimal`.
        alone: whether the averages after several signals are the mean of those after each; each class says so for itself.
    """

    by_component: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass may average otherwise than its parent."""
        super().__init_subclass__(**options)
        cls.alone = vars(cls).get("alone", False)

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """(weights that are trained, running averages) to begin with."""
        return {}, {}

    @abstractmethod
    def judge(
        self, xp: Namespace, signal: Array, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[Array | float, Array | None]:
        """(the baseline in nats, a number or shaped like the signal; the loss its weights minimise, None without weights).

        The signal may enter the loss only, never the baseline.
        """

    def update(self, xp: Namespace, signals: Sequence[Array], averages: Arrays) -> Arrays:
        """The averages after these signals; called after `judge`, so that no signal meets itself."""
        return averages

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({options})"


def weighted_score(view: View, gaps: Sequence[Array]) -> Array:
    """Sum over particles of (signal - baseline) log q."""
    terms = [
        view.xp.sum(run.logq[view.site.name] * view.xp.stop_gradient(gap))
        for run, gap in zip(view.runs, gaps, strict=True)
    ]
    return view.share * total(terms)


def refuse_meeting(site: Site, facts: Facts) -> str | None:
    """Why a site's elements cannot be tried side by side: they move one another's cost."""
    if site.loose:
        return (
            "it has elements in no plate, which cannot be tried side by side; a plate or to_event would tell them apart"
        )
    wide = {p for p, dim in site.plates.items() if len(site.batch_shape) >= -dim and site.batch_shape[dim] > 1}
    for term, mixed in facts.downstream(site.name).items():
        outside = wide - set(facts.sites[term].plates)
        if wide & mixed or outside:
            plate = sorted((wide & mixed) | outside)[0]
            return f"elements of plate '{plate}' meet at site '{term[1]}', so they cannot be tried side by side"
    return None


def refuse_own_noise(facts: Facts) -> str | None:
    """Runs that are held against one another must share all noise but what is compared; dropout does not."""
    return (
        f"it compares runs of the program, which draws random numbers of its own at {facts.noise}"
        if facts.noise
        else None
    )


def refuse_flow(site: Site) -> str | None:
    """Why no estimator but the pathwise one can be had: a loop of the library's draws the values."""
    return f"its values are drawn inside {site.flow}, where they can be neither held nor tried" if site.flow else None


def refuse_moving_support(site: Site) -> str | None:
    """The score function is wrong where the boundary of the support moves with what is learned.

    A latent may move it: none that does is pathwise (see `Facts.jump`), so it stands still under the derivative.
    """
    if site.flow:
        return refuse_flow(site)
    movers = ", ".join(sorted(m.removeprefix(PARAM) for m in site.moving if m.startswith(PARAM)))
    if movers:
        return f"its support moves with {movers}, where the score function is wrong"
    if site.gives_other_value:
        return "its log density is of another value than the one it gives; use Bernoulli or a categorical site"
    if site.is_point:
        return "a Delta has no log density to differentiate"
    return None
