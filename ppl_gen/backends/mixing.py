"""Do the elements of a plate move one another's densities? Change one element and look."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ppl_gen.program import Site, Term

Values = Mapping[str, tuple[np.ndarray, np.ndarray]]
Probe = Callable[[dict[str, np.ndarray]], dict[Term, np.ndarray]]


def find_mixes(sites: Mapping[Term, Site], values: Values, densities: Probe) -> frozenset[tuple[str, Term, str]]:
    """(latent, term, plate) for every term of which other elements move than the one changed in the latent.

    Args:
        sites: all sites.
        values: latent -> (its value, another value that differs at every element).
        densities: given some latents' values, the others being kept, each term's density elements and weights.
    """
    latents = {name: sites["guide", name] for name in values}
    found: set[tuple[str, Term, str]] = set()
    base: dict[Term, np.ndarray] = {}
    for plate in sorted({plate for site in latents.values() for plate in site.plates}):
        members = [name for name, site in latents.items() if plate in site.plates and _length(site, plate) > 1]
        base = base or densities({})
        for element in (0, -1) if members else ():
            changed = {name: _exchange(values[name], latents[name], plate, element) for name in members}
            if not _moved(sites, base, densities(changed), plate, element):
                continue
            for name in members:
                moved = _moved(sites, base, densities({name: changed[name]}), plate, element)
                found |= {(name, term, plate) for term in moved}
    return frozenset(found)


def _length(site: Site, plate: str) -> int:
    dim = site.plates[plate]
    return site.batch_shape[dim] if len(site.batch_shape) >= -dim else 1


def _exchange(pair: tuple[np.ndarray, np.ndarray], site: Site, plate: str, element: int) -> np.ndarray:
    value, other = pair
    axis = site.plates[plate] - len(site.event_shape)
    changed = np.moveaxis(value.copy(), axis, 0)
    changed[element] = np.moveaxis(np.broadcast_to(other, value.shape), axis, 0)[element]
    return np.moveaxis(changed, 0, axis)


def _moved(
    sites: Mapping[Term, Site], base: Mapping[Term, np.ndarray], now: Mapping[Term, np.ndarray], plate: str, element: int
) -> list[Term]:
    """Terms of which elements other than `element` along `plate` differ."""
    terms = []
    for term, before in base.items():
        dim = sites[term].plates.get(plate)
        if dim is None or before.ndim <= -dim or before.shape != now[term].shape:
            continue
        with np.errstate(invalid="ignore"):
            differs = np.abs(now[term] - before) > 1e-6 * (1 + np.abs(before))
        differs |= np.isfinite(before) != np.isfinite(now[term])
        others = np.delete(differs, element, axis=dim)
        if others.any():
            terms.append(term)
    return terms
