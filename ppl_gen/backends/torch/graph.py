"""Which values reach which, found while a torch program runs on real tensors.

Nothing is traced: every aten operation is watched as it happens (a dispatch mode, beneath autograd, vmap
and TorchScript), and what operations do not show (`detach`, the way to NumPy, a tensor as index) is watched
where it is called (a function mode). What the program computes is unchanged.

Each rule errs on the side of a dependency too many, which costs variance, never bias:

* An output carries what its inputs carry; what is written in place is carried by every alias of the memory.
* A jump is: an integer or boolean operand or result (comparisons, indices, masks), an operation in `operators.STEPS`,
  one that is not torch's own, anything detached or computed without gradients, which includes the forward of
  an `autograd.Function`, whose gradient is what its author says. Kinks (relu, abs, max, clamp) are none.
* An escape is a value read by the host, or a shape that depends on one (`nonzero`, `x[mask]`, `unique`); it
  reaches all that comes after. Let off: boolean checks in the constructors, constraints, validators and
  samplers of the distributions and in Pyro's NaN warnings (they raise, warn or reject). Text made of a tensor (`repr`)
  is taken to be for a reader; the plan says so.
* Once the program hands work to a thread that it starts, everything escapes.

* A hook on a tensor's gradient is a jump of the latents it carries, in all that comes after.
* An operation that is not listed in `ppl_gen.backends.torch.smooth`, or whose pole is not proved to be far, is a jump of latents.

Not seen: threads that ran before, `torch.utils.dlpack.to_dlpack`, `tolist` inside TorchScript, and extensions that
touch memory without a registered operator.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ppl_gen.backends.torch.findings import Findings
from ppl_gen.backends.torch.functions import Functions
from ppl_gen.backends.torch.intervals import UNKNOWN
from ppl_gen.backends.torch.memory import Reach
from ppl_gen.backends.torch.operations import Operations
from ppl_gen.backends.torch.paths import Answers
from ppl_gen.backends.torch.threads import Threads
from ppl_gen.program import NOISE, PARAM, Path, merge

_torch: Any = torch


class Tracker(Findings):
    """Context manager that follows labelled tensors through whatever this thread runs inside it."""

    def __init__(self, answers: Answers | None = None) -> None:
        super().__init__(answers)
        self._threads = Threads()
        self._labels: set[str] = set()  # all sources

    def __enter__(self) -> Tracker:
        self._modes = ExitStack()
        # TorchScript's optimised graphs run on detached tensors, which would all look like jumps.
        self._modes.enter_context(_torch.jit.optimized_execution(False))
        self._modes.enter_context(self._threads)
        self._modes.enter_context(Functions(self))
        self._modes.enter_context(Operations(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()
        if self.has_compiled:  # torch.cond, once compiled under a mode, fails without
            _torch._dynamo.reset()

    def source(self, label: str, tensor: Tensor) -> Tensor:
        """Marks a tensor: what is computed from the result is reached by `label`.

        Args:
            label: the source's name; several tensors may share one.
            tensor: a value, or a parameter of a module.

        Returns:
            The tensor itself; or, if it carries something already (which it then keeps), an alias that does
            not; or a copy, if its memory was written with other sources. Parameters are always themselves.
        """
        with torch._C.DisableTorchFunction():
            if not (tensor.is_leaf and tensor.requires_grad):
                if self.memory.was_written(tensor):
                    tensor = tensor.clone()
                elif self.memory.reach(tensor).keys() - {label}:
                    tensor = tensor.view_as(tensor)
            self._labels.add(label)
            if tensor.requires_grad:
                self.memory.differentiable.add(label)
            self.memory.put(tensor, {label: Path()}, fresh=True)
            if not label.startswith(PARAM):
                self.ranges.set(tensor, UNKNOWN)
                self.pieces.latent(label, tensor)
        return tensor

    def reach(self, *values: object) -> Reach:
        """Sources of any of these tensors (also in lists and dicts), and all that escaped until now."""
        if self._threads.started:
            self.escape({label: Path() for label in self._labels}, "threading")
        with torch._C.DisableTorchFunction():
            found = merge(self.carried(values), self.escaped)
            self.noise = self.drawn_at if NOISE in found else self.noise
            return {source: path for source, path in found.items() if source != NOISE}

    def stops(self, drawn: Tensor, *parts: object) -> str | None:
        """Where a sampler, as it ran, passes no gradient from what reaches its distribution's parts; None if all along."""
        with torch._C.DisableTorchFunction():
            ways, sources = self.memory.reach(drawn), self.carried(parts)
        closed = [s for s in sources if s != NOISE and not (s in ways and ways[s].jump is None)]
        return next((ways[s].jump if s in ways else s for s in closed), None)
