"""Do the elements of a plate move one another's densities? Change some and look at the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from ppl_gen.program import Site, Term

Values = Mapping[str, tuple[np.ndarray, Sequence[np.ndarray]]]
Probe = Callable[[dict[str, np.ndarray]], dict[Term, np.ndarray]]
Mixes = frozenset[tuple[str, Term, str]]


def find_mixes(sites: Mapping[Term, Site], values: Values, densities: Probe) -> Mixes:
    """(latent, term, plate) for every term of which an element moves with another element of the latent.

    Two questions, for the first and the last element of each plate. Does a change of this element alone move the
    others' densities? Held at one value and then at another, is this one's density moved by a change of all others?
    The second finds what a single element seldom tips over, such as a sum held against a bound.

    Args:
        sites: all sites.
        values: latent, or site that is summed out -> (its value, other values: extreme ones where the support has
            any, and draws).
        densities: given some latents' values, the rest being kept, each term's density elements and weights.
    """
    latents = {name: sites.get(("guide", name)) or sites["model", name] for name in values}
    found: set[tuple[str, Term, str]] = set()
    for plate in sorted({plate for site in latents.values() for plate in site.plates}):
        members = [name for name, site in latents.items() if plate in site.plates and _length(site, plate) > 1]
        for before, after, watch in _changes(values, latents, members, plate) if members else ():
            start = densities(before)
            if not _moved(sites, start, densities(after), plate, watch):
                continue
            for name in members:  # which of them was it?
                alone = densities(before | {name: after[name]})
                found |= {(name, term, plate) for term in _moved(sites, start, alone, plate, watch)}
    return frozenset(found)


def mixes_all(sites: Mapping[Term, Site], latents: Iterable[str]) -> Mixes:
    """What must be assumed of latents that left the array library: they move every element of what follows."""
    own = {name: sites.get(("guide", name)) or sites.get(("model", name)) for name in latents}
    return frozenset(
        (name, term, plate)
        for name, latent in own.items()
        if latent is not None
        for term, site in sites.items()
        if name in site.reach
        for plate in latent.plates
    )


def _moved(
    sites: Mapping[Term, Site],
    before: Mapping[Term, np.ndarray],
    after: Mapping[Term, np.ndarray],
    plate: str,
    watch: Callable[[np.ndarray, int], np.ndarray],
) -> list[Term]:
    """Terms of which a watched element along `plate` differs."""
    terms = []
    for term, old in before.items():
        dim, new = sites[term].plates.get(plate), after[term]
        if dim is None or old.ndim <= -dim or old.shape != new.shape:
            continue
        with np.errstate(invalid="ignore"):
            differs = np.abs(new - old) > 1e-6 * (1 + np.abs(old))
        differs |= np.isfinite(old) != np.isfinite(new)
        if watch(differs, dim).any():
            terms.append(term)
    return terms


def _changes(
    values: Values, latents: Mapping[str, Site], members: list[str], plate: str
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray], Callable[[np.ndarray, int], np.ndarray]]]:
    """(values before, values after, the elements that should not have moved)."""
    axes = {name: latents[name].plates[plate] - len(latents[name].event_shape) for name in members}
    present = {name: values[name][0] for name in members}
    variants = [
        {name: np.broadcast_to(values[name][1][number % len(values[name][1])], present[name].shape) for name in members}
        for number in range(max(len(values[name][1]) for name in members))
    ]

    def at(element: int, there: Mapping[str, np.ndarray], elsewhere: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: _exchange(elsewhere[name], there[name], axes[name], element) for name in members}

    for element in (0, -1):
        yield present, at(element, variants[0], present), _others(element)
        for own in (present, variants[0]):
            for rest in variants:
                yield at(element, own, present), at(element, own, rest), _one(element)


def _one(element: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda differs, dim: np.take(differs, element, dim)


def _others(element: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda differs, dim: np.delete(differs, element, dim)


def _length(site: Site, plate: str) -> int:
    dim = site.plates[plate]
    return site.batch_shape[dim] if len(site.batch_shape) >= -dim else 1


def _exchange(value: np.ndarray, other: np.ndarray, axis: int, element: int) -> np.ndarray:
    """`value`, but `other` at `element` along `axis`."""
    changed = np.moveaxis(value.copy(), axis, 0)
    changed[element] = np.moveaxis(other, axis, 0)[element]
    return np.moveaxis(changed, 0, axis)
