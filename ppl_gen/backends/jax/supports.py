"""What a support says of the values in it: their bounds, and where a density may end."""

from __future__ import annotations

import math

from jax import Array
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.constraints import Constraint

from ppl_gen.program.bounds import ANY, INDICATOR, NONNEGATIVE, UNIT, Bounds

DIAGONAL = ("lower_cholesky", "scaled_unit_lower_cholesky", "corr_cholesky", "softplus_lower_cholesky")
"""Supports of triangular matrices with a positive diagonal."""


def base_of(support: Constraint) -> Constraint:
    """The constraint of single elements."""
    return base_of(support.base_constraint) if hasattr(support, "base_constraint") else support


def ends_of(support: Constraint) -> dict[str, float | Array]:
    """The ends of an interval, "low" and "high", as far as it has any: numbers or arrays."""
    base = base_of(support)
    ends = {"low": getattr(base, "lower_bound", None), "high": getattr(base, "upper_bound", None)}
    return {what: end for what, end in ends.items() if end is not None}


def limits_of(support: Constraint) -> Bounds:
    """The bounds of the values; ends that are arrays are left out, as they may hang on parameters."""
    base = base_of(support)
    if base in (constraints.simplex, constraints.unit_interval):
        return UNIT
    if base is constraints.boolean:
        return INDICATOR
    if type(base).__name__ == "_Multinomial":
        return NONNEGATIVE
    if base is constraints.circular:
        return Bounds(-math.pi, math.pi)
    if base is constraints.corr_cholesky:
        return Bounds(-1.0, 1.0)
    ends = {what: float(end) for what, end in ends_of(support).items() if isinstance(end, int | float)}
    return within(ANY, not getattr(support, "is_discrete", False), **ends)


def within(limits: Bounds, is_open: bool, low: float = -math.inf, high: float = math.inf) -> Bounds:
    """Bounds narrowed to an interval; no continuous draw lies on its ends."""
    above, below = (is_open and low > -math.inf), (is_open and high < math.inf)
    first = (limits.low, limits.above) if limits.low > low else (low, above)
    last = (limits.high, limits.below) if limits.high < high else (high, below)
    return Bounds(first[0], last[0], first[1], last[1])


def is_diagonal(support: Constraint) -> bool:
    """Whether values are triangular matrices whose diagonal stays away from zero."""
    return any(support is getattr(constraints, name) for name in DIAGONAL)


def ends_inside(distribution: Distribution) -> bool:
    """Whether a density may end within its own support, as that of a mixture does where one of its components ends."""
    if "Mixture" not in type(distribution).__name__:
        return False
    components = getattr(distribution, "component_distributions", None) or [distribution.component_distribution]
    supports = [base_of(component.support) for component in components]
    fixed = all(isinstance(end, int | float) for support in supports for end in ends_of(support).values())
    return not fixed or any(support != supports[0] for support in supports)
