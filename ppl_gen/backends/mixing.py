"""Do the elements of a plate move one another's densities? Change some and look at the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ppl_gen.program import Site, Term

Values = Mapping[str, tuple[np.ndarray, Sequence[np.ndarray]]]
Probe = Callable[[dict[str, np.ndarray]], dict[Term, np.ndarray]]
Mixes = frozenset[tuple[str, Term, str]]


def find_mixes(sites: Mapping[Term, Site], values: Values, densities: Probe) -> Mixes:
    """(latent, term, plate) for every term of which an element moves with another element of the latent.

    Two questions, for the first and the last element of each plate. Does a change of this element alone move the
    others' densities? Does a change of all others move this one's? The second finds what a single element seldom
    tips over, such as a sum held against a bound.

    Args:
        sites: all sites.
        values: latent -> (its value, other values: extreme ones where the support has any, and draws).
        densities: given some latents' values, the rest being kept, each term's density elements and weights.
    """
    latents = {name: sites["guide", name] for name in values}
    found: set[tuple[str, Term, str]] = set()
    base: dict[Term, np.ndarray] = {}
    for plate in sorted({plate for site in latents.values() for plate in site.plates}):
        members = [name for name, site in latents.items() if plate in site.plates and _length(site, plate) > 1]
        base = base or (densities({}) if members else {})
        for change in _changes(values, latents, members, plate):
            if not change.moved(sites, base, densities(change.values)):
                continue
            for name in members:  # which of them was it?
                alone = densities({name: change.values[name]})
                found |= {(name, term, plate) for term in change.moved(sites, base, alone)}
    return frozenset(found)


def mixes_all(sites: Mapping[Term, Site], latents: Iterable[str]) -> Mixes:
    """What must be assumed of latents that left the array library: they move every element of what follows."""
    return frozenset(
        (name, term, plate)
        for name in latents
        if ("guide", name) in sites
        for term, site in sites.items()
        if name in site.reach
        for plate in sites["guide", name].plates
    )


class _Change:
    """New values for some elements along a plate, and which elements to watch meanwhile."""

    def __init__(self, values: dict[str, np.ndarray], plate: str, element: int, watch_element: bool) -> None:
        self.values, self.plate, self.element, self.watch_element = values, plate, element, watch_element

    def moved(self, sites: Mapping[Term, Site], base: Mapping[Term, np.ndarray], now: Mapping[Term, np.ndarray]) -> list[Term]:
        """Terms that differ where they should not."""
        terms = []
        for term, before in base.items():
            dim = sites[term].plates.get(self.plate)
            if dim is None or before.ndim <= -dim or before.shape != now[term].shape:
                continue
            with np.errstate(invalid="ignore"):
                differs = np.abs(now[term] - before) > 1e-6 * (1 + np.abs(before))
            differs |= np.isfinite(before) != np.isfinite(now[term])
            watched = np.take(differs, self.element, dim) if self.watch_element else np.delete(differs, self.element, dim)
            if watched.any():
                terms.append(term)
        return terms


def _changes(values: Values, latents: Mapping[str, Site], members: list[str], plate: str) -> list[_Change]:
    if not members:
        return []
    num_others = max(len(values[name][1]) for name in members)
    changes = []
    for element in (0, -1):
        for number in range(num_others):
            inside, outside = {}, {}
            for name in members:
                value, others = values[name]
                other = np.broadcast_to(others[number % len(others)], value.shape)
                axis = latents[name].plates[plate] - len(latents[name].event_shape)
                inside[name] = _exchange(value, other, axis, element)
                outside[name] = _exchange(other, value, axis, element)
            changes.append(_Change(outside, plate, element, watch_element=True))
            if number == 0:
                changes.append(_Change(inside, plate, element, watch_element=False))
    return changes


def _length(site: Site, plate: str) -> int:
    dim = site.plates[plate]
    return site.batch_shape[dim] if len(site.batch_shape) >= -dim else 1


def _exchange(value: np.ndarray, other: np.ndarray, axis: int, element: int) -> np.ndarray:
    """`value`, but `other` at `element` along `axis`."""
    changed = np.moveaxis(value.copy(), axis, 0)
    changed[element] = np.moveaxis(other, axis, 0)[element]
    return np.moveaxis(changed, 0, axis)
