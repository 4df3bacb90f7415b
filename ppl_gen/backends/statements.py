"""Portable statements as a library's own primitives: one text, since Pyro and NumPyro name them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Generic, TypeVar

A = TypeVar("A")  # an array
D = TypeVar("D")  # a distribution
C = TypeVar("C")  # a constraint


class Statements(Generic[A, D, C]):
    """The statements in which the libraries do not differ; see `ppl_gen.language` for each.

    Args:
        library: pyro or numpyro.
        biject_to: its registry of bijections, constraint -> transform from the reals.
        make_density: its class of distributions that are given by their log density.
    """

    def __init__(
        self,
        library: ModuleType,
        biject_to: Callable[[C], Any],
        make_density: Callable[[Callable[[A], A], Callable[[], A], A | None], D],
    ) -> None:
        self.library, self.biject_to, self.make_density = library, biject_to, make_density

    def sample(self, name: str, distribution: D, obs: A | None, infer: Mapping[str, object] | None) -> A:
        """See `ppl_gen.language.sample`."""
        value: A = self.library.sample(name, distribution, obs=obs, infer=dict(infer or {}))
        return value

    def plate(
        self, name: str, size: int, subsample_size: int | None, dim: int | None
    ) -> AbstractContextManager[A | None]:
        """See `ppl_gen.language.plate`."""
        plate: AbstractContextManager[A | None] = self.library.plate(name, size, subsample_size=subsample_size, dim=dim)
        return plate

    def deterministic(self, name: str, value: A) -> A:
        """See `ppl_gen.language.deterministic`."""
        recorded: A = self.library.deterministic(name, value)
        return recorded

    def density(
        self,
        name: str,
        log_prob: Callable[[A], A],
        draw: Callable[[], A],
        obs: A | None,
        infer: Mapping[str, object] | None,
    ) -> A:
        """See `ppl_gen.language.density`."""
        return self.sample(name, self.make_density(log_prob, draw, obs), obs, infer)

    def normal_on(self, support: C, loc: A, scale: A, event_dim: int) -> D:
        """A normal pushed onto `support` by its bijection."""
        dist = self.library.distributions
        base = dist.Normal(loc, scale).to_event(self.biject_to(support).domain.event_dim)
        is_real = support is dist.constraints.real
        moved = base if is_real else dist.TransformedDistribution(base, [self.biject_to(support)])
        wide: D = moved.to_event(event_dim - len(moved.event_shape))
        return wide

    def unconstrained_shape(self, support: C, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the reals that stand for a value of `shape` on `support`."""
        return tuple(self.biject_to(support).inverse_shape(shape))
