"""Steps replayed from captured graphs, as long as these repeat eager steps."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_gen.backends.torch.capture import CannotCapture, Step, capture, compiled, said, same, side_by_side
from ppl_gen.backends.torch.generators import RandomState, random_state, set_random_state
from ppl_gen.backends.torch.places import of_replay
from ppl_gen.backends.torch.program import Program


class Before(NamedTuple):
    """What a step changes beside its results: the generators, and the networks' buffers."""

    random: RandomState
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, program: Program) -> Before:
        """As they are now."""
        return cls(random_state(), {name: buffer.clone() for name, buffer in program.buffers.items()})

    def put_back(self, program: Program) -> None:
        """Give the program its buffers, and the generators their states."""
        set_random_state(self.random)
        self.put_back_buffers(program)

    def put_back_buffers(self, program: Program) -> None:
        """Give the program its buffers."""
        for name, buffer in program.buffers.items():
            buffer.copy_(self.buffers[name])


class Replays:
    """Graphs of a step, one for each kind of inputs that comes often enough.

    Args:
        program: whose step it is.
        wanted: "auto" captures, and compiles what is captured in long runs; True compiles it.
        steps: length of the run, by which "auto" decides.

    Attributes:
        how: how steps are taken, and why so.
        on: whether graphs are made and trusted.
    """

    def __init__(self, program: Program, wanted: bool | str, steps: int) -> None:
        self.how, self.on = "eager", True
        self._program, self._wanted, self._steps = program, wanted, steps
        self._graphs: dict[Hashable, Step | None] = {}
        self._seen: Counter[Hashable] = Counter()
        self._batched = True  # no operation has refused to be batched
        self._failed = False  # a replay raised

    def __call__(
        self, step: Step, given: list[Tensor], kind: Hashable, before: Before, number: int | None = None
    ) -> list[Tensor]:
        """What a step gives on these inputs.

        Args:
            step: takes one eager step.
            given: its inputs: the very tensors that its closures read.
            kind: of the inputs: all that a graph of them has burnt in.
            before: what the step is about to change.
            number: of the step; at powers of two, and at the run's last, a graph is held against an eager step again; without
                one never.
        """
        if not self.on or self._is_rare(kind):
            return step(*given)
        new = kind not in self._graphs
        if new:
            self._graphs[kind] = self._captured(step, given, before)
        fast = self._graphs[kind]
        if fast is not None and (new or self._is_in_doubt(number)):
            shifts = (None, 1, 2) if new else (None,)
            if not all(self._agrees(step, fast, given, before, shift) for shift in shifts):
                fast = None
                if number is not None and not new and not self._failed:
                    self._warn(number)
        found = None if fast is None else self._replayed(step, fast, given)
        if found is None:
            self.on = False
            before.put_back(self._program)
            return step(*given)
        return found

    def together(self, given: list[Tensor], count: int) -> list[Tensor] | None:
        """`count` steps at once from the present state, each with draws of its own: arrays (count, ...).

        None where there is no graph yet, or one with operations that cannot be batched.
        """
        fast = next(iter(self._graphs.values()), None)
        if not self.on or not self._batched or fast is None:
            return None
        before = Before.of(self._program)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # torch warns where it would go through the steps one by one
                return side_by_side(lambda: tuple(fast(*given)), count)
        except Exception:  # whatever it is, the steps can be taken one by one
            self._batched = False
            before.put_back(self._program)
            return None

    def _is_in_doubt(self, number: int | None) -> bool:
        """Whether state outside torch may have changed for long enough to look again."""
        return number is not None and (number & (number - 1) == 0 or number == self._steps - 1)

    def _is_rare(self, kind: Hashable) -> bool:
        """Whether it is the odd last batch, which gets no graph of its own."""
        self._seen[kind] += 1
        if kind in self._graphs:
            return False
        return self._seen[kind] <= max((self._seen[other] for other in self._graphs), default=0)

    def _captured(self, step: Step, given: list[Tensor], before: Before) -> Step | None:
        try:
            fast, self.how = compiled(capture(step, given), self._steps, self._wanted)
            return fast
        except CannotCapture as error:
            self.how = f"eager, as the step has no graph: {error}"
            return None
        finally:
            before.put_back(self._program)

    def _agrees(self, step: Step, fast: Step, given: list[Tensor], before: Before, shift: int | None) -> bool:
        """Whether a replay gives what an eager step gives, from the present random state or from a seed of their own."""

        def begin() -> None:
            before.put_back(self._program)
            if shift is not None:
                torch.manual_seed(shift)

        def everything(found: list[Tensor]) -> list[Tensor]:
            return [*found, *(buffer.clone() for buffer in self._program.buffers.values())]

        try:
            begin()
            expected = everything(list(step(*given)))
            begin()
            found = self._replayed(step, fast, given)
            agrees = found is not None and same(everything(found), expected)
        finally:
            before.put_back(self._program)
        if found is not None and not agrees:
            self.how = "eager, as a captured step did not repeat an eager one (state outside torch?)"
        return agrees

    def _replayed(self, step: Step, fast: Step, given: list[Tensor]) -> list[Tensor] | None:
        """A replay's results; None where it fails, for which `how` gives the reason."""
        try:
            return list(fast(*given))
        except Exception as error:
            self._failed = True
            where = of_replay(error, lambda: step(*given))
            self.how = f"eager, as a captured step failed at {where}: {said(error)}"
            return None

    def _warn(self, number: int) -> None:
        last = 1 << max(0, (number - 1).bit_length() - 1)  # that was looked at
        warnings.warn(
            "a captured step no longer repeats an eager one: the program depends on state outside torch, and up to "
            f"{number - last} steps ran on the old state. Captured steps are checked at steps 1, 2, 4, 8, ... and at the last. Going "
            "on eagerly; pass such state as data, or use compile=False.",
            stacklevel=2,
        )
