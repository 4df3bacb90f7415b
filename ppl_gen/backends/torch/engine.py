"""What torch does for a training step: autograd, captured graphs, parameters that are moved in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ppl_gen.backends.engine import Advanced, Aux, Fixed, Found, Parts, Source, Tree
from ppl_gen.backends.survey import culprit
from ppl_gen.backends.torch import dialect, library
from ppl_gen.backends.torch.generators import CPU, RandomState, kept_random_state, random_state, set_random_state
from ppl_gen.backends.torch.optimizers import Optimizer
from ppl_gen.backends.torch.program import Program
from ppl_gen.backends.torch.replay import Before, Replays
from ppl_gen.backends.torch.trees import below, leaves, like, named
from ppl_gen.program import Batch, Facts, Run

if TYPE_CHECKING:
    from ppl_gen.objectives.bound import Loss
    from ppl_gen.training import state as states
    from ppl_gen.training import step as steps

    State = states.State[Tensor]
    Step = steps.Step[Tensor]

TOGETHER = 100  # gradients that are drawn at once: each holds its own values of every operation
WORTH_A_GRAPH = 100  # of them


class Engine:
    """See `ppl_gen.backends.engine.Engine`; the state's arrays are the very tensors that program and optimizers hold."""

    xp = dialect.xp
    jitted = False

    def __init__(self, program: Program, facts: Facts, compile: bool | str = "auto", steps: int = 0) -> None:
        self.program = program
        self.replays = Replays(program, compile, steps)
        self.replays.on = compile is not False and not facts.eager and bool(program.params)
        if compile is False:
            self.replays.how = "eager, as asked"
        elif facts.eager:
            self.replays.how = f"eager, as values leave torch at {facts.eager}"

    @property
    def how(self) -> str:
        """How steps are taken, and why so."""
        return self.replays.how

    # -- making a state ------------------------------------------------------------------------------------------

    def arrays(self, tree: Tree[np.ndarray], *, learned: bool) -> Tree[Tensor]:
        """See the protocol."""
        make = partial(torch.tensor, device=self.program.device)
        return {s: {n: make(v).requires_grad_(learned) for n, v in own.items()} for s, own in tree.items()}

    def place(self, state: State) -> State:
        """See the protocol."""
        return state

    def random(self) -> RandomState:
        """See the protocol."""
        return random_state()

    def optimizer(self, wanted: Any, learning_rate: float, values: Mapping[str, Any]) -> Optimizer:
        """See the protocol."""
        return Optimizer(wanted, dict(named(values)), learning_rate)

    # -- the parts of a step ---------------------------------------------------------------------------------------

    def run(self, state: State, batch: Batch, key: None, fixed: Fixed, cut: Collection[str], **options: bool) -> Run:
        """See the protocol."""
        if options.get("dream", False):
            batch, fixed, _ = self.program.dream(batch)
        with self.program.frozen() if options.get("frozen", False) else nullcontext():
            return self.program.run(batch, fixed, cut, guide=options.get("guide", True))

    def gradient(self, function: Callable[[Parts], tuple[Any, Aux]], parts: Parts) -> tuple[Parts, Aux]:
        """See the protocol; zero where there is no way."""
        surrogate, more = function(parts)
        places = list(leaves(parts))
        known = bool(places) and isinstance(surrogate, Tensor) and surrogate.requires_grad
        found = torch.autograd.grad(surrogate, places, allow_unused=True) if known else [None] * len(places)
        whole = (torch.zeros_like(leaf) if g is None else g for leaf, g in zip(places, found, strict=True))
        return like(parts, whole), more

    def all_finite(self, *trees: Any) -> Tensor:
        """See the protocol; told from sums, which are quicker."""
        sums = [leaf.sum() if leaf.dim() else leaf for tree in trees for leaf in leaves({"": tree})]
        if not sums:
            return torch.ones((), dtype=torch.bool)
        return torch.isfinite(torch.stack([s.to(sums[0].dtype) for s in sums])).all()

    def carried(self, loss: Loss, state: State) -> tuple[Tree[Tensor], Parts]:
        """See the protocol; networks write to their buffers in place."""
        new: Any = loss.averages
        return {site: {n: new[site][n].detach() for n in own} for site, own in state.averages.items()}, {}

    # -- steps -----------------------------------------------------------------------------------------------------

    def advance(self, step: Step, state: State, source: Source, number: int, most: int) -> Advanced:
        """See the protocol: one step."""
        batch = source.build(*source.at(number))
        before, good = Before.of(self.program), False
        try:
            function, given, kind = self._flat(step, state, batch)
            found = iter(self.replays(function, given, kind, before, number))
            loss, finite = next(found), next(found)
            good = bool(finite)
        finally:  # whatever ends a step, all is as before it
            if not good:
                before.put_back(self.program)
        if not good:
            return Advanced(state, [], batch)
        gradients = like({"params": state.params, "weights": state.weights}, found)
        state = step.update(state, Found(loss, finite, gradients, like(state.averages, found), {}))
        return Advanced(state._replace(random=random_state()), [float(loss)], None)

    def _flat(
        self, step: Step, state: State, batch: Batch
    ) -> tuple[Callable[..., list[Tensor]], list[Tensor], Hashable]:
        """(the step as a function of tensors, the tensors of now, all else that it hangs on)."""
        arrays, join = split_batch(batch)
        learned = [*leaves(state.params), *leaves(state.weights)]
        given = [*learned, *leaves(state.averages), *self.program.buffers.values(), *arrays]

        def function(*inputs: Tensor) -> list[Tensor]:
            now = state._replace(averages=like(state.averages, iter(inputs[len(learned) :])))
            found = step.gradients(now, None, join(list(inputs[len(inputs) - len(arrays) :])))
            return [found.loss, found.finite, *leaves(found.gradients), *leaves(found.averages)]

        return function, given, (batch.scale, constants(batch), *((tuple(a.shape), a.dtype) for a in given))

    def inspect(self, step: Step, state: State, batch: Batch) -> tuple[Found[Tensor], str | None]:
        """See the protocol: with the draws that it had."""
        before = Before.of(self.program)
        try:
            found = step.gradients(state, None, batch)
            before.put_back(self.program)
            with torch.no_grad():
                return found, culprit(library, lambda look: self.program.run(batch, observer=look))
        finally:
            before.put_back(self.program)

    def evaluate(self, function: Callable[..., Tensor], state: State, batch: Batch, draw: int) -> float:
        """See the protocol."""
        with torch.no_grad(), kept_random_state(), self.program.evaluating():
            torch.manual_seed(self.program.seed + draw)
            return float(function(state, None, batch))

    def draws(self, step: Step, state: State, batch: Batch, count: int, seed: int) -> dict[str, np.ndarray]:
        """See the protocol; many at once where the step has a graph that can be batched."""
        self.replays.on = self.replays.on and count >= WORTH_A_GRAPH
        before, columns, drawn = Before.of(self.program), [list[Tensor]() for _ in state.params], 0
        function, given, kind = self._flat(step, state, batch)
        while drawn < count:
            several = None
            if drawn and not before.buffers:
                several = self.replays.together(given, min(TOGETHER, count - drawn))
            if several is None:
                several = [value[None] for value in self.replays(function, given, kind, Before.of(self.program))]
            before.put_back_buffers(self.program)
            drawn += len(several[0])
            for column, value in zip(columns, several[2:], strict=False):
                column.append(value)
        return {n: library.to_host(torch.cat(column)) for n, column in zip(state.params, columns, strict=True)}

    # -- reading and writing a state -------------------------------------------------------------------------------

    def params(self, state: State) -> dict[str, Tensor]:
        """See the protocol."""
        with self.program.lent():
            return {name: leaf.detach() for name, leaf in state.params.items()}

    def _in_place(self, state: State) -> dict[str, Tensor]:
        """Name -> tensor that is written to; inside `lent`."""
        return dict(named({"params": state.params, "buffers": self.program.buffers, "weights": state.weights}))

    def flatten(self, state: State) -> dict[str, np.ndarray]:
        """See the protocol."""
        with self.program.lent():
            moments = {str(number): optimizer.moments() for number, optimizer in enumerate(state.moments)}
            tree = {"constants": self.program.constants, "averages": state.averages, "moments": moments}
            flat = self._in_place(state) | dict(named(tree))
            flat |= {_named_random(device): one for device, one in state.random.items()}
            return {name: np.array(library.to_host(value), copy=True) for name, value in flat.items()}

    def load(self, state: State, flat: Mapping[str, np.ndarray]) -> State:
        """See the protocol.

        Raises:
            ValueError: an optimizer's state is missing in part, or belongs to another optimizer.
        """
        stored = {name: torch.tensor(value, device=CPU) for name, value in flat.items()}
        with self.program.lent(), torch.no_grad():
            for name, tensor in self._in_place(state).items():
                tensor.copy_(stored[name])
            for number, optimizer in enumerate(state.moments):
                optimizer.load(stored, f"moments/{number}/")
        self.program.set_constants(below(stored, "constants/"))
        averages = (stored[f"averages/{name}"].to(self.program.device) for name, _ in named(state.averages))
        random = {device: stored.get(_named_random(device), one) for device, one in state.random.items()}
        if self.program.running:  # else the generators are the user's
            set_random_state(random)
        return state._replace(averages=like(state.averages, averages), random=random)


def _named_random(device: str) -> str:
    return "random" if device == CPU else f"random/{device}"


def split_batch(batch: Batch) -> tuple[list[Tensor], Callable[[list[Tensor]], Batch]]:
    """(the batch's tensors, what rebuilds the batch from them)."""
    rows = torch.as_tensor(batch.rows) if isinstance(batch.rows, np.ndarray) else batch.rows
    values, tree = pytree.tree_flatten((batch.args, dict(batch.kwargs), rows))
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor)]

    def join(tensors: list[Tensor]) -> Batch:
        full = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        args, kwargs, rows = pytree.tree_unflatten(full, tree)
        return Batch(args, kwargs, batch.scale, rows)

    return [values[place] for place in places], join


def constants(batch: Batch) -> str:
    """What a graph of this batch has burnt in: all that is no tensor."""
    values, tree = pytree.tree_flatten((batch.args, dict(batch.kwargs)))
    plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in values if not isinstance(v, Tensor)]
    return repr((plain, tree))
