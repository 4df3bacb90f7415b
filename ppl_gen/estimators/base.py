"""What every gradient estimator and every baseline offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ppl_gen.program import Facts, Site

Array = Any
Arrays = dict[str, Array]


class Estimator(ABC):
    """How the gradient of an expectation over one latent site is estimated.

    Attributes:
        unbiased: whether the estimate's mean is the gradient.
        needs: what a site must offer.
        source: where the estimator comes from.
        cuts: whether values of the site pass no gradient, and log q carries it instead.
    """

    unbiased: ClassVar[bool]
    needs: ClassVar[str]
    source: ClassVar[str]
    cuts: ClassVar[bool]

    @abstractmethod
    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """Why this estimator would be wrong for `site`; None where it is right."""

    def cost(self, site: Site) -> int:
        """Runs of the program per particle."""
        return 1

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({options})"


class ScoreEstimator(Estimator):
    """An estimator of the form (signal - baseline) grad log q; subclasses say what the baseline is.

    Signals, in nats, are the sums of the cost terms the site moves, one array per particle, shaped like log q.
    """

    cuts = True

    def start(self, num_features: int | None, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        """(weights that are trained, running averages) to begin with; `num_features` is None for a lone element."""
        return {}, {}

    @abstractmethod
    def advantages(
        self, xp: Any, signals: Sequence[Array], inputs: Sequence[Array | None], weights: Arrays, averages: Arrays
    ) -> tuple[list[Array], Array | None, Arrays]:
        """(signal - baseline for each particle, loss that trains the weights if any, new averages)."""


class Baseline(ABC):
    """What is subtracted from the signal; it may depend on anything but the site's own value (eq. 20.63-20.67)."""

    def start(self, num_features: int | None, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        """(weights that are trained, running averages) to begin with."""
        return {}, {}

    @abstractmethod
    def judge(
        self, xp: Any, signal: Array, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[Array, Array | None]:
        """(the baseline in nats, a number or shaped like the signal; the loss its weights minimise, None without weights).

        The signal may enter the loss only, never the baseline.
        """

    def update(self, xp: Any, signals: Sequence[Array], averages: Arrays) -> Arrays:
        """The averages after these signals; called after `judge`, so that no signal meets itself."""
        return averages

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({options})"


def refuse_moving_support(site: Site) -> str | None:
    """The score function is wrong where the boundary of the support moves with what is learned."""
    if site.moving:
        movers = ", ".join(sorted(m.removeprefix("param:") for m in site.moving))
        return f"its support moves with {movers}, where the score function is wrong"
    if site.distribution == "Delta":
        return "a Delta has no log density to differentiate"
    return None
