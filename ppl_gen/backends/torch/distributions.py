"""What a Pyro distribution is made of: its tensors, its parameters as features, its support."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, biject_to, constraints
from torch.distributions.utils import lazy_property

from ppl_gen.backends.held import CALLED, held, parts_of

LIBRARIES = ("torch", "pyro", "ppl_gen", "builtins", "collections", "weakref", "functools")
MOST_NUMBERS = 10**6  # in a list of all values of a finite support
_PLAIN = (str, bytes, int, float, bool, type(None), torch.Size, torch.dtype, torch.device)


def tensors(thing: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor inside a distribution, transform, constraint or container, each once."""
    seen = set() if seen is None else seen
    if isinstance(thing, _PLAIN) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, torch.nn.Module):
        yield from (*thing.parameters(), *thing.buffers())
        for module in thing.modules():
            yield from (value for value in vars(module).values() if isinstance(value, Tensor))
    elif isinstance(thing, dict):
        for name, value in thing.items():
            if name != "_proposal_r":  # part of von Mises's sampler, not of its density
                yield from tensors(value, seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for value in thing:
            yield from tensors(value, seen)
    elif not isinstance(thing, type) and hasattr(thing, "__dict__"):
        yield from tensors(vars(thing), seen)


def held_tensors(distribution: Any) -> list[Tensor]:
    """The tensors that functions inside a distribution hold (a conditioned flow's context)."""
    return [tensor for part in held(distribution, Tensor) for tensor in tensors(part)]


@contextmanager
def untouched(distribution: Any) -> Iterator[None]:
    """Whatever a distribution keeps of what is worked out inside (probabilities from logits, say), it forgets again."""
    parts = list(_parts(distribution, set()))
    before = [dict(vars(part)) for part in parts]
    try:
        yield
    finally:
        for part, state in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(state)


def _parts(thing: Any, seen: set[int]) -> Iterator[Any]:
    """The distributions, transforms and constraints that a distribution is made of, itself too."""
    if isinstance(thing, _PLAIN) or isinstance(thing, Tensor | type) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, list | tuple):
        for value in thing:
            yield from _parts(value, seen)
    elif isinstance(thing, torch.distributions.Distribution | torch.distributions.Transform):
        yield thing
        for value in list(vars(thing).values()):
            yield from _parts(value, seen)


def is_users(distribution: Any) -> bool:
    """Whether a class, network or function that is neither torch's nor Pyro's has a part in how it draws."""
    return any(home.partition(".")[0] not in LIBRARIES for home in _homes(distribution, set()))


def _homes(thing: Any, seen: set[int]) -> Iterator[str]:
    """The modules that the distributions, transforms, networks and functions inside something are from."""
    if isinstance(thing, (*_PLAIN, Tensor, type, constraints.Constraint)) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, dict | list | tuple):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from _homes(value, seen)
    elif isinstance(thing, CALLED):
        yield from (thing.__module__,) if isinstance(thing, FunctionType) else ()
        for value in parts_of(thing):
            yield from _homes(value, seen)
    elif hasattr(thing, "__dict__"):
        yield type(thing).__module__
        yield from _homes(vars(thing), seen)


def unmasked(distribution: Any) -> Any:
    """The distribution without its own mask."""
    if isinstance(distribution, dist.MaskedDistribution):
        return unmasked(distribution.base_dist)
    if isinstance(distribution, Independent):
        base = unmasked(distribution.base_dist)
        same = base is distribution.base_dist
        return distribution if same else base.to_event(distribution.reinterpreted_batch_ndims)
    return distribution


def is_unchecked(distribution: Any) -> bool:
    """Whether the user switched the check of values off: `validate_args=False`, beneath masks and event dimensions too."""
    while distribution is not None:
        if vars(distribution).get("_validate_args") is False:
            return True
        wrapped = isinstance(distribution, Independent | dist.MaskedDistribution | dist.ExpandedDistribution)
        distribution = distribution.base_dist if wrapped else None
    return False


