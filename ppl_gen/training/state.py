"""What a step changes, as one tree."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

from ppl_gen.backends.engine import A, Tree

PLAYERS = ("params", "weights")  # parts of the state that learn, each by an optimizer and on a gradient of its own
VALUES = ("params/", "buffers/", "constants/")  # how the names begin of what a trained program consists of


class State(NamedTuple, Generic[A]):
    """Everything that a step changes; on torch its arrays are the program's own, which steps write to.

    Attributes:
        params: the program's parameters, unconstrained.
        buffers: what the program itself carries from run to run (running averages).
        weights: what the estimators learn.
        averages: what estimators and objective keep from step to step.
        moments: what the optimizer of each player keeps.
        random: the random state.
    """

    params: dict[str, A]
    buffers: dict[str, Any]
    weights: Tree[A]
    averages: Tree[A]
    moments: tuple[Any, ...]
    random: Any
