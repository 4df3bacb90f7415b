"""The training state of one program, and what moves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.engine import Engine, Source
from ppl_gen.errors import NonFinite
from ppl_gen.program import OWN, Batch
from ppl_gen.training.prepare import Prepared
from ppl_gen.training.state import PLAYERS, VALUES, State
from ppl_gen.training.step import Objective, Step

BASELINE_RATE = 1e-3  # of Adam, for what the estimators learn


class Trainer:
    """Takes steps. Make it, and use it, inside the program's session; what only reads the state may be called outside.

    Args:
        prepared: the program and its plan.
        objective: what is minimised.
        optimizer: the backend's own; None means Adam.
        learning_rate: of Adam, and of an optimizer that was given none.
        compile: "auto", True or False.
        steps: length of the run, by which "auto" decides.
        begins: whether an objective that is annealed starts at its beginning; else it stays as it is in the end.

    Attributes:
        values: the state.
    """

    def __init__(
        self,
        prepared: Prepared,
        objective: Objective,
        optimizer: object = None,
        learning_rate: float = 1e-3,
        compile: bool | str = "auto",
        steps: int = 0,
        *,
        begins: bool = False,
    ) -> None:
        program, (weights, averages) = prepared.program, prepared.start
        engine: Engine[Any] = prepared.backend.Engine(program, prepared.plan.facts, compile, steps)
        averages = {**averages, OWN: objective.start()} if begins else averages
        players = {"params": dict(program.params), "weights": engine.arrays(weights, learned=True)}
        wanted = {"params": (optimizer, learning_rate), "weights": (None, BASELINE_RATE)}
        optimizers = {name: engine.optimizer(*wanted[name], players[name]) for name in PLAYERS}
        moments = tuple(optimizers[name].start(players[name]) for name in PLAYERS)
        self.program, self.objective, self.engine = program, objective, engine
        self.step = Step(engine, objective, prepared.plan, optimizers)
        own = engine.arrays(averages, learned=False)
        self.values: State[Any] = engine.place(
            State(buffers=program.buffers, averages=own, moments=moments, random=engine.random(), **players)
        )

    @property
    def how(self) -> str:
        """How steps are taken, and why so."""
        return self.engine.how

    def steps(self, source: Source, first: int, count: int, halt: Callable[[], bool] = lambda: False) -> np.ndarray:
        """Take the steps `first`, ..., each on the source's batch of that number; losses in nats, (steps taken,).

        Args:
            source: of batches.
            first: number of the first step.
            count: how many, if `halt` does not say so before.
            halt: asked after each call of the engine's whether to end there.

        Raises:
            NonFinite: the loss or a gradient is; the state is as before that step, `.losses` holds those before.
            KeyboardInterrupt: raised in the program; likewise.
        """
        losses: list[float] = []
        try:
            while len(losses) < count and not (losses and halt()):
                number, left = first + len(losses), count - len(losses)
                self.values, taken, failed = self.engine.advance(self.step, self.values, source, number, left)
                losses += taken
                if failed is not None:
                    raise NonFinite(self.step.complaint(*self.engine.inspect(self.step, self.values, failed)))
        except (NonFinite, KeyboardInterrupt) as error:
            error.losses = np.array(losses)  # type: ignore[union-attr]
            raise
        return np.array(losses)

    def loss(self, batch: Batch, draw: int = 0) -> float:
        """The objective's value on `batch` in evaluation mode; one `draw` always means the same random numbers."""
        return self.engine.evaluate(self.step.value, self.values, batch, draw)

    def current_params(self) -> dict[str, Any]:
        """Parameter name -> unconstrained array, inside a session and outside."""
        return self.engine.params(self.values)

    def final(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(params, buffers), which `draw` needs where the program does not hold them."""
        return self.values.params, self.values.buffers

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a continued run needs, as flat NumPy arrays; the same inside a session and outside."""
        return self.engine.flatten(self.values)

    def load(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: an optimizer's state is missing in part, or belongs to another optimizer.
        """
        self.values = self.engine.load(self.values, flat)

    def load_values(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back only what the trained program consists of."""
        own = self.state()
        self.load(own | {name: flat[name] for name in own.keys() & flat.keys() if name.startswith(VALUES)})


def sample_gradients(
    prepared: Prepared, objective: Objective, batch: Batch, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
    """Independent estimates of the gradient of one step: parameter -> (num_samples, *shape), unconstrained."""
    with prepared.session(seed):
        trainer = Trainer(prepared, objective)
        return trainer.engine.draws(trainer.step, trainer.values, batch, num_samples, seed)
