"""What stands around a Pyro distribution: which elements its masks leave out, whether its values are checked."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Independent

from ppl_gen.backends.interface import Distribution
from ppl_gen.backends.wrappers import Wrappers

WRAPPERS = Wrappers(dist.MaskedDistribution, Independent, dist.ExpandedDistribution)
named, unmasked, is_unchecked = WRAPPERS.named, WRAPPERS.unmasked, WRAPPERS.is_unchecked


def counted(distribution: Distribution, mask: Tensor | bool | None) -> Tensor | bool:
    """Which elements count, so as to broadcast with batch shape + event shape: those that no mask leaves out.

    Args:
        distribution: which may hold masks of its own.
        mask: of the handlers around the site.
    """
    counts = _per_event(mask, distribution)
    while isinstance(distribution, WRAPPERS.all):
        if isinstance(distribution, dist.MaskedDistribution):
            counts = _both(counts, _per_event(distribution._mask, distribution))
        distribution = distribution.base_dist
    return counts


def leaves_out_nan(distribution: Distribution) -> bool:
    """Whether the distribution itself takes NaN for what was not observed."""
    return isinstance(named(distribution), dist.NanMaskedNormal | dist.NanMaskedMultivariateNormal)


def _per_event(mask: Tensor | bool | None, distribution: Distribution) -> Tensor | bool:
    if isinstance(mask, Tensor):
        return mask.reshape(mask.shape + (1,) * len(distribution.event_shape)).bool()
    return mask is not False


def _both(one: Tensor | bool, other: Tensor | bool) -> Tensor | bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return (one if other else False) if isinstance(other, bool) else (other if one else False)
    return one & other
