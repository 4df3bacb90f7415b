"""A density that a program states as a function, with a function that draws from it: `ppl_gen.density`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor


class Density(TorchDistribution):
    """A distribution made of two functions; its shapes are those of a value and of that value's log density.

    Args:
        density: value -> log density, nats, one number per batch element.
        draw: gives a value; its sample statements are its own.
        like: a value, of whatever numbers; None draws one.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own form)
    has_rsample = False

    def __init__(self, density: Callable[[Tensor], Tensor], draw: Callable[[], Tensor], like: Tensor | None) -> None:
        self._density, self._draw = density, draw
        value = self.sample() if like is None else like
        batch = density(value).shape
        super().__init__(batch, value.shape[len(batch) :], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Any real value: what else the density excludes is its own matter."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw, which passes no gradient.

        Raises:
            NotImplementedError: more than one at once.
        """
        if sample_shape:
            raise NotImplementedError(f"one draw at a time; got sample_shape {tuple(sample_shape)}")
        with torch.no_grad(), poutine.block(hide_types=["sample"]):
            return self._draw().detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, nats, shaped like the batch."""
        return self._density(value)
