"""What stands around a named distribution, masks, expansions and event dimensions: one text for both libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_gen.backends.interface import Distribution


@dataclass(frozen=True)
class Wrappers:
    """The classes of a library that wrap another distribution, its `base_dist`.

    Attributes:
        masked: leaves elements out of the density.
        independent: counts dimensions of the batch among those of the event.
        expanded: repeats along the batch.
    """

    masked: type[Any]
    independent: type[Any]
    expanded: type[Any]

    @property
    def all(self) -> tuple[type[Any], ...]:
        """Every one of them."""
        return self.masked, self.independent, self.expanded

    def named(self, distribution: Distribution) -> Any:
        """The named distribution beneath them."""
        return self.named(distribution.base_dist) if isinstance(distribution, self.all) else distribution

    def unmasked(self, distribution: Distribution) -> Any:
        """The distribution without its own masks."""
        if isinstance(distribution, self.masked):
            return self.unmasked(distribution.base_dist)
        if not isinstance(distribution, (self.independent, self.expanded)):
            return distribution
        inner: Any = distribution
        base = self.unmasked(inner.base_dist)
        if base is inner.base_dist:
            return distribution
        if isinstance(distribution, self.independent):
            return base.to_event(distribution.reinterpreted_batch_ndims)
        return base.expand(distribution.batch_shape)

    def is_unchecked(self, distribution: Distribution) -> bool:
        """Whether the user switched the check of values off: `validate_args=False`, beneath these too."""
        if vars(distribution).get("_validate_args") is False:
            return True
        return isinstance(distribution, self.all) and self.is_unchecked(distribution.base_dist)
