"""RODEO: leave-one-out with discrete Stein operators."""

from __future__ import annotations

import math

import numpy as np

from ppl_gen.estimators.base import Estimate, Start, View
from ppl_gen.estimators.baselines import MovingAverage
from ppl_gen.estimators.double_control import DoubleControl, Point, others_mean, points
from ppl_gen.estimators.relaxed import units
from ppl_gen.program import Site
from ppl_gen.program.arrays import Array


class Rodeo(DoubleControl):
    r"""Leave-one-out whose control variates are what a Markov chain that keeps q would change.

    For any function h, :math:`(A h)(z) = \frac1D \sum_i q(\bar z_i) (h(z \text{ with } z_i \text{ flipped}) - h(z))`
    has mean zero under q. One is added to the signals that make the others' mean, one, of h times the score, to the
    gradient. A particle's h is made from the others' signals and slopes: D times the first-order change of the cost
    from the other's value, plus a small network on that change and the other's signal. Coefficients and network are
    learned: they minimise the squared gradient.

    Needs ``num_particles >= 2``, and an objective in which a particle's signal is its own, such as `ELBO`.

    Args:
        hidden: width of the network's one hidden layer.
        baseline: where the multiple in the others' mean starts.
        own: where the multiple in the particle's own part starts.

    Source: Shi et al. 2022.

    Example:
        >>> Rodeo(hidden=32).hidden
        32
    """

    source = "Shi et al. 2022"

    def __init__(self, hidden: int = 32, baseline: float = 0.5, own: float = 0.0) -> None:
        self.hidden, self.baseline, self.own = hidden, baseline, own

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Estimator.start`."""
        weights = {
            "baseline": np.asarray(self.baseline, np.float32),
            "own": np.asarray(self.own, np.float32),
            "first.weight": rng.standard_normal((2, self.hidden)).astype(np.float32),
            "first.bias": np.zeros(self.hidden, np.float32),
            "second.weight": np.zeros((self.hidden, 2), np.float32),
        }
        return weights, {name: np.zeros((), np.float32) for name in ("mean", "square", "mass")}

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        xp, draws = view.xp, [self._flat(view, draw) for draw in points(view)]
        moves = [self._operators(view, draws, k) for k in range(len(draws))]
        levels = others_mean([draw.signal + level for draw, (level, _) in zip(draws, moves, strict=True)])
        gradients = [
            (draw.signal - level) * draw.away + own for draw, level, (_, own) in zip(draws, levels, moves, strict=True)
        ]
        averages = MovingAverage().update(xp, [draw.signal for draw in draws], view.averages)
        terms = [xp.sum(xp.stop_gradient(g) * draw.logits) for g, draw in zip(gradients, draws, strict=True)]
        together = sum(gradients[1:], gradients[0]) / len(gradients)
        return Estimate(view.share * sum(terms[1:], terms[0]), xp.mean(together**2), averages)

    def _flat(self, view: View, draw: Point) -> Point:
        """The same with one event axis; the signal with an axis of size 1."""
        number, xp = len(view.site.event_shape), view.xp
        shape = (*draw.mean.shape[: draw.mean.ndim - number], math.prod(view.site.event_shape))
        logits, mean, away, slope = (xp.reshape(a, shape) for a in (draw.logits, draw.mean, draw.away, draw.slope))
        return Point(logits, mean, away, draw.signal[..., None], slope)

    def _operators(self, view: View, draws: list[Point], k: int) -> tuple[Array, Array]:
        """(for the others' mean, (..., 1); for the particle's own gradient, (..., D)): both of mean zero."""
        xp, draw, weights = view.xp, draws[k], view.weights
        flips, chance = 1 - 2 * (draw.away + draw.mean), abs(draw.away)  # of the other value, under q
        pairs = [self._changes(view, draw, flips, draws[j]) for j in range(len(draws)) if j != k]
        here, there = (sum(ends[1:], ends[0]) / len(ends) for ends in map(list, zip(*pairs, strict=True)))
        steps = xp.mean(chance[..., None] * (there - here), axis=-2)
        own = draw.away * steps[..., 1:] + chance * there[..., 1] * flips / flips.shape[-1]
        return weights["baseline"] * steps[..., :1], weights["own"] * own

    def _changes(self, view: View, draw: Point, flips: Array, other: Point) -> tuple[Array, Array]:
        """Both h made from another particle, at the value and with each element flipped: (..., 1 or D, 2)."""
        xp, away = view.xp, draw.away + draw.mean - other.away - other.mean
        here = xp.sum(other.slope * away, axis=-1, keepdims=True)
        there = here + other.slope * flips
        one, two = (self._network(view, change, other.signal, flips.shape[-1]) for change in (here, there))
        return one, two

    def _network(self, view: View, change: Array, signal: Array, elements: int) -> Array:
        xp, weights = view.xp, view.weights
        mean, spread = units(xp, view.averages)
        level = (signal - mean) / spread + 0.0 * change
        inputs = xp.stack([change / spread + 0.0 * level, level], axis=-1)
        hidden = xp.tanh(xp.matmul(inputs, weights["first.weight"]) + weights["first.bias"])
        return elements * (change + 0.0 * level)[..., None] + spread * xp.matmul(hidden, weights["second.weight"])
