"""What decides whether a log density is one of data: masks, scales, point masses. One text for both libraries' classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.backends.interface import Distribution, core_of
from ppl_gen.program import Facts, Term

ToHost = Callable[[Any], np.ndarray]


class Mask(NamedTuple):
    """Where a density counts.

    Attributes:
        counts: booleans, shaped like the batch and the `inner` dimensions, or broadcastable to that.
        inner: how many of its last dimensions are events made of single elements.
    """

    counts: np.ndarray
    inner: int

    def joined(self, outer: np.ndarray) -> Mask:
        """Together with a mask of the batch."""
        return Mask(self.counts & outer.astype(bool).reshape(outer.shape + (1,) * self.inner), self.inner)


def mask_of(distribution: Distribution, to_host: ToHost) -> Mask:
    """The mask inside a distribution; true everywhere where it has none."""
    wrapper: Any = distribution
    kind = type(wrapper).__name__
    if kind == "MaskedDistribution":
        return mask_of(wrapper.base_dist, to_host).joined(to_host(wrapper._mask))
    if kind == "Independent":
        found = mask_of(wrapper.base_dist, to_host)
        return Mask(found.counts, found.inner + wrapper.reinterpreted_batch_ndims)
    if kind == "ExpandedDistribution":
        return mask_of(wrapper.base_dist, to_host)
    return Mask(np.ones((), dtype=bool), 0)


def alike(one: Mask, other: Mask) -> bool:
    """Whether two masks are true at the same elements."""
    inner = max(one.inner, other.inner)
    wide = [m.counts.reshape(m.counts.shape + (1,) * (inner - m.inner)) for m in (one, other)]
    try:
        return bool((wide[0] == wide[1]).all())
    except ValueError:
        return False


def is_computed(distribution: Distribution, value: object, to_host: ToHost) -> bool:
    """Whether a site is a point mass on its very value, of no log density where it counts."""
    point = core_of(distribution)
    if type(point).__name__ != "Delta" or not _same(point.v, value):
        return False
    log_density = to_host(point.log_density)
    return not (log_density.any() and mask_of(distribution, to_host).counts.any())


def _same(one: object, other: object) -> bool:
    """Whether two arrays are one, or views of one."""
    if one is other:
        return True
    places = [getattr(array, "data_ptr", None) for array in (one, other)]
    return all(places) and places[0]() == places[1]()  # type: ignore[misc]


class Label(NamedTuple):
    """What one run shows of one site.

    Attributes:
        mask: where it counts.
        masked: whether the program masks it, be it by a mask that is true everywhere.
        scaled: whether a handler scales it beyond what its plates do.
        computed: see `ppl_gen.program.Site`.
    """

    mask: Mask
    masked: bool
    scaled: bool
    computed: bool


def labelled(facts: Facts, labels: Mapping[Term, Label]) -> Facts:
    """The facts with the labels of another run, whose batch may be masked and scaled otherwise."""
    sites = {
        term: replace(site, masked=found.masked, scaled=found.scaled, computed=found.computed)
        if (found := labels.get(term)) is not None
        else site
        for term, site in facts.sites.items()
    }
    both = [name for role, name in labels if role == "guide" and ("model", name) in labels]
    unlike = {name for name in both if not alike(labels["guide", name].mask, labels["model", name].mask)}
    return replace(facts, sites=sites, unlike_masks=frozenset(unlike))
