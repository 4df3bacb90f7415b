"""Steps of a torch program: gradient, optimiser, state."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ppl_gen.backends.checks import broken_baseline
from ppl_gen.backends.interface import Message
from ppl_gen.backends.torch import dialect
from ppl_gen.backends.torch.capture import CannotCapture, capture, compiled, said, same, side_by_side
from ppl_gen.backends.torch.optimizers import build, slots
from ppl_gen.backends.torch.places import of_replay
from ppl_gen.backends.torch.program import Program
from ppl_gen.errors import NonFinite
from ppl_gen.program import OWN, Batch

Tree = dict[str, dict[str, Tensor]]
CONSTANTS = "constants/"  # prefix, in a state, of what unregistered networks hold
TOGETHER = 100  # gradients that are drawn at once: each holds its own values of every operation


def tensors_of(tree: Mapping[str, Mapping[str, Any]], device: str, *, grad: bool) -> Tree:
    """A two-level tree of NumPy arrays as tensors."""
    return {
        site: {n: torch.tensor(v, device=device).requires_grad_(grad) for n, v in leaves.items()}
        for site, leaves in tree.items()
    }


def evaluate(program: Program, objective: Any, plan: Any, weights: Tree, averages: Tree, batch: Batch) -> Any:
    """The objective on one batch: see `ppl_gen.objectives.Loss`."""

    def run(key: None, fixed: Any, cut: Any, *, frozen: bool = False, guide: bool = True, dream: bool = False) -> Any:
        given, fixed = program.dream(batch)[:2] if dream else (batch, fixed)
        with program.frozen() if frozen else nullcontext():
            return program.run(given, fixed, cut, guide=guide)

    return objective(dialect.xp, run, [None] * plan.num_particles, plan, weights, averages)


def gradients(surrogate: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradient for every leaf, zero where there is no way."""
    if not leaves:
        return []
    if not (isinstance(surrogate, Tensor) and surrogate.requires_grad):  # no site depends on any of them
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(surrogate, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


class Trainer:
    """The training state of one torch program and the step that moves it.

    Args:
        program: inside its session while steps are taken.
        objective: what is minimised.
        plan: the estimators.
        start: (baseline weights, running averages) as NumPy trees.
        optimizer: a torch.optim class or partial taking parameters, or one of Pyro's; None means Adam.
        learning_rate: for Adam, and for an optimizer that takes ``lr`` and has none of its own.
        compile: "auto" captures the step, and compiles the capture in long runs; True compiles it; False runs eagerly.
        steps: length of the run, by which "auto" decides.

    Attributes:
        how: how steps are taken, and why so.
    """

    def __init__(
        self,
        program: Program,
        objective: Any,
        plan: Any,
        start: Any,
        optimizer: Callable[..., Any] | None,
        learning_rate: float,
        compile: Any = "auto",
        steps: int = 0,
    ) -> None:
        self.program, self.objective, self.plan, self.compile, self.num_steps = program, objective, plan, compile, steps
        self.weights = tensors_of(start[0], program.device, grad=True)
        self.averages = tensors_of(start[1], program.device, grad=False)
        self.names = list(program.params)
        self.leaves = [program.params[name] for name in self.names]
        self.baseline_leaves = [leaf for leaves in self.weights.values() for leaf in leaves.values()]
        self.optimizers, self._slots = [], list[Callable[[], list[set[str]]]]()
        for wanted, rate, named in ((optimizer, learning_rate, self._named_leaves()), (None, 1e-3, self._baselines())):
            if named:
                self.optimizers.append(build(wanted, named, rate))
                self._slots.append(partial(slots, wanted, named, rate))
        self._graphs: dict[Any, Any] = {}
        self._seen: Counter[Any] = Counter()
        self._failed = False  # a captured step raised
        self._batched = True  # no operation of the graph has refused to be batched
        self.how = "eager, as asked" if compile is False else "eager"
        if plan.facts.eager and compile is not False:
            self.how = f"eager, as values leave torch at {plan.facts.eager}"
        self.random = torch.random.get_rng_state()  # where the session's stream stood when the state was last changed
        self._capturing = compile is not False and not plan.facts.eager and bool(self.leaves)

    def _named_leaves(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.leaves, strict=True))

    def _baselines(self) -> dict[str, Tensor]:
        return {f"{site}/{n}": leaf for site, leaves in self.weights.items() for n, leaf in leaves.items()}

    def steps(self, source: Any, first: int, count: int, halt: Callable[[], bool] = lambda: False) -> np.ndarray:
        """Take the steps `first`, ..., each on the source's batch of that number; losses in nats, (steps taken,).

        Args:
            source: of batches.
            first: number of the first step.
            count: how many, if `halt` does not say so before.
            halt: asked after each step whether to end there.

        Raises:
            NonFinite: the loss or a gradient is; the state is as before that step, `.losses` holds those before.
            KeyboardInterrupt: raised in the program; likewise.
        """
        losses: list[float] = []
        try:
            for number in range(first, first + count):
                doubt = number % 50 == 0 or number & (number - 1) == 0  # state outside torch may have changed
                losses.append(self.step(source.build(*source.at(number)), check=doubt))
                if halt():
                    break
        except (NonFinite, KeyboardInterrupt) as error:
            error.losses = np.array(losses)  # type: ignore[union-attr]
            raise
        finally:
            self.random = torch.random.get_rng_state()
        return np.array(losses)

    def step(self, batch: Batch, *, check: bool = False) -> float:
        """One step on `batch`; returns the loss in nats, scaled to the whole data.

        Args:
            batch: the data.
            check: hold a captured step against an eager one first.

        Raises:
            NonFinite: the loss or a gradient is; the state is as before the step.
        """
        before = {name: buffer.clone() for name, buffer in self.program.buffers.items()}
        try:
            loss, finite, *rest = self.compute(batch, check)
        except BaseException:  # whatever ends a step, the networks' buffers are as before it
            self.put_back(before)
            raise
        if not bool(finite):
            self.put_back(before)
            self._blame(loss, rest, batch)
        for leaf, gradient in zip([*self.leaves, *self.baseline_leaves], rest, strict=False):
            leaf.grad = gradient
        for optimizer in self.optimizers:
            optimizer.step()
        for leaf in (*self.leaves, *self.baseline_leaves):
            leaf.grad = None
        fresh = iter(rest[len(self.leaves) + len(self.baseline_leaves) :])
        self.averages = {s: {n: next(fresh) for n in leaves} for s, leaves in self.averages.items()}
        return float(loss)

    # -- computing a step: loss, whether all is finite, gradients, new averages --------------------------------------

    def _inputs(self, arrays: list[Tensor]) -> list[Tensor]:
        averages = [v for leaves in self.averages.values() for v in leaves.values()]
        return [*self.leaves, *self.baseline_leaves, *averages, *self.program.buffers.values(), *arrays]

    def _step_on(self, batch: Batch) -> tuple[Callable[..., list[Tensor]], list[Tensor]]:
        """The step as a function of tensors, and the tensors of now."""
        arrays, join = split_batch(batch)
        given = self._inputs(arrays)
        num_leaves = len(self.leaves) + len(self.baseline_leaves)

        def step(*inputs: Tensor) -> list[Tensor]:
            supply = iter(inputs[num_leaves:])
            averages = {s: {n: next(supply) for n in leaves} for s, leaves in self.averages.items()}
            loss = evaluate(
                self.program,
                self.objective,
                self.plan,
                self.weights,
                averages,
                join(list(inputs[len(inputs) - len(arrays) :])),
            )
            found = gradients(loss.surrogate, [*self.leaves, *self.baseline_leaves])
            fresh = [loss.averages[s][n].detach() for s, leaves in self.averages.items() for n in leaves]
            value = torch.as_tensor(loss.value, device=self.program.device).detach()  # without sites it is a number
            sums = [value.reshape(()), *(array.sum() if array.dim() else array for array in (*found, *fresh))]
            return [
                value,
                torch.isfinite(torch.stack([s.to(value.dtype) for s in sums])).all(),
                *found,
                *fresh,
            ]

        return step, given

    def compute(self, batch: Batch, check: bool) -> list[Tensor]:
        """[loss, whether all is finite, gradients of parameters and baseline weights, new averages]."""
        step, given = self._step_on(batch)
        if not self._capturing:
            return step(*given)
        key = (batch.scale, constants(batch), *((tuple(a.shape), a.dtype) for a in given))
        self._seen[key] += 1
        new = key not in self._graphs
        if new and self._seen[key] <= max((self._seen[other] for other in self._graphs), default=0):
            return step(*given)  # the odd last batch
        if new:
            self._graphs[key] = self._capture(step, given)
            check = True
        fast = self._graphs[key]
        shifts = (None, 1, 2) if new else (None,)
        if fast is None or (check and not self._agrees(step, fast, given, shifts)):
            self._capturing = False
            if not new and not self._failed:
                warnings.warn(
                    "a captured step no longer repeats an eager one: the program depends on state outside torch, and up to 50 steps "
                    "ran on the old state. Going on eagerly; pass such state as data, or use compile=False.",
                    stacklevel=2,
                )
            return step(*given)
        state = self._state()
        found = self._replay(step, fast, given)
        if found is not None:
            return found
        self._put_back_all(state)
        self._capturing = False
        return step(*given)

    def together(self, batch: Batch, count: int) -> list[Tensor] | None:
        """`compute` of `count` steps from the present state at once, each with draws of its own: arrays (count, ...).

        None where the step has no graph, or one with operations that cannot be batched.
        """
        fast = next(iter(self._graphs.values()), None)
        if not self._capturing or not self._batched or fast is None:
            return None
        given, state = self._step_on(batch)[1], self._state()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns where it would go through the steps one by one
                return side_by_side(lambda: tuple(fast(*given)), count)
        except Exception:  # whatever it is, the steps can be taken one by one
            self._batched = False
            self._put_back_all(state)
            return None

    def _state(self) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step changes beside its results: the random state and the networks' buffers."""
        return torch.random.get_rng_state(), {n: b.clone() for n, b in self.program.buffers.items()}

    def _put_back_all(self, state: tuple[Tensor, dict[str, Tensor]]) -> None:
        torch.random.set_rng_state(state[0])
        self.put_back(state[1])

    def _replay(self, step: Any, fast: Any, given: list[Tensor]) -> list[Tensor] | None:
        """A captured step's results; None where it fails, for which `how` gives the reason."""
        try:
            return list(fast(*given))
        except Exception as error:
            self._failed = True
            where = of_replay(error, lambda: step(*given))
            self.how = f"eager, as a captured step failed at {where}: {said(error)}"
            return None

    def _capture(self, step: Any, given: list[Tensor]) -> Any:
        state = self._state()
        try:
            fast, self.how = compiled(capture(step, given), self.num_steps, self.compile)
            return fast
        except CannotCapture as error:
            self.how = f"eager, as the step has no graph: {error}"
            return None
        finally:
            self._put_back_all(state)

    def _agrees(self, step: Any, fast: Any, given: list[Tensor], shifts: Any) -> bool:
        """Hold the captured step against eager ones: from the present random state, and with other draws."""
        state = self._state()
        try:
            for shift in shifts:
                results = []
                for run in (lambda: list(step(*given)), lambda: self._replay(step, fast, given)):
                    self._put_back_all(state)
                    if shift is not None:
                        torch.manual_seed(shift)
                    found = run()
                    if found is None:
                        return False
                    results.append([*found, *(b.clone() for b in self.program.buffers.values())])
                if not same(results[1], results[0]):
                    self.how = "eager, as a captured step did not repeat an eager one (state outside torch?)"
                    return False
            return True
        finally:
            self._put_back_all(state)

    def put_back(self, buffers: Mapping[str, Tensor]) -> None:
        """Give the networks' buffers these values."""
        for name, buffer in self.program.buffers.items():
            buffer.copy_(buffers[name])

    def _blame(self, loss: Tensor, found: list[Tensor], batch: Batch) -> None:
        """Raise with the culprit's name."""
        for name, gradient in zip(self.names, found, strict=False):
            if bool(torch.isfinite(loss)) and not bool(torch.isfinite(gradient).all()):
                raise NonFinite(f"param '{name}': expected a finite gradient; got {gradient.flatten()[:3].tolist()}.")
        own = iter(found[len(self.leaves) :])
        for tree in (self.weights, self.averages):
            for site, leaves in tree.items():
                arrays = [next(own) for _ in leaves]
                if (
                    site in self.plan
                    and bool(torch.isfinite(loss))
                    and not all(bool(torch.isfinite(array).all()) for array in arrays)
                ):
                    raise NonFinite(broken_baseline(site, self.plan[site].estimator))
        raise NonFinite(blame(self.program, batch))

    def current_params(self) -> dict[str, Tensor]:
        """Parameter name -> unconstrained tensor, ours, inside a session and outside."""
        with self.program.lent():
            return {name: leaf.detach() for name, leaf in self._named_leaves().items()}

    def load_values(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back parameters, buffers and the weights of unregistered networks only."""
        with self.program.lent(), torch.no_grad():
            for name, leaf in zip(self.names, self.leaves, strict=True):
                leaf.copy_(torch.as_tensor(flat[f"params/{name}"]))
            for name, buffer in self.program.buffers.items():
                buffer.copy_(torch.as_tensor(flat[f"buffers/{name}"]))
        stored = {name.removeprefix(CONSTANTS): v for name, v in flat.items() if name.startswith(CONSTANTS)}
        self.program.set_constants({name: torch.as_tensor(value) for name, value in stored.items()})

    def final(self) -> None:
        """The state `draw` needs beyond the program: none."""

    def loss(self, batch: Batch, draw: int = 0) -> float:
        """The objective's value on `batch` in evaluation mode; one `draw` always means the same random numbers."""
        devices = [torch.cuda.current_device()] if self.program.device.startswith("cuda") else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices), self.program.evaluating():
            torch.manual_seed(self.program.seed + draw)
            settled = {name: own for name, own in self.averages.items() if name != OWN}
            return float(evaluate(self.program, self.objective, self.plan, self.weights, settled, batch).value)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a continued run needs, as flat NumPy arrays; the same inside a session and outside."""
        with self.program.lent():
            return self._flat()

    def _flat(self) -> dict[str, np.ndarray]:
        flat = {f"params/{n}": leaf.detach() for n, leaf in zip(self.names, self.leaves, strict=True)}
        flat |= {f"{CONSTANTS}{n}": weight.detach() for n, weight in self.program.constants.items()}
        flat |= {f"buffers/{n}": b for n, b in self.program.buffers.items()}
        flat |= {f"weights/{s}/{n}": v.detach() for s, leaves in self.weights.items() for n, v in leaves.items()}
        flat |= {f"averages/{s}/{n}": v for s, leaves in self.averages.items() for n, v in leaves.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, held in optimizer.state_dict()["state"].items():
                flat |= {
                    f"moments/{number}/{index}/{slot}": torch.as_tensor(v) for slot, v in held.items() if v is not None
                }
        flat["random"] = self.random
        return {name: np.array(value.cpu().numpy(), copy=True) for name, value in flat.items()}

    def load(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back what `state` gave."""
        with self.program.lent(), torch.no_grad():
            self.load_values(flat)
            for site, leaves in self.weights.items():
                for name, leaf in leaves.items():
                    leaf.copy_(torch.as_tensor(flat[f"weights/{site}/{name}"]))
            for site, leaves in self.averages.items():
                for name in leaves:
                    leaves[name] = torch.as_tensor(flat[f"averages/{site}/{name}"], device=self.program.device)
            for number, optimizer in enumerate(self.optimizers):
                state = optimizer.state_dict()
                state["state"] = self._moments(flat, number)
                optimizer.load_state_dict(state)
        self.random = torch.as_tensor(flat["random"])
        if self.program.running:  # else the generator is the user's
            torch.random.set_rng_state(self.random)

    def _moments(self, flat: Mapping[str, np.ndarray], number: int) -> dict[int, dict[str, Tensor]]:
        """What an optimizer kept for each parameter: nothing before the first step, else all of it.

        Raises:
            ValueError: a part of it is missing, or belongs to another optimizer.
        """
        prefix = f"moments/{number}/"
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            if key.startswith(prefix):
                index, slot = key.removeprefix(prefix).split("/", 1)
                found.setdefault(int(index), {})[slot] = torch.as_tensor(value)
        if not found:
            return found
        for i, expected in enumerate(self._slots[number]()):
            for slot in sorted(expected ^ found.get(i, {}).keys()):
                asked, came = ("it", "none") if slot in expected else ("none", "one")
                raise ValueError(
                    f"'{prefix}{i}/{slot}': expected {asked} in the optimizer's state; got {came}. Continue with the optimizer and "
                    "the options that the run began with."
                )
        return found


