"""The one door to torch and Pyro: their messages, graphs, distributions and steps.

It may import torch, Pyro and what `backends` may, but nothing of `backends.jax`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_gen.backends.dreams import redrawn
from ppl_gen.backends.torch import dialect
from ppl_gen.backends.torch.elsewhere import held_elsewhere
from ppl_gen.backends.torch.optimizers import name_of as optimizer_name
from ppl_gen.backends.torch.program import Program
from ppl_gen.backends.torch.read import read, survey
from ppl_gen.backends.torch.read import relabelled as _relabelled
from ppl_gen.backends.torch.train import Trainer, sample_gradients
from ppl_gen.elimination.sums import sum_out
from ppl_gen.program import Batch, Facts, Run, Term

__all__ = [
    "Program",
    "Trainer",
    "array",
    "draw",
    "held_elsewhere",
    "loading",
    "on_any_statement",
    "host_function",
    "optimizer_name",
    "is_finite",
    "read",
    "relabelled",
    "redraw",
    "resolve_device",
    "sample_gradients",
    "set_params",
    "survey",
    "to_numpy",
    "xp",
]

name = "torch"
xp = dialect.xp


class _AnyStatement(Messenger):
    def __init__(self, call: Callable[[str | None], None]) -> None:
        super().__init__()
        self.call = call

    def _process_message(self, msg: Any) -> None:
        self.call(msg.get("name"))


@contextmanager
def on_any_statement(call: Callable[[str | None], None]) -> Iterator[None]:
    """Call `call(site name)` at the first sign of any Pyro statement."""
    with _AnyStatement(call):
        yield


def resolve_device(device: str) -> str:
    """The device meant: auto is a GPU if torch sees one, else the CPU.

    Raises:
        ValueError: a device that is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        here = sorted(k for k, v in present.items() if v)
        raise ValueError(f"device: expected one of {here} or 'auto'; got {device!r}, which torch does not see here.")
    return device


def loading() -> AbstractContextManager[object]:
    """Inside, the user's own loader makes tensors on the CPU, as it would outside of a session: there its generator is."""
    return torch.device("cpu")


def array(value: Any, device: str = "cpu") -> Any:
    """Arrays, of JAX too, as tensors of the default float or integer type; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        values = np.asarray(value)
        values = values if values.flags.writeable else values.copy()  # torch warns of read-only memory
        if values.dtype.kind == "f":
            return torch.as_tensor(values, dtype=torch.get_default_dtype(), device=device)
        if values.dtype.kind in "iu":
            return torch.as_tensor(values.astype(np.int64), device=device)
        if values.dtype.kind == "b":
            return torch.as_tensor(values, device=device)
    return value


def to_numpy(value: Any) -> Any:
    """A tensor as a NumPy array."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def dream(
    program: Program, batch: Batch, seed: int, values: Mapping[str, Any]
) -> tuple[Batch, dict[str, Any], dict[Term, np.ndarray]]:
    """The batch as the model draws it, its sites' values (those given, and drawn) and terms. Call inside a session."""
    torch.manual_seed(seed)  # the session gives the caller's random state back
    given, drawn, terms = program.dream(batch, values)
    return given, drawn, {term: to_numpy(value) for term, value in terms.items()}


def redraw(program: Program, batch: Batch, seed: int) -> Batch:
    """The batch with what the model draws where it observes an argument; the networks stay as they are."""
    with program.session(seed), program.discovering(), torch.no_grad():
        before = {name: buffer.clone() for name, buffer in program.buffers.items()}
        run = program.run(batch, predictive=True, guide=False)
        program.forget_runs()
        for name, value in before.items():
            program.buffers[name].copy_(value)
    return redrawn(batch, run, lambda value, like: value.to(like.dtype))


def draw(
    prepared: Any,
    state: None,
    batch: Batch,
    num_samples: int,
    seed: int,
    *,
    guide: bool = True,
    predictive: bool = False,
) -> Iterator[dict[str, dict[Any, np.ndarray]]]:
    """Independent runs of the trained program in evaluation mode, as NumPy: values, terms and records."""
    with prepared.session(seed, train=False), torch.no_grad():
        for _ in range(num_samples):
            run = prepared.program.run(batch, guide=guide, predictive=predictive)
            if guide and not predictive:
                run = sum_out(xp, prepared.plan.facts, run, partial(_again, prepared.program, batch, run))
            parts = {"values": run.values, "terms": run.terms, "records": run.records}
            yield {part: {k: to_numpy(v) for k, v in found.items()} for part, found in parts.items()}


def relabelled(prepared: Any, state: None, batch: Batch) -> Facts:
    """The program's facts before any sum, with masks and scales as they are on this batch."""
    with prepared.session(train=False):
        return _relabelled(prepared.program, batch, prepared.plan.facts.whole)


def _again(program: Program, batch: Batch, run: Run, choices: Mapping[str, Any]) -> Run:
    """The model once more on the guide's values and these choices of the sites that are summed out."""
    return program.run(batch, {**run.values, **choices}, guide=False)


def is_finite(program: Program, batch: Batch) -> bool:
    """Whether every term of one run is finite. Call inside a session."""
    with torch.no_grad():
        run = program.run(batch)
    return all(bool(torch.isfinite(term).all()) for term in run.terms.values() if isinstance(term, Tensor))


def host_function(prepared: Any, state: None, function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A portable function of arrays under the trained parameters, as a function of NumPy arrays."""

    def call(*args: np.ndarray) -> np.ndarray:
        with prepared.session(train=False):
            moved = [array(a, prepared.program.device) for a in args]
            return np.asarray(to_numpy(prepared.program.apply(function, *moved)))

    return call


def set_params(program: Program, params: Mapping[str, Any]) -> None:
    """Start from these unconstrained values.

    Raises:
        ValueError: an unknown name or another shape.
    """
    with program.session(), torch.no_grad():
        for key, value in params.items():
            leaf = program.params.get(key)
            if leaf is None or tuple(leaf.shape) != np.shape(value):
                expected = {n: tuple(p.shape) for n, p in program.params.items()}
                raise ValueError(
                    f"params: expected names and shapes {expected}; got '{key}' with shape {np.shape(value)}."
                )
            leaf.copy_(torch.as_tensor(np.asarray(value)))
