"""What a framework does for a training step: differentiate, compile, update, place, keep the random state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from ppl_gen.program import Batch, Run
from ppl_gen.program.arrays import Array, Namespace

if TYPE_CHECKING:  # of a later layer: engines hand a state on, and call a step
    from ppl_gen.objectives.bound import Loss
    from ppl_gen.training.state import State
    from ppl_gen.training.step import Step

A = TypeVar("A", bound=Array)  # arrays of one backend
Aux = TypeVar("Aux")
Fixed = Mapping[str, object]  # site -> value
Parts = dict[str, Any]  # player -> part of a state
Tree = dict[str, dict[str, A]]  # site -> name -> array


class Program(Protocol):
    """A model and a guide as one object, as far as a step needs it."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    seed: int
    device: str
    params: dict[str, Any]

    @property
    def buffers(self) -> dict[str, Any]:
        """What the program itself carries from run to run."""

    def session(self, seed: int | None = None, *, train: bool = True) -> AbstractContextManager[None]:
        """Inside, it may run."""


class Source(Protocol):
    """Batches by the number of the step."""

    one_by_one: bool  # whether each batch holds data of its own, so that none is known before its step

    def at(self, step: int) -> tuple[list[Any], Any]:
        """(arrays, rows) of a step's batch, for `build`."""

    def rows(self, step: int) -> Any:
        """Its rows; None means all."""

    def build(self, arrays: list[Any], rows: Any) -> Batch:
        """The batch of these rows of these arrays."""


class Optimizer(Protocol):
    """Moves one player."""

    def start(self, values: Any) -> Any:
        """The moments to begin with."""

    def update(self, values: Any, gradient: Any, moments: Any, loss: Any) -> tuple[Any, Any]:
        """(values, moments) after a step."""


class Found(NamedTuple, Generic[A]):
    """What a step computes before anything moves.

    Attributes:
        loss: nats, scaled to the whole data.
        finite: whether all the rest is.
        gradients: player -> gradient, like that part of the state.
        averages: after the step.
        buffers: after the step, as far as they are not written to in place.
    """

    loss: A
    finite: A
    gradients: dict[str, Any]
    averages: Tree[A]
    buffers: dict[str, Any]


class Advanced(NamedTuple):
    """What came of asking for steps.

    Attributes:
        state: after the last good one.
        losses: of the good ones, nats.
        failed: the batch of the step after them if something in that is not finite; else None.
    """

    state: Any
    losses: list[float]
    failed: Batch | None


class Engine(Protocol[A]):
    """One framework at work on one program, made from (program, facts, compile, steps of the run).

    Attributes:
        jitted: whether Python values are read once, when a step is compiled, and not looked at again.
    """

    jitted: bool

    @property
    def how(self) -> str:
        """How steps are taken, and why so."""

    @property
    def xp(self) -> Namespace:
        """Array namespace."""

    def arrays(self, tree: Tree[np.ndarray], *, learned: bool) -> Tree[A]:
        """A tree of NumPy arrays as arrays of the framework."""

    def place(self, state: State[A]) -> State[A]:
        """A new state as steps take it, on the program's device."""

    def random(self) -> Any:
        """The random state to begin with."""

    def optimizer(self, wanted: object, learning_rate: float, values: Mapping[str, Any]) -> Optimizer:
        """The optimizer of one player: the framework's own; None means Adam."""

    def run(self, state: State[A], batch: Batch, key: Any, fixed: Fixed, cut: Collection[str], **options: bool) -> Run:
        """See `ppl_gen.objectives.bound.RunProgram`."""

    def gradient(self, function: Callable[[Parts], tuple[Any, Aux]], parts: Parts) -> tuple[Parts, Aux]:
        """(the gradient of the first result, a scalar, by every array in `parts`; the second result)."""

    def all_finite(self, *trees: Any) -> A:
        """Whether every element of every array is."""

    def carried(self, loss: Loss, state: State[A]) -> tuple[Tree[A], Parts]:
        """Averages and buffers after a step, in the form in which the state has them."""

    def advance(self, step: Step[A], state: State[A], source: Source, number: int, most: int) -> Advanced:
        """Take up to `most` steps, from `number` on; whatever ends a step, the state is as before it."""

    def inspect(self, step: Step[A], state: State[A], batch: Batch) -> tuple[Found[A], str | None]:
        """A failing step once more: what it computes, and the first site whose density is not finite."""

    def evaluate(self, function: Callable[..., A], state: State[A], batch: Batch, draw: int) -> float:
        """A scalar function of (state, key, batch) in evaluation mode, on the random numbers of that `draw`."""

    def draws(self, step: Step[A], state: State[A], batch: Batch, count: int, seed: int) -> dict[str, np.ndarray]:
        """Independent gradients from one state: parameter -> (count, *shape). Call inside a session of that seed."""

    def params(self, state: State[A]) -> dict[str, A]:
        """The parameters of now, inside a session and outside."""

    def flatten(self, state: State[A]) -> dict[str, np.ndarray]:
        """The state as flat NumPy arrays, by names such as ``"params/w"``; likewise."""

    def load(self, state: State[A], flat: Mapping[str, np.ndarray]) -> State[A]:
        """The state with what `flatten` gave; likewise."""