def counted(distribution: Any, mask: Tensor | bool | None) -> Tensor | bool:
    """Which elements count, so as to broadcast with batch shape + event shape: those that no mask leaves out.

    Args:
        distribution: which may hold masks of its own.
        mask: of the handlers around the site.
    """
    counts = _per_event(mask, distribution)
    while isinstance(distribution, Independent | dist.MaskedDistribution | dist.ExpandedDistribution):
        if isinstance(distribution, dist.MaskedDistribution):
            counts = _both(counts, _per_event(distribution._mask, distribution))
        distribution = distribution.base_dist
    return counts


def leaves_out_nan(distribution: Any) -> bool:
    """Whether the distribution itself takes NaN for what was not observed."""
    return isinstance(named(distribution), dist.NanMaskedNormal | dist.NanMaskedMultivariateNormal)


def _per_event(mask: Tensor | bool | None, distribution: Any) -> Tensor | bool:
    if isinstance(mask, Tensor):
        return mask.reshape(mask.shape + (1,) * len(distribution.event_shape)).bool()
    return mask is not False


def _both(one: Tensor | bool, other: Tensor | bool) -> Tensor | bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return (one if other else False) if isinstance(other, bool) else (other if one else False)
    return one & other


def seen(distribution: Any, mask: Tensor | bool | None, value: Tensor) -> Tensor:
    """The value with something feasible wherever it does not count, as NumPyro does it.

    A masked density is multiplied by zero, and so is its gradient: of a NaN, or a pad outside the support, NaN is left.
    """
    counts = counted(distribution, mask)
    if counts is True:
        return value
    with torch.no_grad():
        pad = feasible(distribution).to(value)
    return torch.where(torch.as_tensor(counts, device=value.device), value, pad)


def feasible(distribution: Any) -> Tensor:
    """Some value inside the support, so as to broadcast with batch shape + event shape."""
    bare = unmasked(distribution)
    constraint = constraint_of(bare)
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if constraint is None:
        return torch.zeros(())
    if not constraint.is_discrete:
        try:
            return biject_to(bare.support)(torch.zeros(_free_shape(bare)))
        except NotImplementedError:  # a mixture's
            return bare.sample()
    lowest = 0 if constraint is constraints.boolean else getattr(constraint, "lower_bound", None)
    return bare.sample() if lowest is None else torch.as_tensor(lowest)


def constraint_of(distribution: Any) -> Any:
    """The support; None for a class that states none."""
    try:
        return distribution.support
    except NotImplementedError:
        return None


def features(distribution: Any) -> Tensor | None:
    """The distribution's parameters as one detached array, batch shape + (features,); None where it has none.

    They are a help to baselines only: of a distribution whose parameters are shaped in a way of its own there are none.
    """
    try:
        return _features(distribution)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None


def _features(distribution: Any) -> Tensor | None:
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


def named(distribution: Any) -> Any:
    """The named distribution beneath masks, expansion and event dimensions."""
    core = unmasked(distribution)
    while isinstance(core, Independent | dist.ExpandedDistribution):
        core = core.base_dist
    return core


def is_reparametrized(distribution: Any) -> bool:
    """Whether the distribution's own sampler passes the whole gradient; a rejection sampler's passes a part (Naesseth 2017)."""
    core = named(distribution)
    partial = isinstance(core, dist.Rejector) or "StraightThrough" in type(core).__name__
    return bool(distribution.has_rsample) and not partial


def log_masses(distribution: Any) -> Tensor:
    """Log probability of every value of a finite distribution's elements, batch + event + (levels,), nats.

    An element of a one-hot distribution is the whole of its innermost event.
    """
    core = named(distribution)
    masses = core.log_prob(core.enumerate_support(expand=False)).movedim(0, -1)
    shape = distribution.batch_shape + distribution.event_shape
    return masses.expand(shape[: len(shape) - len(core.event_shape)] + masses.shape[-1:])


def parameters(distribution: Any) -> dict[str, Tensor]:
    """A distribution's own scalar parameters by name, broadcast to batch + event."""
    core, shape = named(distribution), distribution.batch_shape + distribution.event_shape
    given = {name: vars(core).get(name) for name in core.arg_constraints}
    return {name: value.expand(shape) for name, value in given.items() if isinstance(value, Tensor)}


