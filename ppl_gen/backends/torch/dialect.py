"""Portable statements as Pyro's own primitives, and the array namespace over torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import array_api_compat.torch as base
import pyro
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution, biject_to
from torch.distributions.constraints import Constraint
from torch.utils import _pytree as pytree

from ppl_gen.backends.statements import Statements
from ppl_gen.backends.torch.density import Density
from ppl_gen.program.arrays import Namespace

dist = pyro.distributions

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


statements: Statements[Tensor, Distribution, Constraint] = Statements(pyro, biject_to, Density)
sample, plate, deterministic, density = (
    statements.sample,
    statements.plate,
    statements.deterministic,
    statements.density,
)
normal_on, unconstrained_shape = statements.normal_on, statements.unconstrained_shape


def param(name: str, init: Tensor | Callable[[], Tensor] | None, constraint: Constraint | None) -> Tensor:
    """See `ppl_gen.language.param`."""
    return pyro.param(name, init, constraint=constraints.real if constraint is None else constraint)


def module(name: str, network: torch.nn.Module) -> torch.nn.Module:
    """See `ppl_gen.language.module`."""
    return pyro.module(name, network)


def factor(name: str, log_factor: Tensor, has_rsample: bool | None = None) -> None:
    """See `ppl_gen.language.factor`."""
    pyro.factor(name, log_factor, has_rsample=has_rsample)
