"""The baseline of least variance, component by component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.estimators.base import Array, Arrays, Baseline, View
from ppl_gen.program import Run, Site


class Piece(NamedTuple):
    """One particle's part in the gradient of a binary or categorical site's logits; arrays (..., components).

    Attributes:
        signal: nats, the same for all components of an event.
        score: derivative of log q by each logit.
        logits: live.
    """

    signal: Array
    score: Array
    logits: Array


class Optimal(Baseline):
    r"""For each component of the logits the constant that leaves the least variance.

    :math:`b_i = E[f s_i^2] / E[s_i^2]` with :math:`s_i = \partial \log q / \partial w_i` (eq. 20.68). The w are
    the logits of a binary or categorical site. Where these are the parameters themselves this is the equation; where
    a network makes them it is the best constant for each of its outputs. Elements of a plate share it.

    Args:
        learned: predict both expectations from the site's own guide distribution parameters, by two regressions;
            otherwise they are running averages, used before they are updated.
        decay: of the running averages.
        hidden: width of the regressions' hidden layer.

    Source: book eq. 20.68-20.69; Weaver & Tao 2001.

    Example:
        >>> Optimal()
        Optimal(learned=False)
    """

    by_component = True

    def __init__(self, learned: bool = False, decay: float = 0.99, hidden: int = 64) -> None:
        self.learned, self.decay, self.hidden = learned, decay, hidden

    def __repr__(self) -> str:
        return f"Optimal(learned={self.learned})"

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        """See `Baseline.start`."""
        shape = (*site.event_shape, *(() if site.distribution == "Bernoulli" else (site.size or 1,)))
        if site.distribution == "Categorical" and site.event_shape:
            shape = (*site.event_shape, round((site.size or 1) ** (1 / np.prod(site.event_shape))))
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

    def judge(
        self, xp: Any, signal: Any, inputs: Array | None, weights: Arrays, averages: Arrays
    ) -> tuple[Array, Array | None]:
        """See `Baseline.judge`; `signal` is a `Piece`."""
        square_mean = averages["square"]
        base = averages["signal"] / xp.where(square_mean > 1e-12, square_mean, xp.ones_like(square_mean))
        if not weights:
            return base, None
        hidden = xp.tanh(xp.matmul(inputs, weights["first.weight"]) + weights["first.bias"])
        both = xp.matmul(hidden, weights["second.weight"]) + weights["second.bias"]
        size = both.shape[-1] // 2
        shape = (*both.shape[:-1], *averages["signal"].shape)
        above, below = xp.reshape(both[..., :size], shape), xp.reshape(xp.softplus(both[..., size:]), shape)
        square = xp.stop_gradient(signal.score) ** 2
        spread = 1.0 + xp.mean(abs(base))
        target = xp.stop_gradient((signal.signal - base) * square / spread)
        loss = xp.mean((above - target) ** 2) + xp.mean((below - square) ** 2)
        return base + spread * above / (below + 0.01), loss

    def update(self, xp: Any, signals: Sequence[Any], averages: Arrays) -> Arrays:
        """See `Baseline.update`; `signals` are `Piece`s."""
        new = {name: 0.0 * value for name, value in averages.items()}
        for piece in signals:
            square = xp.stop_gradient(piece.score) ** 2
            for name, value in (("signal", piece.signal * square), ("square", square)):
                outer = tuple(range(value.ndim - new[name].ndim))
                new[name] = new[name] + (xp.mean(value, axis=outer) if outer else value) / len(signals)
        return {name: self.decay * averages[name] + (1 - self.decay) * new[name] for name in averages}


def components(view: View, run: Run, signal: Array) -> Piece:
    """A particle's signal, score and logits by component."""
    xp, masses = view.xp, run.masses[view.site.name]()
    value: Any = run.values[view.site.name]
    wide: Any = view.expand(signal)
    if view.site.distribution == "Bernoulli":
        logits = masses[..., 1] - masses[..., 0]  # type: ignore[index]
        score = xp.astype(value, logits.dtype) - xp.sigmoid(logits)
    else:
        logits, wide = masses, wide[..., None]
        score = xp.astype(xp.one_hot(value, logits.shape[-1]), logits.dtype) - xp.exp(logits)  # type: ignore[attr-defined]
    score = xp.stop_gradient(score)
    return Piece(wide + 0.0 * score, score, logits)


def by_component(view: View, pieces: Sequence[Piece], gaps: Sequence[Array]) -> Array:
    """Sum over particles of (signal - baseline) times score, on the logits."""
    xp = view.xp
    terms = [xp.sum(xp.stop_gradient(g * p.score) * p.logits) for p, g in zip(pieces, gaps, strict=True)]
    return view.share * sum(terms[1:], terms[0])
