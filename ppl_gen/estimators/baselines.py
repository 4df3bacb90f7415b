"""Baselines for the score function: a constant, a moving average, a learned network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppl_gen.estimators.base import Arrays, Baseline, Start
from ppl_gen.program import Site
from ppl_gen.program.arrays import Array, Namespace


class Constant(Baseline):
    """The same number at every step.

    Args:
        value: in nats.

    Example:
        >>> Constant(-80.0)
        Constant(value=-80.0)
    """

    alone = True

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def judge(
        self, xp: Namespace, signal: Array, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[float, None]:
        """See `Baseline.judge`."""
        return self.value, None


class MovingAverage(Baseline):
    """Exponential average of past signals, corrected for its start, used before it is updated.

    Args:
        decay: weight of the past, in [0, 1).

    Source: book section 20.9.1; the correction as in Kingma & Ba 2015.

    Example:
        >>> MovingAverage().decay
        0.95
    """

    alone = True

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"MovingAverage: expected decay in [0, 1); got {decay}. Use a value such as 0.95.")
        self.decay = decay

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Baseline.start`."""
        return {}, {
            "mean": np.zeros((), np.float32),
            "square": np.zeros((), np.float32),
            "mass": np.zeros((), np.float32),
        }

    def judge(
        self, xp: Namespace, signal: Array, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[Array, Array | None]:
        """See `Baseline.judge`."""
        return averages["mean"] / _positive(xp, averages["mass"]), None

    def update(self, xp: Namespace, signals: Sequence[Array], averages: Arrays) -> Arrays:
        """See `Baseline.update`."""
        means = xp.stack([xp.mean(signal) for signal in signals])
        squares = xp.stack([xp.mean(signal * signal) for signal in signals])
        new: dict[str, Array | float] = {"mean": xp.mean(means), "square": xp.mean(squares), "mass": 1.0}
        return {name: self.decay * averages[name] + (1 - self.decay) * new[name] for name in averages}


class Learned(Baseline):
    """A small network on the site's own guide distribution parameters, trained with the signal as its target.

    The network predicts the signal in units of its running mean and standard deviation, so one learning rate fits
    costs of any size. A site that is a single element gets the running mean alone: its parameters say nothing new.

    Args:
        hidden: width of the one hidden layer.
        decay: of the running mean and standard deviation.

    Source: Mnih & Gregor 2014, section 2.3; book section 20.9.1.

    Example:
        >>> Learned(hidden=32).hidden
        32
    """

    alone = True

    def __init__(self, hidden: int = 64, decay: float = 0.95) -> None:
        self.hidden, self.decay = hidden, decay
        self._average = MovingAverage(decay)

    def __repr__(self) -> str:
        return f"Learned(hidden={self.hidden})"

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Baseline.start`."""
        averages, num_features = self._average.start(site, rng)[1], site.num_features
        if num_features is None:
            return {}, averages
        first = rng.standard_normal((num_features, self.hidden)) / np.sqrt(num_features)
        weights = {
            "first.weight": first.astype(np.float32),
            "first.bias": np.zeros(self.hidden, np.float32),
            "second.weight": np.zeros((self.hidden, 1), np.float32),
            "second.bias": np.zeros(1, np.float32),
        }
        return weights, averages

    def judge(
        self, xp: Namespace, signal: Array, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[Array, Array | None]:
        """See `Baseline.judge`."""
        mass = _positive(xp, averages["mass"])
        mean = averages["mean"] / mass
        if inputs is None or not weights:
            return mean, None
        variance = averages["square"] / mass - mean**2
        spread = xp.sqrt(xp.where(variance > 1e-8, variance, xp.ones_like(variance)))
        predicted = self._network(xp, inputs, weights)
        error = xp.stop_gradient((signal - mean) / spread) - predicted
        return mean + spread * predicted, xp.mean(error * error)

    def update(self, xp: Namespace, signals: Sequence[Array], averages: Arrays) -> Arrays:
        """See `Baseline.update`."""
        return self._average.update(xp, signals, averages)

    def _network(self, xp: Namespace, inputs: Array, weights: Arrays) -> Array:
        hidden = xp.tanh(xp.matmul(inputs, weights["first.weight"]) + weights["first.bias"])
        return (xp.matmul(hidden, weights["second.weight"]) + weights["second.bias"])[..., 0]


def _positive(xp: Namespace, mass: Array) -> Array:
    """The mass, or one where nothing has been averaged yet."""
    return xp.where(mass > 0, mass, xp.ones_like(mass))
