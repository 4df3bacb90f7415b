"""Pyro's messages, handed over to a recorder; and what only Pyro has: plates that are loops, or that have no size yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from ppl_gen.backends.interface import Frame, Message
from ppl_gen.backends.record import Recorder
from ppl_gen.backends.torch.library import as_now
from ppl_gen.errors import ProgramError
from ppl_gen.program import PLATE

if TYPE_CHECKING:
    from pyro.poutine.indep_messenger import CondIndepStackFrame

PyroMessage = dict[str, Any]
LONGEST_LOOP = 1000  # elements of a plate that a Python loop goes through, all of which are taken


class StartAgain(ProgramError):
    """A plate was found, in a first run, that must be treated in another way from its beginning on."""


class Handler(Messenger):
    """Outermost handler of one program run.

    Args:
        recorder: of the run.
        param: supplies a parameter's value for a param message.
        loops: subsampled plates that a Python loop goes through, name -> full size: all their elements are taken, as
            the sites of a subsample have other names in each run. New ones are added.
        leaves: give every real latent a gradient, for a program that differentiates by it.
    """

    def __init__(
        self,
        recorder: Recorder[Tensor],
        param: Callable[[PyroMessage], Tensor],
        loops: dict[str, int] | None = None,
        *,
        leaves: bool = False,
    ) -> None:
        super().__init__()
        self.recorder, self.param, self.leaves = recorder, param, leaves
        self.loops: dict[str, int] = {} if loops is None else loops

    def _pyro_param(self, msg: PyroMessage) -> None:
        if msg["value"] is None:  # no handler of the user's has given it
            msg["value"], msg["done"] = self.param(msg), True

    def _pyro_sample(self, msg: PyroMessage) -> None:
        if isinstance(msg["fn"], _Subsample):
            self._indices(msg)
            return
        message = self._message(msg)
        is_given = self.recorder.before(message)
        if message.observed != msg["is_observed"]:
            msg.update(is_observed=message.observed, value=None, done=False)
        if is_given:
            msg["value"], msg["done"] = message.value, True

    def _indices(self, msg: PyroMessage) -> None:
        """Which elements a plate takes: all of a Python loop's, or what the recorder says."""
        name, fn = msg["name"], msg["fn"]
        if msg["value"] is not None:
            return
        if name in self.loops and fn.subsample_size not in (None, fn.size):
            msg["value"], msg["done"] = Everything(fn.size, fn.subsample_size), True
            return
        rows = self.recorder.indices(name, fn.size, fn.subsample_size)
        if rows is not None:
            msg["value"], msg["done"] = torch.as_tensor(rows, device=fn.device), True

    def _pyro_post_sample(self, msg: PyroMessage) -> None:
        name, fn = msg["name"], msg["fn"]
        if isinstance(fn, _Subsample):
            if fn.subsample_size not in (None, fn.size) and name not in self.loops:
                self.recorder.run.values[PLATE + name] = msg["value"]
            return
        self._whole_loops(msg)
        fill_plates(msg)
        msg["mask"] = as_now(msg["mask"])
        message = self._message(msg)
        self.recorder.cut_off(message)
        if self.leaves and not message.observed and _is_plain(message.value):
            message.value = message.value.detach().requires_grad_()
        msg["value"] = message.value
        self.recorder.note(message)
        msg["value"] = message.value  # an observer may put another in its place

    def _message(self, msg: PyroMessage) -> Message[Tensor]:
        frames = [frame for frame in msg["cond_indep_stack"] if frame.vectorized]
        return Message(
            role=self.recorder.role,
            name=msg["name"],
            distribution=msg["fn"],
            value=msg["value"],
            observed=bool(msg["is_observed"]),
            frames=[Frame(f.name, f.dim, f.size, f.full_size or f.size) for f in frames],
            scale=msg["scale"],
            mask=msg["mask"],
            infer=msg["infer"],
            args=msg["args"],
            kwargs=msg["kwargs"],
        )

    def _whole_loops(self, msg: PyroMessage) -> None:
        """All elements of a plate that a Python loop goes through, without the scale of a subsample."""
        frames = list(msg["cond_indep_stack"])
        for place, frame in enumerate(frames):
            full = frame.full_size or frame.size
            if frame.vectorized or frame.size == full:
                continue
            if frame.name not in self.loops:
                self._meet_loop(frame.name, full)
            frames[place] = frame._replace(size=full)
            msg["scale"] = msg["scale"] * (frame.size / full)
        msg["cond_indep_stack"] = tuple(frames)

    def _meet_loop(self, name: str, full: int) -> None:
        if full > LONGEST_LOOP:
            raise ProgramError(
                f"plate '{name}': expected at most {LONGEST_LOOP} elements in a Python loop, which are all taken as the sites of a "
                f"subsample have other names in each run; got {full}. Use it as a context: with pyro.plate(...) as indices."
            )
        self.loops[name] = full
        raise StartAgain(
            f"plate '{name}': expected the same plates in every run; got a Python loop over a subsample in some runs only. "
            "State it in every run."
        )


class Everything(list[int]):
    """All of a plate's indices, of the length that the plate expects of a subsample."""

    def __init__(self, size: int, length: int) -> None:
        super().__init__(range(size))
        self.length = length

    def __len__(self) -> int:
        return self.length


def fill_plates(msg: PyroMessage) -> None:
    """Give plates without a size that of the site's tensors, and widen a distribution to them, as Pyro does to others."""
    if not any(frame.vectorized and frame.size == -1 for frame in msg["cond_indep_stack"]):
        return
    num_event = len(msg["fn"].event_shape)
    value = torch.as_tensor(msg["value"])
    batch = torch.broadcast_shapes(msg["fn"].batch_shape, value.shape[: value.dim() - num_event])
    if batch != msg["fn"].batch_shape:
        msg["fn"] = msg["fn"].expand(batch)

    def filled(frame: CondIndepStackFrame) -> CondIndepStackFrame:
        if frame.dim is None or frame.size != -1:
            return frame
        size = batch[frame.dim] if len(batch) >= -frame.dim else 1
        return frame._replace(size=size, full_size=size)

    msg["cond_indep_stack"] = tuple(map(filled, msg["cond_indep_stack"]))


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad
