"""Measure-valued derivatives: a difference of two expectations for every parameter of every element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ppl_gen.estimators.base import Estimate, Estimator, View, refuse_meeting, refuse_own_noise
from ppl_gen.program import Facts, Run, Site
from ppl_gen.program.arrays import Array, total


class MeasureValued(Estimator):
    r"""The derivative of each element's law as a difference of two laws, from which the cost is sampled.

    Element by element, the others kept: binary and categorical elements take every level; a normal's mean takes a
    Rayleigh step up and down, its scale a Maxwell and a normal one; a Poisson count one more; a gamma value one
    exponential more for its rate, while its concentration goes by the score function. The cost may jump.

    Args:
        max_elements: of one event, that are still gone through.

    Source: Mohamed et al. 2020, section 6 and table 1; Heidergott et al. 2008.

    Example:
        >>> MeasureValued().unbiased
        True
    """

    unbiased = True
    needs = "Bernoulli, Categorical, Normal, Poisson or Gamma elements that do not meet those of their plate"
    source = "Mohamed et al. 2020"
    cuts = True
    alone = True
    side_by_side = True

    def __init__(self, max_elements: int = 16) -> None:
        self.max_elements = max_elements

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if facts.noise:
            return refuse_own_noise(facts)
        if site.distribution not in _RULES:
            return f"no measure-valued derivative of {site.distribution} is known here"
        if site.moving:
            return "its support moves with what is learned"
        if math.prod(site.event_shape) > self.max_elements:
            return f"one event has {math.prod(site.event_shape)} elements, more than max_elements={self.max_elements}"
        return refuse_meeting(site, facts)

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        elements = math.prod(site.event_shape)
        return 1 + elements * (_RULES[site.distribution].runs or site.levels or 1)

    def estimate(self, view: View) -> Estimate:
        """See `Estimator.estimate`."""
        rule = _RULES[view.site.distribution]
        terms = [rule.surrogate(_Lanes(view, k, run)) for k, run in enumerate(view.runs)]
        return Estimate(view.share * total(terms), None, view.averages)


class _Lanes:
    """One particle's value, and the signal with single elements of its events replaced."""

    def __init__(self, view: View, particle: int, run: Run) -> None:
        self.view, self.xp, self.particle = view, view.xp, particle
        name, shape = view.site.name, view.site.event_shape
        self.value, self.masses, self.parameters = run.values[name], run.masses[name], run.parameters[name]
        numbers = self.xp.arange(math.prod(shape))
        self.masks = [self.xp.reshape(numbers == lane, shape) if shape else None for lane in range(math.prod(shape))]

    def here(self) -> Array:
        """The signal of the value itself."""
        return self.view.expand(self.view.signal(self.particle)) + 0.0 * self.value

    def signal(self, mask: Array | None, there: Array) -> Array:
        """The signal with the lane's elements as they are in `there`, both shaped like a value."""
        there = self.xp.astype(there + 0 * self.value, self.value.dtype)
        changed = there if mask is None else self.xp.where(mask, there, self.value)
        return self.view.expand(self.view.signal(self.particle, self.view.again(self.particle, changed)))

    def gather(self, slope: Callable[[Array | None], Array]) -> Array:
        """Every lane's slope at its own place, shaped like a value."""
        lanes = [(mask, slope(mask)) for mask in self.masks]
        own = [found if mask is None else self.xp.where(mask, found, 0.0 * found) for mask, found in lanes]
        return self.xp.stop_gradient(total(own))


def _levels(lanes: _Lanes) -> Array:
    """Sum over levels of the signal there times the level's live probability."""
    xp, masses = lanes.xp, lanes.masses()

    def of(level: int) -> Array:
        signals = lanes.gather(lambda mask: lanes.signal(mask, level + 0 * lanes.value))
        return xp.sum(signals * xp.exp(masses[..., level]))

    return total([of(level) for level in range(masses.shape[-1])])


def _normal(lanes: _Lanes) -> Array:
    xp, loc, scale = lanes.xp, lanes.parameters()["loc"], lanes.parameters()["scale"]
    radius, spread, turn, length, share = (
        lanes.view.uniform(lanes.particle, 0.0 * lanes.value + scale) for _ in range(5)
    )
    rayleigh = scale * xp.sqrt(-2.0 * xp.log(radius))
    across = xp.cos(2.0 * math.pi * turn)
    maxwell = xp.sqrt(-2.0 * xp.log(length) - 2.0 * xp.log(spread) * across**2)
    maxwell = scale * xp.where(across > 0, maxwell, -maxwell)  # on both sides; times a uniform it is normal

    def of_loc(mask: Array | None) -> Array:
        gap = lanes.signal(mask, loc + rayleigh) - lanes.signal(mask, loc - rayleigh)
        return gap / (scale * math.sqrt(2.0 * math.pi))

    def of_scale(mask: Array | None) -> Array:
        return (lanes.signal(mask, loc + maxwell) - lanes.signal(mask, loc + share * maxwell)) / scale

    return xp.sum(lanes.gather(of_loc) * loc) + xp.sum(lanes.gather(of_scale) * scale)


def _poisson(lanes: _Lanes) -> Array:
    slopes = lanes.gather(lambda mask: lanes.signal(mask, lanes.value + 1) - lanes.here())
    return lanes.xp.sum(slopes * lanes.parameters()["rate"])


def _gamma(lanes: _Lanes) -> Array:
    xp, shape, rate = lanes.xp, lanes.parameters()["concentration"], lanes.parameters()["rate"]
    still = xp.stop_gradient(rate)
    more = lanes.value - xp.log(lanes.view.uniform(lanes.particle, lanes.value)) / still
    slopes = lanes.gather(lambda mask: shape / rate * (lanes.here() - lanes.signal(mask, more)))
    log_density = shape * xp.log(still) - xp.lgamma(shape) + (shape - 1.0) * xp.log(lanes.value)
    return xp.sum(slopes * rate) + xp.sum(xp.stop_gradient(lanes.here()) * log_density)


class _Rule(NamedTuple):
    """One law's derivative: the particle's surrogate, and the runs that an element takes; None: one for each level."""

    surrogate: Callable[[_Lanes], Array]
    runs: int | None


_RULES = {
    "Bernoulli": _Rule(_levels, None),
    "Categorical": _Rule(_levels, None),
    "Normal": _Rule(_normal, 4),
    "Poisson": _Rule(_poisson, 1),
    "Gamma": _Rule(_gamma, 1),
}
