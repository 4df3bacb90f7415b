"""A Pyro distribution by numbers: its parameters as features, its masses, how far it is from another."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent
from torch.distributions.utils import lazy_property

from ppl_gen.backends.divergence import finite_divergence
from ppl_gen.backends.interface import Distribution
from ppl_gen.backends.torch.masks import named, unmasked
from ppl_gen.backends.torch.supports import num_values


def features(distribution: Distribution) -> Tensor | None:
    """The distribution's parameters as one detached array, batch shape + (features,); None where it has none.

    They are a help to baselines only: of a distribution whose parameters are shaped in a way of its own there are none.
    """
    try:
        return _features(distribution)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None


def _features(distribution: Distribution) -> Tensor | None:
    core, batch = unmasked(distribution), distribution.batch_shape
    while isinstance(core, Independent | dist.ExpandedDistribution):
        core = core.base_dist
    parts = []
    for name, constraint in core.arg_constraints.items():
        value = vars(core).get(name)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if isinstance(getattr(type(core), name, None), lazy_property) and value is not getattr(core, "_param", None):
            continue  # worked out later from what was given
        try:
            place = value.dim() - constraint.event_dim
        except NotImplementedError:  # a dependent constraint does not know
            continue
        event, full = value.shape[place:], torch.broadcast_shapes(core.batch_shape, value.shape[:place])
        wide = value.detach().expand(full + event)
        if full[: len(batch)] != batch:
            if full:
                continue
            wide = wide.expand(batch + event)
        parts.append(wide.reshape(batch + (-1,)))
    return torch.cat(parts, -1) if parts else None


def is_reparametrized(distribution: Distribution) -> bool:
    """Whether the distribution's own sampler passes the whole gradient; a rejection sampler's passes a part (Naesseth 2017)."""
    core = named(distribution)
    partial = isinstance(core, dist.Rejector) or "StraightThrough" in type(core).__name__
    return bool(distribution.has_rsample) and not partial


def log_masses(distribution: Distribution) -> Tensor:
    """Log probability of every value of a finite distribution's elements, batch + event + (levels,), nats.

    An element of a one-hot distribution is the whole of its innermost event.
    """
    core = named(distribution)
    masses = core.log_prob(core.enumerate_support(expand=False)).movedim(0, -1)
    shape = distribution.batch_shape + distribution.event_shape
    return masses.expand(shape[: len(shape) - len(core.event_shape)] + masses.shape[-1:])


def parameters(distribution: Distribution) -> dict[str, Tensor]:
    """A distribution's own scalar parameters by name, broadcast to batch + event."""
    core, shape = named(distribution), distribution.batch_shape + distribution.event_shape
    given = {name: vars(core).get(name) for name in core.arg_constraints}
    return {name: value.expand(shape) for name, value in given.items() if isinstance(value, Tensor)}


def divergence(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p), batch shape, nats; None where torch and Pyro know no formula."""
    if q.batch_shape != p.batch_shape or q.event_shape != p.event_shape:
        return None
    if isinstance(named(q), dist.Delta):  # the libraries' formula leaves out its log density
        return None
    kinds = {type(named(d)).__name__ for d in (q, p)}
    if kinds in ({"Bernoulli"}, {"Categorical"}) and num_values(q) == num_values(p):
        return finite_divergence(torch, log_masses(q), log_masses(p), len(q.event_shape))
    formula: Any = torch.distributions.kl_divergence
    try:
        return formula(q, p)
    except NotImplementedError:
        return None
