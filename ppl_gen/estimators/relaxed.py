"""Real numbers in the place of finite values: noisy log masses, their largest, and what lies between."""

from __future__ import annotations

from typing import NamedTuple

from ppl_gen.estimators.base import Arrays, View
from ppl_gen.estimators.pathwise import Pathwise
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array, Namespace


def refuse_not_relaxable(site: Site, facts: Facts) -> str | None:
    """Why the program has no derivative between a site's values."""
    if site.support != "finite":
        return "only a binary site has a relaxed value, and its support is not finite"
    if not site.is_binary:
        return "its value is an index, and nothing lies between two of them"
    if site.name in facts.relaxable:
        return None
    where = facts.jump(site.name) or facts.eager or "convert"
    place = "" if "convert" in where else f": the cost jumps at {where}"  # an integer made real is no jump
    return f"no derivative passes between its values{place}"


def refuse_not_followed(site: Site, facts: Facts) -> str | None:
    """Why a derivative at a relaxed value would miss some way by which the value moves the cost."""
    why = refuse_not_relaxable(site, facts)
    if why is not None:
        return why
    for role, name in facts.downstream(site.name):
        if role != "guide" or name == site.name or name in facts.relaxable:
            continue
        why = Pathwise().refusal(facts.sites[role, name], facts, 1)
        if why is not None:
            return f"its value moves site '{name}', through which no derivative passes, as {why}"
    return None


def relaxed(xp: Namespace, masses: Array, noise: Array, temperature: float) -> Array:
    """A binary site's value between 0 and 1, from its log masses and uniform noise, both (..., 2)."""
    noise = noise[..., 1]
    logistic = xp.log(noise + 1e-7) - xp.log(1 - noise + 1e-7)
    return xp.sigmoid((masses[..., 1] - masses[..., 0] + logistic) / temperature)


class Noisy(NamedTuple):
    """A draw's log masses plus Gumbel noise; the largest is the value. All are (..., levels), without gradient.

    Attributes:
        values: log masses plus noise.
        taken: one at the value.
        ratio: exp(values - the largest).
    """

    values: Array
    taken: Array
    ratio: Array


def noisy_masses(view: View, particle: int, masses: Array) -> Noisy:
    r"""Noise that the particle's value may have come from, drawn given the value b.

    With v uniform and p the masses: :math:`z_b = -\log(-\log v_b)`, the others
    :math:`z_i = -\log(-\log v_i / p_i - \log v_b)`. At fixed v their derivative by :math:`\log p_i` is
    :math:`1 - \exp(z_i - z_b)`; that of a draw not held to its value is 1. So `ratio` is what is left of a derivative
    along z when its conditional part is taken off, at one z for both.
    """
    xp = view.xp
    masses = xp.stop_gradient(masses)
    masses = xp.where(masses > -60.0, masses, xp.zeros_like(masses) - 60.0)  # a level without mass is never taken
    taken = xp.astype(xp.one_hot(view.runs[particle].values[view.site.name], masses.shape[-1]), masses.dtype)
    waits = -xp.log(view.uniform(particle, masses))
    first = xp.sum(taken * waits, axis=-1, keepdims=True)
    times = first + (1 - taken) * waits * xp.exp(-masses)
    return Noisy(-xp.log(times), taken, first / times)


def relaxed_slope(view: View, particle: int, noisy: Noisy, temperature: float) -> tuple[Array, Array]:
    """(signal of a binary site's relaxed value, its derivative by the noisy log masses)."""
    odds = noisy.values[..., 1] - noisy.values[..., 0]
    place = view.xp.sigmoid(odds / temperature)
    signal, slope = view.slope(particle, place)
    slope = slope * place * (1 - place) / temperature
    return signal, view.xp.stack([-slope, slope], axis=-1)


def fold(view: View, array: Array, signal: Array) -> Array:
    """An array shaped like the site's value, summed over what is one element to the signal."""
    number = len(view.site.event_shape)
    if number:
        array = view.xp.sum(array, axis=tuple(range(-number, 0)))
    meets = [d for d in range(-array.ndim, 0) if d < -signal.ndim or signal.shape[d] == 1]
    meets = [d for d in meets if array.shape[d] != 1]
    return view.xp.sum(array, axis=tuple(meets), keepdims=True) if meets else array


def squared_length(xp: Namespace, gradient: Array, masses: Array) -> Array:
    """Mean over elements of the squared gradient by the logits, from one by the log masses (without gradient)."""
    masses = xp.stop_gradient(masses)
    by_logits = gradient - xp.exp(masses) * xp.sum(gradient, axis=-1, keepdims=True)
    return xp.mean(xp.sum(by_logits**2, axis=-1))


def units(xp: Namespace, averages: Arrays) -> tuple[Array, Array]:
    """(mean, standard deviation) of what a `MovingAverage` has seen; 0 and 1 at first."""
    one = xp.ones_like(averages["mass"])
    mass = xp.where(averages["mass"] > 0, averages["mass"], one)
    mean = averages["mean"] / mass
    variance = averages["square"] / mass - mean**2
    return mean, xp.sqrt(xp.where(variance > 1e-8, variance, one))
