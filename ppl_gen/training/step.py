"""One step of training, one text for every engine: the loss, its gradients, whether all is finite, the update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, cast

from ppl_gen.backends.checks import broken_baseline
from ppl_gen.backends.engine import A, Engine, Found, Optimizer
from ppl_gen.estimators import Plan
from ppl_gen.objectives.bound import Bound, Loss
from ppl_gen.objectives.exact import Exact
from ppl_gen.program import OWN, Batch
from ppl_gen.training.state import PLAYERS, State

Objective = Bound | Exact


@dataclass(frozen=True, eq=False)
class Step(Generic[A]):
    """A step of one program as functions of a state and a batch.

    Attributes:
        engine: differentiates, and says what is finite.
        objective: what is minimised.
        plan: the estimators.
        optimizers: player -> what moves it.
    """

    engine: Engine[A]
    objective: Objective
    plan: Plan
    optimizers: Mapping[str, Optimizer]

    def loss(self, state: State[A], key: A | None, batch: Batch) -> Loss:
        """The objective on one batch."""
        xp, run = self.engine.xp, partial(self.engine.run, state, batch)
        keys = xp.split_key(key, self.plan.num_particles)
        kept: Any = (state.weights, state.averages)  # objectives are written for arrays of any backend
        return self.objective(xp, run, keys, self.plan, *kept)

    def value(self, state: State[A], key: A | None, batch: Batch) -> A:
        """The loss as it is in the end, whatever the objective is annealed by."""
        settled = {name: own for name, own in state.averages.items() if name != OWN}
        return cast(A, self.loss(state._replace(averages=settled), key, batch).value)

    def gradients(self, state: State[A], key: A | None, batch: Batch) -> Found[A]:
        """Loss and gradients; every player has the gradient of the surrogate by its own part of the state."""

        def surrogate(parts: dict[str, Any]) -> tuple[Any, Loss]:
            loss = self.loss(state._replace(**parts), key, batch)
            return loss.surrogate, loss

        found, loss = self.engine.gradient(surrogate, {player: getattr(state, player) for player in PLAYERS})
        averages, buffers = self.engine.carried(loss.averages, loss.buffers, state)
        value = cast(A, self.engine.xp.stop_gradient(loss.value))
        return Found(value, self.engine.all_finite(value, found, averages), found, averages, buffers)

    def update(self, state: State[A], found: Found[A]) -> State[A]:
        """The state after the step, all but the random state."""
        parts: dict[str, Any] = {}
        moments = []
        for player, kept in zip(PLAYERS, state.moments, strict=True):
            optimizer, gradient = self.optimizers[player], found.gradients[player]
            parts[player], kept = optimizer.update(getattr(state, player), gradient, kept, found.loss)
            moments.append(kept)
        buffers = {**state.buffers, **found.buffers}
        return state._replace(**parts, buffers=buffers, averages=found.averages, moments=tuple(moments))

    def complaint(self, found: Found[A], culprit: str | None) -> str:
        """What is not finite in a step, by name.

        Args:
            found: what the step computed.
            culprit: the first site whose density is not finite, and how; None where there is none.
        """
        if bool(self.engine.all_finite(found.loss)):
            for name, gradient in found.gradients["params"].items():
                values: Any = self.engine.xp.reshape(gradient, (-1,))
                bad = [v for v in values.tolist() if not math.isfinite(v)]
                if bad:
                    return (
                        f"param '{name}': expected a finite gradient; got {bad[0]} in {len(bad)} of its elements. Lower the "
                        "learning rate or check the batch."
                    )
            for tree in (found.gradients["weights"], found.averages):
                for site, leaves in tree.items():
                    if site in self.plan and not bool(self.engine.all_finite(leaves)):
                        return broken_baseline(site, self.plan[site].estimator)
        where = culprit or "loss: expected a finite value; got NaN or infinity, which no site repeats"
        return f"{where}. Check the batch, the constraints of what the site depends on, and the learning rate."
