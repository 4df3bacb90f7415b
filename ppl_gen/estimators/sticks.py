"""Binary and categorical values as chains of binary choices: level j is taken if no earlier one was."""

from __future__ import annotations

from typing import NamedTuple

from ppl_gen.estimators.base import View
from ppl_gen.program import Site
from ppl_gen.program.arrays import Array, Namespace


def refuse_not_stick(site: Site) -> str | None:
    """Why a site's elements cannot be seen as binary choices."""
    if not site.is_choice:
        return "its elements are neither binary nor categorical"
    return None


def sticks(xp: Namespace, masses: Array) -> Array:
    """Log-odds of taking each level, last first, given that none before was: (..., levels) to (..., levels - 1).

    The levels go from the last to the first, so that a binary site's one stick has its own logit.
    """
    levels = masses.shape[-1]
    rest = [masses[..., 0]]
    for level in range(1, levels - 1):
        rest.append(xp.logsumexp(xp.stack([rest[-1], masses[..., level]], axis=-1), axis=-1))
    odds = [masses[..., level] - rest[level - 1] for level in range(levels - 1, 0, -1)]
    return xp.stack(odds, axis=-1)


class Pair(NamedTuple):
    """Two coupled values of a site; the arrays but for `other` are (..., sticks).

    Attributes:
        other: the second value.
        first: the first value's binary choices.
        second: the second's.
        noise: uniform; choice = noise < sigmoid(logits), and for the second 1 - noise.
        matters: one where a choice can move either value.
    """

    other: Array
    first: Array
    second: Array
    noise: Array
    matters: Array


def antithetic(view: View, particle: int, logits: Array) -> Pair:
    """The particle's own value and one from the opposite noise, which is filled in from the value."""
    xp = view.xp
    logits = xp.stop_gradient(logits)
    value: Array = view.runs[particle].values[view.site.name]
    number = logits.shape[-1]
    place = number - xp.astype(value, logits.dtype)[..., None]  # the stick that is taken; `number`: none
    index = xp.arange(number, dtype=logits.dtype) + 0.0 * logits
    fresh, prob = view.uniform(particle, logits), xp.sigmoid(logits)
    taken = xp.astype(index == place, logits.dtype)
    free = xp.astype(index > place, logits.dtype)  # never looked at: any noise will do
    noise = free * fresh + taken * prob * fresh + (1 - free - taken) * (prob + (1 - prob) * fresh)
    first, second = (xp.astype(u < prob, logits.dtype) for u in (noise, 1 - noise))
    untaken = xp.cumulative_prod(1 - second, axis=-1)
    other_place = xp.sum(untaken, axis=-1)
    other = xp.astype(number - other_place, value.dtype)
    last = xp.where(place > other_place[..., None], place, other_place[..., None] + 0.0 * place)
    return Pair(other, first, second, noise, xp.astype(index <= last, logits.dtype))
