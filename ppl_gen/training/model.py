"""What a model may offer besides its program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ppl_gen.data.schema import Schema
from ppl_gen.objectives.bound import Bound
from ppl_gen.program.arrays import Array


class Queries(NamedTuple):
    """What answers p(any variables given any others).

    Attributes:
        conditionals: `log_conditionals`: (codes, mask) -> log p of each variable's levels given what the mask shows.
        schema: `schema`: the variables.
    """

    conditionals: Callable[[Array, Array], Array]
    schema: Schema


@dataclass(frozen=True)
class ModelParts:
    """The optional parts of a model, each None where it has none, as a plain program has none at all.

    Attributes:
        guide: `guide`: the inference network that it comes with.
        objective: `objective`: what it is made to maximise.
        encode: `prepare`: from data as they are to what the program is called with.
        queries: `log_conditionals` and `schema`.
    """

    guide: Callable[..., object] | None
    objective: Bound | None
    encode: Callable[[Any], Any] | None
    queries: Queries | None

    def encoded(self, data: Any) -> Any:
        """The data as the program is called with them."""
        return data if self.encode is None else self.encode(data)


def model_of(thing: object) -> ModelParts:
    """The parts that a model, or any program, offers by attributes of these names."""
    objective = getattr(thing, "objective", None)
    conditionals, schema = getattr(thing, "log_conditionals", None), getattr(thing, "schema", None)
    return ModelParts(
        guide=getattr(thing, "guide", None),
        objective=objective if isinstance(objective, Bound) else None,
        encode=getattr(thing, "prepare", None),
        queries=None if conditionals is None or schema is None else Queries(conditionals, schema),
    )
