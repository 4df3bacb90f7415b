"""Portable statements as Pyro's own primitives, and the array namespace over torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import array_api_compat.torch as base
import pyro
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to
from torch.utils import _pytree as pytree

from ppl_gen.backends.torch.density import Density
from ppl_gen.program.arrays import Namespace

Carry = TypeVar("Carry")
Each = TypeVar("Each")
Made = TypeVar("Made")
dist = pyro.distributions


def _logsumexp(x: Tensor, axis: int = -1, keepdims: bool = False) -> Tensor:
    return torch.logsumexp(x, dim=axis, keepdim=keepdims)


def _one_hot(indices: Tensor, num: int) -> Tensor:
    return (indices.unsqueeze(-1) == torch.arange(num, device=indices.device)).to(torch.get_default_dtype())


def _value_and_slope(function: Callable[[Tensor], tuple[Tensor, Tensor]], at: Tensor) -> tuple[Tensor, Tensor]:
    """(the second result, the derivative of the first, a scalar) of a function at a place."""
    with torch.enable_grad():
        place = at.detach().requires_grad_()
        whole, value = function(place)
        (slope,) = torch.autograd.grad(whole, place, allow_unused=True)
    return value.detach(), torch.zeros_like(at) if slope is None else slope.detach()


def _scan(step: Callable[[Carry, Each], tuple[Carry, Made]], start: Carry, xs: Each) -> tuple[Carry, Made]:
    """A loop over the leading axis: (the last carry, the results stacked), as in `jax.lax.scan`."""
    carry, results = start, []
    for index in range(pytree.tree_leaves(xs)[0].shape[0]):
        carry, result = step(carry, pytree.tree_map(lambda leaf: leaf[index], xs))  # noqa: B023
        results.append(result)
    return carry, pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


xp = Namespace(
    base,
    scan=_scan,
    softplus=F.softplus,
    sigmoid=torch.sigmoid,
    relu=F.relu,
    leaky_relu=lambda x, slope=0.01: F.leaky_relu(x, slope),
    log_sigmoid=F.logsigmoid,
    softmax=lambda x, axis=-1: torch.softmax(x, dim=axis),
    log_softmax=lambda x, axis=-1: torch.log_softmax(x, dim=axis),
    logsumexp=_logsumexp,
    one_hot=_one_hot,
    lgamma=torch.lgamma,
    erf=torch.erf,
    stop_gradient=lambda x: x.detach() if isinstance(x, Tensor) else x,  # a sum of no terms is a number
    astype=lambda x, dtype: x.to(dtype),
    uniform_like=lambda key, like: torch.rand_like(like).clamp_min(1e-7),
    split_key=lambda key, number: [None] * number,
    each=lambda function, keys: [function(key) for key in keys],
    value_and_slope=_value_and_slope,
    random=Namespace(None, uniform=lambda shape: torch.rand(shape), normal=lambda shape: torch.randn(shape)),
)


def sample(name: str, distribution: Any, obs: Tensor | None, infer: Mapping[str, Any] | None) -> Tensor:
    """See `ppl_gen.language.sample`."""
    return pyro.sample(name, distribution, obs=obs, infer=cast(Any, dict(infer or {})))


def param(name: str, init: Tensor | Callable[[], Tensor] | None, constraint: Any) -> Tensor:
    """See `ppl_gen.language.param`."""
    return pyro.param(name, init, constraint=constraints.real if constraint is None else constraint)


def plate(name: str, size: int, subsample_size: int | None, dim: int | None) -> AbstractContextManager[Any]:
    """See `ppl_gen.language.plate`."""
    return pyro.plate(name, size, subsample_size=subsample_size, dim=dim)


def module(name: str, network: torch.nn.Module) -> torch.nn.Module:
    """See `ppl_gen.language.module`."""
    return pyro.module(name, network)


def deterministic(name: str, value: Tensor) -> Tensor:
    """See `ppl_gen.language.deterministic`."""
    return pyro.deterministic(name, value)


def factor(name: str, log_factor: Tensor, has_rsample: bool | None = None) -> None:
    """See `ppl_gen.language.factor`."""
    pyro.factor(name, log_factor, has_rsample=has_rsample)


def density(
    name: str,
    log_prob: Callable[[Tensor], Tensor],
    draw: Callable[[], Tensor],
    obs: Tensor | None,
    infer: Mapping[str, Any] | None,
) -> Tensor:
    """See `ppl_gen.language.density`."""
    return pyro.sample(name, Density(log_prob, draw, obs), obs=obs, infer=cast(Any, dict(infer or {})))


def normal_on(support: Any, loc: Tensor, scale: Tensor, event_dim: int) -> Any:
    """A normal pushed onto `support` by its bijection."""
    base = dist.Normal(loc, scale).to_event(biject_to(support).domain.event_dim)
    moved = base if support is constraints.real else dist.TransformedDistribution(base, [biject_to(support)])
    return moved.to_event(event_dim - len(moved.event_shape))


def unconstrained_shape(support: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the reals that stand for a value of `shape` on `support`."""
    return tuple(biject_to(support).inverse_shape(shape))
