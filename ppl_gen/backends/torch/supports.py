"""The values that a Pyro distribution can give: its support, their bounds and number, some of them to try."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, biject_to, constraints
from torch.distributions.constraints import Constraint

from ppl_gen.backends.interface import Distribution
from ppl_gen.backends.torch.intervals import UNKNOWN, YES_OR_NO, Range
from ppl_gen.backends.torch.masks import counted, named, unmasked
from ppl_gen.program.bounds import UNIT, Bounds

MOST_NUMBERS = 10**6  # in a list of all values of a finite support


def constraint_of(distribution: Distribution) -> Constraint | None:
    """The support; None for a class that states none."""
    try:
        return distribution.support
    except NotImplementedError:
        return None


def support(distribution: Distribution) -> tuple[str, int | None]:
    """("real" | "finite" | "countable", number of values of one element or None)."""
    constraint = constraint_of(distribution)
    if constraint is None or not constraint.is_discrete:
        return "real", None
    values = num_values(distribution)
    return ("countable", None) if values is None else ("finite", values)


def num_values(distribution: Distribution) -> int | None:
    """Number of values of one element of a finite support; None for others."""
    core = named(distribution)
    if not core.has_enumerate_support or _too_many(core):
        return None
    try:
        return int(core.enumerate_support(expand=False).shape[0])
    except NotImplementedError:  # binomials of several total counts
        return None


def _too_many(core: Distribution) -> bool:
    """Whether a list of a distribution's values is too long to be made: they are drawn, then, and never tried."""
    if isinstance(core, torch.distributions.OneHotCategorical):
        return math.prod(core.event_shape) ** 2 > MOST_NUMBERS
    if isinstance(core, torch.distributions.Binomial | dist.BetaBinomial):
        return bool((core.total_count > MOST_NUMBERS).any())
    return False


def feasible(distribution: Distribution) -> Tensor:
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


def seen(distribution: Distribution, mask: Tensor | bool | None, value: Tensor) -> Tensor:
    """The value with something feasible wherever it does not count, as NumPyro does it.

    A masked density is multiplied by zero, and so is its gradient: of a NaN, or a pad outside the support, NaN is left.
    """
    counts = counted(distribution, mask)
    if counts is True:
        return value
    with torch.no_grad():
        pad = feasible(distribution).to(value)
    return torch.where(torch.as_tensor(counts, device=value.device), value, pad)


def values_to_try(distribution: Distribution, value: Tensor) -> list[Tensor]:
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
    if bare.support is None or bare.support.is_discrete or core.__class__.__name__ == "Delta":
        return draws
    try:
        biject_to(bare.support)
    except NotImplementedError:  # a mixture's
        return draws
    far = [biject_to(bare.support)(sign * 8.0 + torch.zeros(_free_shape(bare))) for sign in (1, -1)]
    return [*draws, *far]


def _free_shape(distribution: Distribution) -> torch.Size:
    return torch.Size(
        biject_to(distribution.support).inverse_shape(distribution.batch_shape + distribution.event_shape)
    )


def ends_inside(distribution: Distribution) -> bool:
    """Whether a density may jump inside its support: that of a mixture does where one of its parts ends."""
    core = named(distribution)
    if "Mixture" not in type(core).__name__:
        return False
    parts = [value for value in vars(core).values() if isinstance(value, torch.distributions.Distribution)]
    every: list[Any] = [part.support for part in parts]
    supports = [support for support in every if not support.is_discrete]
    ends = {tuple(map(repr, (_end(s, "lower_bound"), _end(s, "upper_bound")))) for s in map(_innermost, supports)}
    return len(ends) > 1 or any("tensor" in end for pair in ends for end in pair)


def _innermost(support: Constraint) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _end(support: Constraint, name: str) -> object:
    return getattr(support, name, None)


def of_support(support: Constraint | None) -> Range:
    """Of the values of a latent with this support; an end of a continuous one has no mass."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.boolean or support is constraints.one_hot:
        return YES_OR_NO
    if isinstance(support, type(constraints.corr_cholesky) | type(constraints.lower_cholesky)):
        return Range(factor=True)
    low, high = (_number(getattr(support, name, None)) for name in ("lower_bound", "upper_bound"))
    if isinstance(support, type(constraints.simplex)):
        return Range(UNIT)
    if support is None:
        return UNKNOWN
    if support.is_discrete:
        lowest = low if low is not None else 0.0 if isinstance(support, constraints.multinomial) else -math.inf
        return Range(Bounds(lowest, math.inf if high is None else high), whole=True)
    if low is None and high is None:
        return UNKNOWN
    return Range(
        Bounds(-math.inf if low is None else low, math.inf if high is None else high, low is not None, high is not None)
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
