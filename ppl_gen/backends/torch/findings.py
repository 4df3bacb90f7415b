"""What is found of one run as it goes: what its values carry, and what left the tensor world."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_gen.backends.torch.frames import is_checking, is_users, where
from ppl_gen.backends.torch.memory import Memory, Reach
from ppl_gen.backends.torch.operators import Function, Operator, tensors_in
from ppl_gen.backends.torch.paths import Answers
from ppl_gen.backends.torch.pieces import Pieces
from ppl_gen.backends.torch.ranges import Ranges
from ppl_gen.backends.torch.words import Planes
from ppl_gen.program import NOISE, PARAM, Path, merge

SHARE = frozenset([Tensor.__dlpack__, Tensor.data_ptr, Tensor.storage, Tensor.untyped_storage])


@dataclass
class Underway:
    """The torch function that is at work.

    Attributes:
        func: the function; None outside of all.
        is_trusted: whether its inner steps block nothing.
        subscript: the tensors that it indexes with.
    """

    func: Function | None = None
    is_trusted: bool = False
    subscript: list[Tensor] = field(default_factory=list)


class Findings:
    """What is found of one run.

    Attributes:
        escapes: what left the tensor world, and where, as `(sources, "model.py:12: Tensor.item")`.
        by_data: whether the user's text reads data on the host.
        noise: where random numbers are first drawn in no distribution's sampler, if any reach a site or decide the program's
            course; those that only start a parameter do not.
        words: which elements of plates reach what.
        ranges: between which bounds tensors lie.
        read_at: where the host first read what a latent reaches; None if nowhere.
        blind: likewise, of reads that could not be answered with all that could have been read.
        printed: where text is made of a value that latents reach; None if nowhere.
        is_quiet: whether a trusted density is worked out: only marks are followed.
        is_told: whether the host was told of any tensor's values.
        drawn_at: where random numbers are first drawn in no distribution's sampler, whatever they reach.
        has_compiled: whether the program compiled a part of itself (torch.cond).
    """

    def __init__(self, answers: Answers | None = None) -> None:
        self.answers = answers or Answers()
        self.ranges = Ranges()
        self.pieces = Pieces(self.ranges)
        self.words = Planes()
        self.memory = Memory()
        self.underway = Underway()
        self.escapes: list[tuple[frozenset[str], str]] = []
        self.escaped: Reach = {}
        self.read_at: str | None = None
        self.blind: str | None = None
        self.printed: str | None = None
        self.noise: str | None = None
        self.drawn_at: str | None = None
        self.by_data = self.is_told = self.is_quiet = self.has_compiled = False

    @contextmanager
    def only_marks(self) -> Iterator[None]:
        """Inside, marks are followed, and nothing else is noted."""
        self.is_quiet = True
        try:
            yield
        finally:
            self.is_quiet = False

    def carried(self, values: object) -> Reach:
        """The sources of all tensors in something."""
        return merge(*map(self.memory.reach, tensors_in(values)))

    def changes(self, reach: Reach) -> bool:
        """Whether what is read hangs on a latent, or on a parameter that the user's own text reads."""
        latents = any(not source.startswith((PARAM, NOISE)) for source in reach)
        return latents or (any(source.startswith(PARAM) for source in reach) and is_users())

    def note_literal(self, tensor: Tensor) -> None:
        """Notes a tensor of the program's own numbers; once the host was told of a tensor's values they may be the data's."""
        if not self.is_told:
            self.words.constant(tensor)

    def note_data(self, tensors: Iterable[Tensor]) -> None:
        """Notes that the user's text reads data on the host: neither latents or parameters, nor its own numbers."""
        if any(not self.memory.reach(t) and not self.words.is_constant(t) for t in tensors) and is_users():
            self.by_data = True

    def note_host_read(self, values: object, func: Function | Operator) -> None:
        """The host sees the tensors in something."""
        tensors = list(tensors_in(values))
        if func in SHARE:
            self.memory.share(tensors)
        if not (all(tensor.dtype == torch.bool for tensor in tensors) and is_checking()):
            self.escape(self.carried(tensors), func)

    def escape(self, reach: Reach, func: Function | Operator | str, *, is_answered: bool = False) -> None:
        """What carries these sources leaves the tensor world, and reaches all that comes after."""
        if self.changes(reach):
            self.read_at = self.read_at or where(func)
            self.blind = self.blind or (None if is_answered else where(func))
        self.noise = self.drawn_at if NOISE in reach else self.noise
        reach = {source: path for source, path in reach.items() if source != NOISE}
        event = frozenset(reach), where(func) if reach else ""
        if reach and event not in self.escapes:
            self.escapes.append(event)
            self.escaped = merge(self.escaped, {label: Path(event[1]) for label in reach})
