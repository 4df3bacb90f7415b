"""The baseline of least variance, component by component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppl_gen.estimators.base import Arrays, Baseline, Start, View
from ppl_gen.program import Run, Site
from ppl_gen.program.arrays import Array, Namespace, total

_LITTLE = 1e-12


class Piece(NamedTuple):
    """One particle's part in the gradient of a binary or categorical site's logits; arrays (..., components).

    Attributes:
        signal: nats, the same for all components of an event.
        score: what multiplies it, of mean zero: value - probability.
        square: what weighs it in the baseline: the squared derivative of log q.
        logits: live.
    """

    signal: Array
    score: Array
    square: Array
    logits: Array


class Optimal(Baseline):
    r"""For each component of the logits the constant that leaves the least variance.

    :math:`b_i = E[f s_i^2] / E[s_i^2]` with :math:`s_i = \partial \log q / \partial w_i` (eq. 20.68). A binary
    element has one w, its logit; where that is the parameter this is the equation, where a network makes it the best
    constant for each unit. A categorical element's w are its log masses, so :math:`b_i = E[f | z = i]`; they pass on
    (f - b) times value - probability, and nothing else that depends on the value alone would leave less variance in
    any of its logits. Elements of a plate share the constants.

    Args:
        learned: predict both expectations from the site's own guide distribution parameters, by two regressions, where
            there is more than a lone element; otherwise they are running averages, used before they are updated.
        decay: of the running averages.
        hidden: width of the regressions' hidden layer.

    Source: book eq. 20.68-20.69; Weaver & Tao 2001.

    Example:
        >>> Optimal()
        Optimal(learned=False, decay=0.99, hidden=64)
    """

    by_component = True
    alone = True

    def __init__(self, learned: bool = False, decay: float = 0.99, hidden: int = 64) -> None:
        self.learned, self.decay, self.hidden = learned, decay, hidden

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Baseline.start`."""
        shape = (*site.event_shape, *(() if site.is_binary else (site.levels or 1,)))
        averages = {name: np.zeros(shape, np.float32) for name in ("signal", "square")}
        if not self.learned or site.num_features is None:
            return {}, averages
        size, width = int(np.prod(shape, dtype=int)), site.num_features
        first = rng.standard_normal((width, self.hidden)) / np.sqrt(width)
        weights = {
            "first.weight": first.astype(np.float32),
            "first.bias": np.zeros(self.hidden, np.float32),
            "second.weight": np.zeros((self.hidden, 2 * size), np.float32),
            "second.bias": np.zeros(2 * size, np.float32),
        }
        return weights, averages

    def judge(  # type: ignore[override]
        self, xp: Namespace, signal: Piece, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[Array, Array | None]:
        """See `Baseline.judge`; `signal` is a `Piece`."""
        seen, of_all = averages["square"] > _LITTLE, xp.sum(averages["square"])
        pooled = xp.sum(averages["signal"]) / xp.where(of_all > _LITTLE, of_all, xp.ones_like(of_all))
        ratio = averages["signal"] / xp.where(seen, averages["square"], xp.ones_like(averages["square"]))
        base = xp.where(seen, ratio, pooled + 0.0 * ratio)  # a level that never came up: what the others expect
        if not weights:
            return base, None
        hidden = xp.tanh(xp.matmul(inputs, weights["first.weight"]) + weights["first.bias"])
        both = xp.matmul(hidden, weights["second.weight"]) + weights["second.bias"]
        size = both.shape[-1] // 2
        shape = (*both.shape[:-1], *averages["signal"].shape)
        above, below = xp.reshape(both[..., :size], shape), xp.reshape(xp.softplus(both[..., size:]), shape)
        spread = 1.0 + xp.mean(abs(base))
        target = xp.stop_gradient((signal.signal - base) * signal.square / spread)
        loss = xp.mean((above - target) ** 2) + xp.mean((below - signal.square) ** 2)
        return base + spread * above / (below + 0.01), loss  # 0.01: what is almost certain keeps the running averages'

    def update(self, xp: Namespace, signals: Sequence[Piece], averages: Arrays) -> Arrays:  # type: ignore[override]
        """See `Baseline.update`; `signals` are `Piece`s."""
        new = {name: 0.0 * value for name, value in averages.items()}
        for piece in signals:
            for name, value in (("signal", piece.signal * piece.square), ("square", piece.square)):
                outer = tuple(range(value.ndim - new[name].ndim))
                new[name] = new[name] + (xp.mean(value, axis=outer) if outer else value) / len(signals)
        return {name: self.decay * averages[name] + (1 - self.decay) * new[name] for name in averages}


def components(view: View, run: Run, signal: Array) -> Piece:
    """A particle's signal, score and logits by component."""
    xp, masses = view.xp, run.masses[view.site.name]()
    value, wide = run.values[view.site.name], view.expand(signal)
    if view.site.is_binary:
        logits = masses[..., 1] - masses[..., 0]
        score = xp.stop_gradient(xp.astype(value, logits.dtype) - xp.sigmoid(logits))
        square = score**2
    else:  # log masses add up to one: their score is centred, though log q's derivative by them is the indicator
        logits, wide = masses, wide[..., None]
        square = xp.astype(xp.one_hot(value, logits.shape[-1]), logits.dtype)
        score = xp.stop_gradient(square - xp.exp(logits))
    return Piece(wide + 0.0 * score, score, square, logits)


def by_component(view: View, pieces: Sequence[Piece], gaps: Sequence[Array]) -> Array:
    """Sum over particles of (signal - baseline) times score, on the logits."""
    xp = view.xp
    terms = [xp.sum(xp.stop_gradient(g * p.score) * p.logits) for p, g in zip(pieces, gaps, strict=True)]
    return view.share * total(terms)
