"""Steps of a torch program: gradient, optimiser, state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_gen.backends.torch import dialect
from ppl_gen.backends.torch.program import Program
from ppl_gen.errors import NonFinite
from ppl_gen.program import Batch

Tree = dict[str, dict[str, Tensor]]


def tensors_of(tree: Mapping[str, Mapping[str, Any]], device: str, *, grad: bool) -> Tree:
    """A two-level tree of NumPy arrays as tensors."""
    return {
        site: {n: torch.tensor(v, device=device).requires_grad_(grad) for n, v in leaves.items()} for site, leaves in tree.items()
    }


def evaluate(program: Program, objective: Any, plan: Any, weights: Tree, averages: Tree, batch: Batch) -> Any:
    """The objective on one batch: see `ppl_gen.objectives.elbo.Loss`."""

    def run(key: None, fixed: Mapping[str, Any], cut: Any) -> Any:
        return program.run(batch, fixed, cut)

    return objective(dialect.xp, run, [None] * plan.num_particles, plan, weights, averages)


def gradients(surrogate: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradient for every leaf, zero where there is no way."""
    if not leaves:
        return []
    found = torch.autograd.grad(surrogate, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def sample_gradients(
    program: Program, objective: Any, plan: Any, start: Any, batch: Batch, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
    """Independent single-step gradient estimates: name -> (num_samples, *shape)."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in program.params}
    with program.session(seed):
        weights = tensors_of(start[0], program.device, grad=True)
        averages = tensors_of(start[1], program.device, grad=False)
        leaves = list(program.params.values())
        for _ in range(num_samples):
            loss = evaluate(program, objective, plan, weights, averages, batch)
            for name, gradient in zip(found, gradients(loss.surrogate, leaves), strict=True):
                found[name].append(gradient.cpu().numpy())
    return {name: np.stack(rows) for name, rows in found.items()}


class Trainer:
    """The training state of one torch program and the step that moves it.

    Args:
        program: inside its session while steps are taken.
        objective: what is minimised.
        plan: the estimators.
        start: (baseline weights, running averages) as NumPy trees.
        optimizer: a torch.optim class or partial taking parameters; None means Adam.
        learning_rate: for Adam, and for an optimizer class that accepts ``lr``.
        compile: accepted for symmetry with JAX; this trainer runs eagerly.
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
    ) -> None:
        self.program, self.objective, self.plan = program, objective, plan
        self.weights = tensors_of(start[0], program.device, grad=True)
        self.averages = tensors_of(start[1], program.device, grad=False)
        self.names = list(program.params)
        self.leaves = [program.params[name] for name in self.names]
        self.baseline_leaves = [leaf for leaves in self.weights.values() for leaf in leaves.values()]
        self.optimizers = []
        if self.leaves:
            self.optimizers.append(_build(optimizer, self.leaves, learning_rate))
        if self.baseline_leaves:
            self.optimizers.append(torch.optim.Adam(self.baseline_leaves, lr=1e-3))

    def steps(self, source: Any, first: int, count: int) -> np.ndarray:
        """Take the steps `first`, ..., each on the source's batch of that number; losses in nats, (steps taken,).

        Raises:
            NonFinite: the loss or a gradient is; the state is as before that step, `.losses` holds those before.
        """
        losses: list[float] = []
        for number in range(first, first + count):
            try:
                losses.append(self.step(source.build(*source.at(number))))
            except NonFinite as error:
                error.losses = np.array(losses)
                raise
        return np.array(losses)

    def step(self, batch: Batch) -> float:
        """One step on `batch`; returns the loss in nats, scaled to the whole data.

        Raises:
            NonFinite: the loss or a gradient is; the state is as before the step.
        """
        before = {name: buffer.clone() for name, buffer in self.program.buffers.items()}
        try:
            loss = evaluate(self.program, self.objective, self.plan, self.weights, self.averages, batch)
            found = gradients(loss.surrogate, [*self.leaves, *self.baseline_leaves])
            self._check(loss, found, batch)
        except NonFinite:
            for name, buffer in self.program.buffers.items():
                buffer.copy_(before[name])
            raise
        for leaf, gradient in zip([*self.leaves, *self.baseline_leaves], found, strict=True):
            leaf.grad = gradient
        for optimizer in self.optimizers:
            optimizer.step()
        for leaf in (*self.leaves, *self.baseline_leaves):
            leaf.grad = None
        self.averages = {s: {n: v.detach() for n, v in leaves.items()} for s, leaves in loss.averages.items()}
        return float(loss.value)

    def _check(self, loss: Any, found: list[Tensor], batch: Batch) -> None:
        """Raise with the culprit's name if anything is not finite."""
        sums = [loss.value.reshape(()), *(gradient.sum() for gradient in found)]
        if bool(torch.isfinite(torch.stack(sums)).all()):
            return
        for name, gradient in zip(self.names, found, strict=False):
            if bool(torch.isfinite(loss.value)) and not bool(torch.isfinite(gradient).all()):
                raise NonFinite(f"param '{name}': expected a finite gradient; got {gradient.flatten()[:3].tolist()}.")
        raise NonFinite(blame(self.program, batch))

    def current_params(self) -> dict[str, Tensor]:
        """Parameter name -> unconstrained tensor."""
        return dict(zip(self.names, self.leaves, strict=True))

    def load_values(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back parameters and buffers only."""
        with torch.no_grad():
            for name, leaf in zip(self.names, self.leaves, strict=True):
                leaf.copy_(torch.as_tensor(flat[f"params/{name}"]))
            for name, buffer in self.program.buffers.items():
                buffer.copy_(torch.as_tensor(flat[f"buffers/{name}"]))

    def final(self) -> None:
        """The state `draw` needs beyond the program: none."""

    def loss(self, batch: Batch) -> float:
        """The objective's value on `batch` in evaluation mode, always with the same random numbers."""
        devices = [torch.cuda.current_device()] if self.program.device.startswith("cuda") else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices), self.program.evaluating():
            torch.manual_seed(self.program.seed)
            return float(evaluate(self.program, self.objective, self.plan, self.weights, self.averages, batch).value)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a continued run needs, as flat NumPy arrays."""
        flat = {f"params/{n}": leaf.detach() for n, leaf in zip(self.names, self.leaves, strict=True)}
        flat |= {f"buffers/{n}": b for n, b in self.program.buffers.items()}
        flat |= {f"weights/{s}/{n}": v.detach() for s, leaves in self.weights.items() for n, v in leaves.items()}
        flat |= {f"averages/{s}/{n}": v for s, leaves in self.averages.items() for n, v in leaves.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                flat |= {f"moments/{number}/{index}/{slot}": torch.as_tensor(v) for slot, v in slots.items() if v is not None}
        flat["random"] = torch.random.get_rng_state()
        return {name: np.array(value.cpu().numpy(), copy=True) for name, value in flat.items()}

    def load(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back what `state` gave."""
        self.load_values(flat)
        with torch.no_grad():
            for site, leaves in self.weights.items():
                for name, leaf in leaves.items():
                    leaf.copy_(torch.as_tensor(flat[f"weights/{site}/{name}"]))
        for site, leaves in self.averages.items():
            for name in leaves:
                leaves[name] = torch.as_tensor(flat[f"averages/{site}/{name}"], device=self.program.device)
        for number, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            state["state"] = _slots(flat, f"moments/{number}/")
            optimizer.load_state_dict(state)
        torch.random.set_rng_state(torch.as_tensor(flat["random"]))


def _slots(flat: Mapping[str, np.ndarray], prefix: str) -> dict[int, dict[str, Tensor]]:
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        if key.startswith(prefix):
            index, slot = key.removeprefix(prefix).split("/", 1)
            slots.setdefault(int(index), {})[slot] = torch.as_tensor(value)
    return slots


def _build(optimizer: Callable[..., Any] | None, leaves: list[Tensor], learning_rate: float) -> Any:
    if optimizer is None:
        return torch.optim.Adam(leaves, lr=learning_rate)
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return optimizer(leaves, lr=learning_rate)
    built = optimizer(leaves) if callable(optimizer) else None
    if not isinstance(built, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer: expected a torch.optim class or a partial of one; got {optimizer!r}. "
            "For example functools.partial(torch.optim.SGD, lr=0.1)."
        )
    return built


def blame(program: Program, batch: Batch) -> str:
    """Run once more and name the first site whose density is not finite."""
    from ppl_gen.backends.torch.record import is_bookkeeping

    found: list[str] = []

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        log_prob = torch.as_tensor(msg["fn"].log_prob(msg["value"]))
        if not found and not bool(torch.isfinite(log_prob).all()):
            what = "the factor" if is_bookkeeping(msg) else f"the log density of {type(msg['fn']).__name__}"
            found.append(f"site '{msg['name']}' ({role}): expected {what} to be finite; got {_worst(log_prob)}")

    with torch.no_grad():
        program.run(batch, observer=look)
    where = found[0] if found else "loss: expected a finite value; got NaN or infinity, which no site repeats"
    return f"{where}. Check the batch, the constraints of what the site depends on, and the learning rate."


def _worst(log_prob: Tensor) -> float:
    return float(log_prob[~torch.isfinite(log_prob)].flatten()[0])