def divergence(q: Any, p: Any) -> Tensor | None:
    """KL(q || p), batch shape, nats; None where torch and Pyro know no formula."""
    if q.batch_shape != p.batch_shape or q.event_shape != p.event_shape:
        return None
    if isinstance(named(q), dist.Delta):  # the libraries' formula leaves out its log density
        return None
    kinds = {type(named(d)).__name__ for d in (q, p)}
    if kinds in ({"Bernoulli"}, {"Categorical"}) and num_values(q) == num_values(p):
        return _finite_divergence(q, p)
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return None


def _finite_divergence(q: Any, p: Any) -> Tensor:
    """KL(q || p) of binary or categorical elements; torch's own has no gradient beside a value of probability zero."""
    masses, others = log_masses(q), log_masses(p)
    gap = torch.where(masses == -torch.inf, 0.0, masses - others)
    return (masses.exp() * gap).sum(tuple(range(-1 - len(q.event_shape), 0)))


def support(distribution: Any) -> tuple[str, int | None]:
    """("real" | "finite" | "countable", number of values of one element or None)."""
    constraint = constraint_of(distribution)
    if constraint is None or not constraint.is_discrete:
        return "real", None
    values = num_values(distribution)
    return ("countable", None) if values is None else ("finite", values)


def num_values(distribution: Any) -> int | None:
    """Number of values of one element of a finite support; None for others."""
    core = named(distribution)
    if not core.has_enumerate_support or _too_many(core):
        return None
    try:
        return int(core.enumerate_support(expand=False).shape[0])
    except NotImplementedError:  # binomials of several total counts
        return None


def _too_many(core: Any) -> bool:
    """Whether a list of a distribution's values is too long to be made: they are drawn, then, and never tried."""
    if isinstance(core, torch.distributions.OneHotCategorical):
        return math.prod(core.event_shape) ** 2 > MOST_NUMBERS
    if isinstance(core, torch.distributions.Binomial | dist.BetaBinomial):
        return bool((core.total_count > MOST_NUMBERS).any())
    return False


def others(distribution: Any, value: Tensor) -> list[Tensor]:
    """Other values to try: the next of a finite support at every element, its two ends, and fresh draws."""
    core = bare = unmasked(distribution)
    while isinstance(core, Independent):
        core = core.base_dist
    with torch.no_grad():  # Pyro itself draws by rsample where there is one, and a class may have that alone
        draws = [bare.rsample() if bare.has_rsample else bare.sample() for _ in range(2)]
    if num_values(bare) and not core.event_shape:
        values = core.enumerate_support(expand=False).reshape(-1)
        index = (value.unsqueeze(-1) == values).to(torch.uint8).argmax(-1)
        ends = [torch.full_like(value, float(end)) for end in (values[0], values[-1])]
        return [values[(index + 1) % len(values)], *ends, *draws]
    if bare.support.is_discrete or core.__class__.__name__ == "Delta":
        return draws
    try:
        biject_to(bare.support)
    except NotImplementedError:  # a mixture's
        return draws
    far = [biject_to(bare.support)(sign * 8.0 + torch.zeros(_free_shape(bare))) for sign in (1, -1)]
    return [*draws, *far]


def _free_shape(distribution: Any) -> torch.Size:
    return torch.Size(
        biject_to(distribution.support).inverse_shape(distribution.batch_shape + distribution.event_shape)
    )


def ends_inside(distribution: Any) -> bool:
    """Whether a density may jump inside its support: that of a mixture does where one of its parts ends."""
    core = named(distribution)
    if "Mixture" not in type(core).__name__:
        return False
    parts = [value for value in vars(core).values() if isinstance(value, torch.distributions.Distribution)]
    every: list[Any] = [part.support for part in parts]
    supports = [support for support in every if not support.is_discrete]
    ends = {tuple(map(repr, (_end(s, "lower_bound"), _end(s, "upper_bound")))) for s in map(_innermost, supports)}
    return len(ends) > 1 or any("tensor" in end for pair in ends for end in pair)


def _innermost(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _end(support: Any, name: str) -> object:
    return getattr(support, name, None)
