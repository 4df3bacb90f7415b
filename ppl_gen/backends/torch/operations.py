"""What one aten operation does to what its operands carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_gen.backends.torch import smooth
from ppl_gen.backends.torch.findings import Findings
from ppl_gen.backends.torch.frames import is_sampling, is_transforming, where
from ppl_gen.backends.torch.functions import CHECKED, DETACH
from ppl_gen.backends.torch.memory import Reach
from ppl_gen.backends.torch.operators import (
    AMBIGUOUS,
    UNSAFE_PIECES,
    Operation,
    Operator,
    detaches,
    is_among,
    is_inexact,
)
from ppl_gen.backends.torch.words import storage
from ppl_gen.errors import ProgramError
from ppl_gen.program import NOISE, PARAM, Path, blocked, merge


class Operations(TorchDispatchMode):
    """Watches the operations of a run."""

    supports_higher_order_operators = True

    def __init__(self, run: Findings) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run = run

    def __torch_dispatch__(
        self, func: Operator, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            out = func(*args, **(kwargs or {}))
            self._note(Operation(func, args, kwargs or {}, out))
        return out

    def _note(self, operation: Operation) -> None:
        """Notes what the results of one operation carry, and the memory it wrote."""
        run = self.run
        run.has_compiled |= isinstance(operation.func, HigherOrderOperator)
        if any(tensor.is_nested for tensor in operation.results):
            raise ProgramError(
                f"{where(operation.func)}: expected tensors with a shape; got a nested one. "
                "Pad the rows to one length, and mask the rest."
            )
        run.words.follow(operation)
        if run.is_quiet:
            return
        run.ranges.operation(operation)
        if operation.name in UNSAFE_PIECES:
            run.memory.split(operation.out, operation.args[0])
        self._follow(operation)

    def _follow(self, operation: Operation) -> None:
        """Follows sources through an operation, if any come to it."""
        run, subscript = self.run, self.run.underway.subscript
        noisy = operation.draws and not is_sampling()
        if noisy and run.drawn_at is None:
            run.drawn_at = where(operation.func)
        harmless = run.pieces.harmless(operation.name, operation.args)
        index = merge(*(run.memory.reach(tensor) for tensor in subscript if not is_among(tensor, harmless)))
        reaches = [run.memory.reach(tensor) for tensor in operation.inputs]
        if operation.tells:
            run.note_data(operation.host_reads(subscript))
        if not noisy and not (index or any(reaches)):
            return
        trusted = run.underway.is_trusted or is_transforming()
        if run.underway.func not in CHECKED and not trusted:
            run.note_host_read(operation.host_reads(subscript), run.underway.func or operation.func)
        crossing = _Crossing(run, operation, where(operation.func), trusted, harmless)
        crossing.leave(crossing.enter(index, reaches, noisy))


@dataclass(frozen=True)
class _Crossing:
    """One operation, and what comes to it.

    Attributes:
        run: where all is noted.
        operation: the operation.
        line: the user's, and the operation's name.
        trusted: whether a library answers for what is done here: nothing is blocked.
        harmless: the operands through which it has no step, as it is used here.
    """

    run: Findings
    operation: Operation
    line: str
    trusted: bool
    harmless: Sequence[Tensor]

    def enter(self, index: Reach, reaches: Sequence[Reach], noisy: bool) -> Reach:
        """What the operands carry into the operation, together.

        Args:
            index: what the tensors of a subscript carry.
            reaches: what each of the inputs carries.
            noisy: whether the program draws random numbers here.
        """
        operation, pieces = self.operation, self.run.pieces
        risky = smooth.steps(operation, self.run.ranges) if operation.is_own else None
        raw = merge(*map(pieces.unblocked, operation.inputs, reaches))
        pieces.note(operation.name, operation.args, operation.out, raw)
        return merge(
            {NOISE: Path()} if noisy else {},
            index if self.trusted else blocked(index, self.line),
            *(self._through(*one, risky) for one in zip(operation.inputs, reaches, strict=True)),
        )

    def _through(self, tensor: Tensor, reach: Reach, risky: Sequence[Tensor] | None) -> Reach:
        """What one operand carries into the operation, given where that may step; None: at every operand."""
        if is_among(tensor, self.harmless):
            return self.run.pieces.unblocked(tensor, reach)
        steps = not self.trusted and (risky is None or is_among(tensor, risky))
        return self._as_type(tensor, _latents_blocked(reach, self.line) if steps else reach)

    def _as_type(self, tensor: Tensor, reach: Reach) -> Reach:
        """What is left of sources in a tensor's type: no gradient passes an integer."""
        return reach if self.trusted or is_inexact(tensor) else blocked(reach, self.line)

    def leave(self, reach: Reach) -> None:
        """Notes what the results and the memory that was written carry."""
        operation, memory, func = self.operation, self.run.memory, self.run.underway.func
        detached = func in DETACH or (operation.name == "detach" and detaches(func))
        reach = self._stopped(reach, detached)
        for tensor, differentiable in [*operation.written, *((buffer, False) for buffer in operation.buffers)]:
            carried = reach if differentiable else blocked(reach, self.line)
            if memory.write(tensor, carried):
                self.run.escape(carried, operation.func)
        if self.trusted and detached:
            memory.answer_for(operation.results)
        old = {storage(tensor) for tensor in operation.inputs}
        for tensor in operation.results:
            if not any(tensor is target for target, _ in operation.written):
                kept = blocked(reach, self.line) if self._is_unsure(tensor) else reach
                memory.put(tensor, self._as_type(tensor, kept), fresh=storage(tensor) not in old)

    def _stopped(self, reach: Reach, detached: bool) -> Reach:
        """What is left of the sources in an operation that passes no gradient at all."""
        stopped = (detached or self.operation.is_step) and not self.trusted
        if not stopped and (torch.is_grad_enabled() or self.run.underway.is_trusted):
            return reach
        if not torch.is_grad_enabled() and is_sampling():
            return blocked({NOISE: Path()} | reach, where("sample"))
        return blocked(reach, self.line)

    def _is_unsure(self, tensor: Tensor) -> bool:
        """Whether a result is known only up to its sign."""
        places = () if self.trusted else AMBIGUOUS.get(self.operation.name, ())
        return any(tensor is self.operation.out[place] for place in places)


def _latents_blocked(reach: Reach, where: str) -> Reach:
    """The same sources; no gradient passes to those that are no parameters."""
    lost = blocked({source: path for source, path in reach.items() if not source.startswith(PARAM)}, where)
    return reach | lost
