"""RELAX: a control variate that is learned freely."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ppl_gen.estimators.base import Arrays, Start, View
from ppl_gen.estimators.baselines import MovingAverage
from ppl_gen.estimators.rebar import Rebar
from ppl_gen.estimators.relaxed import Noisy, units
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array


class Relax(Rebar):
    r"""REBAR's estimator with :math:`\eta c(z) + r(z)` in the place of c, where r is a small network.

    The network sees the noisy log masses z and the site's own distribution parameters; it is trained, as the
    coefficient, to make the squared gradient small, for which its slope along z is written out. Where the program
    passes no derivative between the site's values (categorical sites; a cost with jumps) the network is all there is.

    Args:
        hidden: width of the network's one hidden layer.
        temperature: of the relaxed value in c, positive.
        coefficient: where the learned multiple of c starts.
        decay: of the running mean and standard deviation in whose units the network answers.

    Source: Grathwohl et al. 2018.

    Example:
        >>> Relax(hidden=32).hidden
        32
    """

    needs = "a binary or categorical site; one of a derivative between its values helps"
    source = "Grathwohl et al. 2018"
    alone = True

    def __init__(
        self, hidden: int = 32, temperature: float = 0.5, coefficient: float = 1.0, decay: float = 0.95
    ) -> None:
        super().__init__(temperature, coefficient)
        self.hidden, self.decay = hidden, decay

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if not site.is_choice:
            return "its elements are neither binary nor categorical"
        if site.is_categorical and site.size is None:
            return "one event has more than 16 categorical elements"
        return None

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        return 2 if site.is_binary else 1

    def start(self, site: Site, rng: np.random.Generator) -> tuple[Start, Start]:
        """See `Estimator.start`."""
        elements = math.prod(site.event_shape)
        levels = 2 if site.is_binary else round((site.size or 1) ** (1 / elements))
        weights = {
            **super().start(site, rng)[0],
            "first.weight": _matrix(rng, elements * levels, self.hidden),
            "first.bias": np.zeros(self.hidden, np.float32),
            "second.weight": np.zeros((self.hidden, 1), np.float32),
            "second.bias": np.zeros(1, np.float32),
        }
        if site.num_features is not None:
            weights["inputs.weight"] = _matrix(rng, site.num_features, self.hidden)
        return weights, MovingAverage(self.decay).start(site, rng)[1]

    def control(self, view: View, particle: int, noisy: Noisy) -> tuple[Array, Array, Array]:
        """See `Rebar.control`."""
        free, along = self._network(view, particle, noisy.values)
        mean, spread = units(view.xp, view.averages)
        more, of_more = mean + spread * free, spread * along
        if not view.relaxable:
            return view.signal(particle), more, of_more
        rest, _, slope = super().control(view, particle, noisy)
        return rest, more, slope + of_more

    def update(self, view: View, rests: list[Array]) -> Arrays:
        """See `Rebar.update`."""
        return MovingAverage(self.decay).update(view.xp, rests, view.averages)

    def _network(self, view: View, particle: int, values: Array) -> tuple[Array, Array]:
        """(output per event, its derivative by the noisy log masses, of which only differences count)."""
        xp, weights, number = view.xp, view.weights, len(view.site.event_shape) + 1
        centred = values - xp.mean(values, axis=-1, keepdims=True)
        flat = xp.reshape(centred, (*values.shape[:-number], -1))
        before = xp.matmul(flat, weights["first.weight"]) + weights["first.bias"]
        if "inputs.weight" in weights:
            before = before + xp.matmul(view.runs[particle].inputs[view.site.name], weights["inputs.weight"])
        hidden = xp.tanh(before)
        output = (xp.matmul(hidden, weights["second.weight"]) + weights["second.bias"])[..., 0]
        back = xp.matmul((1 - hidden**2) * weights["second.weight"][..., 0], weights["first.weight"].T)
        along = xp.reshape(back, values.shape)
        return output, along - xp.mean(along, axis=-1, keepdims=True)


def _matrix(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float64] = rng.standard_normal((rows, columns)) / np.sqrt(rows)
    return scaled.astype(np.float32)
