"""Do the elements of a plate move one another's densities? Change some and look at the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from ppl_gen.program import Site, Term

Values = Mapping[str, tuple[np.ndarray, Sequence[np.ndarray]]]
Probe = Callable[[dict[str, np.ndarray]], dict[Term, np.ndarray]]
TRIALS = 24
Mixes = frozenset[tuple[str, Term, str]]


def find_mixes(sites: Mapping[Term, Site], values: Values, densities: Probe) -> Mixes:
    """(latent, term, plate) for every term of which an element moves with another element of the latent.

    Does a change of some elements move the others' densities? Asked of `TRIALS` random subsets, from random values: any
    two elements are told apart by half of them. And for the first and the last element of each plate: held at one value
    and then at another, is its density moved by a change of all others? That finds what few elements seldom tip over,
    such as a sum held against a bound. Strong questions, but no proof.

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

    def at(
        some: np.ndarray, there: Mapping[str, np.ndarray], elsewhere: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        return {name: _exchange(elsewhere[name], there[name], axes[name], some) for name in members}

    length = present[members[0]].shape[axes[members[0]]]
    ends: list[np.ndarray] = [np.equal(np.arange(length), place) for place in (0, length - 1)]
    for one in ends:
        for own in (present, variants[0]):
            for rest in variants:
                yield at(one, own, present), at(one, own, rest), _watch(one)
    rng = np.random.default_rng(0)
    for number in range(TRIALS):
        some = ends[number] if number < 2 else rng.permuted(np.arange(length) < max(1, length // 2))
        start: dict[str, np.ndarray] = dict(present)
        for other in variants if number % 2 else ():
            start = at(rng.permuted(np.arange(length) < length // 2), other, start)
        yield start, at(some, variants[number % len(variants)], start), _watch(~some)


def _watch(elements: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda differs, dim: np.compress(elements, differs, dim)


def _length(site: Site, plate: str) -> int:
    dim = site.plates[plate]
    return site.batch_shape[dim] if len(site.batch_shape) >= -dim else 1


def _exchange(value: np.ndarray, other: np.ndarray, axis: int, some: np.ndarray) -> np.ndarray:
    """`value`, but `other` at the elements `some` along `axis`."""
    changed = np.moveaxis(value.copy(), axis, 0)
    changed[some] = np.moveaxis(other, axis, 0)[some]
    return np.moveaxis(changed, 0, axis)
