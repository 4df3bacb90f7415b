"""What `ppl_gen.backends.interface.Library` asks of Pyro."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from ppl_gen.backends.interface import Distribution, Message, core_of
from ppl_gen.backends.torch import supports
from ppl_gen.backends.torch.distributions import divergence, features, is_reparametrized, log_masses, parameters
from ppl_gen.backends.torch.masks import is_unchecked, leaves_out_nan, unmasked
from ppl_gen.backends.torch.supports import num_values, support
from ppl_gen.errors import ProgramError

__all__ = [
    "as_now",
    "check_distribution",
    "choose",
    "constraint_of",
    "counted",
    "cut",
    "divergence",
    "features",
    "is_reparametrized",
    "is_unchecked",
    "log_density",
    "log_masses",
    "num_features",
    "num_values",
    "parameters",
    "satisfies",
    "support",
    "to_host",
    "total",
    "unmasked",
    "weigh",
]


def log_density(message: Message[Tensor], distribution: Distribution) -> Tensor:
    """The log density of a site's value, nats, before the masks and scales around it.

    What no mask lets count may hold anything, NaN too.
    """
    value = message.value
    if message.observed and isinstance(value, Tensor) and not message.is_bookkeeping:
        value = supports.seen(distribution, message.mask, value)
    with _settled(distribution):
        found: Tensor = distribution.log_prob(value, *message.args, **message.kwargs)
    return found if isinstance(found, Tensor) else torch.as_tensor(float(found))


@contextmanager
def _settled(distribution: Distribution) -> Iterator[None]:
    """Without checks of values, which a distribution made outside of the program may do, and with masks as they are now."""
    part: Any = distribution
    with ExitStack() as stack:
        while part is not None:
            own = vars(part)
            if own.get("_validate_args"):
                stack.callback(setattr, part, "_validate_args", True)
                part._validate_args = False
            if isinstance(own.get("_mask"), Tensor):
                stack.callback(setattr, part, "_mask", own["_mask"])
                part._mask = own["_mask"].clone()
            part = getattr(part, "base_dist", None)
        yield


def weigh(log_prob: Tensor, scale: Tensor | float, mask: Tensor | bool | None) -> Tensor:
    """A log density, scaled and masked."""
    return scale_and_mask(log_prob, scale, mask)


def total(array: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum over these axes, which are kept with size 1."""
    return array.sum(axes, keepdim=True)


def cut(value: Tensor) -> Tensor:
    """The same value, which passes no gradient."""
    return value.detach()


def as_now(value: Tensor | float) -> Tensor | float:
    """A scale as it is now: the program may write to it between this site and the gradient."""
    return value.clone() if isinstance(value, Tensor) else value


def choose(distribution: Distribution, index: int) -> Tensor:
    """The `index`-th value of a finite distribution, at every batch element."""
    core, batch = core_of(distribution), torch.Size(distribution.batch_shape)
    values = core.enumerate_support(expand=False)
    values = values.reshape((len(values),) + core.event_shape)
    num_elements = math.prod(distribution.event_shape) // math.prod(core.event_shape)
    digits = [(index // len(values) ** place) % len(values) for place in range(num_elements)]
    value: Tensor = values[torch.tensor(digits, device=values.device)].reshape(distribution.event_shape)
    return value.expand(batch + torch.Size(distribution.event_shape)).clone()


def num_features(distribution: Distribution) -> int | None:
    """The width of `features`."""
    inputs = features(distribution)
    return None if inputs is None else inputs.shape[-1]


def constraint_of(distribution: Distribution) -> Any:
    """The constraint that observations are held to: the support, or the reals for a class that states none."""
    return supports.constraint_of(unmasked(distribution)) or constraints.real


def satisfies(constraint: Constraint, value: Tensor) -> np.ndarray:
    """Where a value lies in a constraint."""
    return to_host(constraint.check(value))


def counted(message: Message[Tensor]) -> Tensor:
    """A site's value, constant, with something feasible wherever it does not count."""
    own = message.distribution
    value = supports.seen(own, message.mask, torch.as_tensor(message.value)).detach()
    return value.nan_to_num(0.0, torch.inf, -torch.inf) if leaves_out_nan(own) else value


def check_distribution(message: Message[Tensor]) -> None:
    """Raise on a latent whose distribution states no support."""
    if not message.observed and supports.constraint_of(unmasked(message.distribution)) is None:
        raise ProgramError(
            f"{message.where}: expected a distribution with a support; got none. State it in the class, as support = constraints.real."
        )


def to_host(value: object) -> np.ndarray:
    """An array, or a plain number, as a NumPy array, which has no bfloat16."""
    if not isinstance(value, Tensor):
        return np.asarray(value)
    own = value.detach().cpu()
    return np.asarray((own.float() if own.dtype == torch.bfloat16 else own).numpy())