def sample_gradients(
    program: Program, objective: Any, plan: Any, start: Any, batch: Batch, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
    """Independent single-step gradient estimates: name -> (num_samples, *shape)."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in program.params}
    with program.session(seed):
        trainer = Trainer(program, objective, plan, start, None, 1e-3, "auto" if num_samples >= 100 else False)
        buffers = {name: buffer.clone() for name, buffer in program.buffers.items()}
        drawn = 0
        while drawn < num_samples:
            several = trainer.together(batch, min(TOGETHER, num_samples - drawn)) if drawn and not buffers else None
            if several is None:
                several = [value[None] for value in trainer.compute(batch, check=False)]
            trainer.put_back(buffers)
            drawn += len(several[0])
            for rows, value in zip(found.values(), several[2:], strict=False):
                rows.append(value.cpu().numpy())
    return {name: np.concatenate(rows) for name, rows in found.items()}


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


def blame(program: Program, batch: Batch) -> str:
    """Run once more and name the first site whose density is not finite."""
    found: list[str] = []

    def look(message: Message[Tensor]) -> None:
        own = message.distribution
        log_prob = torch.as_tensor(own.log_prob(message.value))
        if not found and not bool(torch.isfinite(log_prob).all()):
            what = "the factor" if message.is_bookkeeping else f"the log density of {type(own).__name__}"
            found.append(
                f"site '{message.name}' ({message.role}): expected {what} to be finite; got {_worst(log_prob)}"
            )

    with torch.no_grad():
        program.run(batch, observer=look)
    where = found[0] if found else "loss: expected a finite value; got NaN or infinity, which no site repeats"
    return f"{where}. Check the batch, the constraints of what the site depends on, and the learning rate."


def _worst(log_prob: Tensor) -> float:
    return float(log_prob[~torch.isfinite(log_prob)].flatten()[0])
