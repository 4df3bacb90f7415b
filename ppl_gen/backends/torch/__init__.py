"""The one door to torch and Pyro: their messages, graphs, distributions and steps.

It may import torch, Pyro and what `backends` may, but nothing of `backends.jax`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_gen.backends import doors
from ppl_gen.backends.doors import Watch, drawn
from ppl_gen.backends.dreams import redrawn
from ppl_gen.backends.params import fitting
from ppl_gen.backends.survey import relabelled as _relabelled
from ppl_gen.backends.torch import dialect, library
from ppl_gen.backends.torch.elsewhere import held_elsewhere
from ppl_gen.backends.torch.engine import Engine
from ppl_gen.backends.torch.library import to_host as to_numpy
from ppl_gen.backends.torch.optimizers import name_of as optimizer_name
from ppl_gen.backends.torch.program import Program
from ppl_gen.backends.torch.read import read, survey
from ppl_gen.program import Batch, Facts, Term

if TYPE_CHECKING:  # of a later layer
    from ppl_gen.training.prepare import Prepared

__all__ = [
    "Engine",
    "Program",
    "array",
    "draw",
    "dream",
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
    "set_params",
    "survey",
    "to_numpy",
    "xp",
]

name = "torch"
xp = dialect.xp


class on_any_statement(Watch, Messenger):
    """Inside, every Pyro statement is reported by its name."""


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


def array(value: object, device: str = "cpu") -> Any:
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
    prepared: Prepared,
    state: object,
    batch: Batch,
    num_samples: int,
    seed: int,
    *,
    guide: bool = True,
    predictive: bool = False,
) -> Iterator[dict[str, dict[Any, np.ndarray]]]:
    """Independent runs of the trained program in evaluation mode, as NumPy: values, terms and records."""
    program = cast(Program, prepared.program)
    with prepared.session(seed, train=False), torch.no_grad():
        for _ in range(num_samples):
            parts = drawn(xp, prepared.plan.facts, program.run, batch, guide=guide, predictive=predictive)
            yield {part: {k: to_numpy(v) for k, v in found.items()} for part, found in parts.items()}


def relabelled(prepared: Prepared, state: object, batch: Batch) -> Facts:
    """The program's facts before any sum, with masks and scales as they are on this batch."""
    program = cast(Program, prepared.program)
    with prepared.session(train=False), torch.no_grad():
        return _relabelled(library, lambda look: program.run(batch, observer=look), prepared.plan.facts.whole)


def is_finite(program: Program, batch: Batch) -> bool:
    """Whether every term of one run is finite. Call inside a session."""
    with torch.no_grad():
        return doors.is_finite(library, program.run(batch))


def host_function(prepared: Prepared, state: object, function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A portable function of arrays under the trained parameters, as a function of NumPy arrays."""
    program = cast(Program, prepared.program)

    def call(*args: np.ndarray) -> np.ndarray:
        with prepared.session(train=False):
            moved = [array(a, program.device) for a in args]
            return np.asarray(to_numpy(program.apply(function, *moved)))

    return call


def set_params(program: Program, params: Mapping[str, Any]) -> None:
    """Start from these unconstrained values.

    Raises:
        ValueError: an unknown name or another shape.
    """
    with program.session(), torch.no_grad():
        for _, leaf, value in fitting(program.params, params):
            leaf.copy_(torch.as_tensor(value))
