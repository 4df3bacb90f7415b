"""What tensors carry: by themselves, by the memory that they share, and by what was written into it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ppl_gen.backends.torch.frames import is_checking, is_transforming, where
from ppl_gen.backends.torch.operators import is_inexact
from ppl_gen.backends.torch.words import storage
from ppl_gen.program import Path, blocked, merge

Reach = dict[str, Path]


class Memory:
    """The sources of every tensor and of its memory.

    Attributes:
        differentiable: sources that require gradients.
        is_lenient: whether a tensor without a gradient is no sign of a detach just now.
    """

    def __init__(self) -> None:
        self.differentiable: set[str] = set()
        self.is_lenient = False
        self._own: dict[int, tuple[Tensor, Reach]] = {}  # tensor -> itself, kept alive, and what it carries
        self._made: dict[int, Reach] = {}  # storage -> what was put there by the operation that made it
        self._written: dict[int, dict[int, Reach]] = {}  # storage -> base of the views written -> what
        self._apart: set[int] = set()  # pieces that promise not to be read through one another (unsafe_split)
        self._origins: dict[int, int] = {}  # piece of an unsafe_split -> the base of what was split
        self._answered_for: set[int] = set()  # tensors whose lack of a gradient the library answers for
        self._shared: set[int] = set()  # storages that the host can look into at any time
        self._alive: list[object] = []  # keeps identities from being used twice

    def reach(self, tensor: Tensor) -> Reach:
        """The sources of a tensor."""
        place = storage(tensor)
        if id(tensor) in self._own:
            reach = self._own[id(tensor)][1]
        else:  # if its memory is known, an alias that no operation made, such as Parameter(tensor)
            reach = self._made.get(place, {})
            reach = blocked(reach, where("alias")) if reach else reach
        base = id(_base(tensor))
        for target, values in self._written.get(place, {}).items():
            reach = merge(reach, values if self._shows(base, target) else blocked(values, where("alias")))
        lost = {label: path for label, path in reach.items() if label in self.differentiable}
        if lost and self._is_detached(tensor):
            reach = merge(reach, blocked(lost, where("no gradient")))
        return reach

    def _shows(self, base: int, target: int) -> bool:
        """Whether autograd shows, through views of `base`, what was written into views of `target`."""
        known = base == target or self._apart >= {base, target} or self._origins.get(base) == target
        return known or target in self._answered_for

    def _is_detached(self, tensor: Tensor) -> bool:
        """Whether a tensor could carry a gradient, has none, and no library answers for that."""
        if self.is_lenient or id(tensor) in self._answered_for or not is_inexact(tensor):
            return False
        return not tensor.requires_grad and not is_transforming()

    def was_written(self, tensor: Tensor) -> bool:
        """Whether its memory was written into with anything that carries sources."""
        return bool(self._written.get(storage(tensor)))

    def put(self, tensor: Tensor, reach: Reach, fresh: bool) -> None:
        """Notes what a tensor carries, and its memory too where that is fresh."""
        self._own[id(tensor)] = tensor, reach
        place = storage(tensor)
        if fresh and place:
            self._made[place] = merge(self._made.get(place, {}), reach)
            self._alive.append(tensor.untyped_storage())

    def write(self, tensor: Tensor, reach: Reach) -> bool:
        """Notes what is written into a tensor's memory; whether the host can look into that."""
        place, base = storage(tensor), _base(tensor)
        if not place:
            self.put(tensor, merge(self.reach(tensor), reach), fresh=False)
            return False
        if is_checking() and reach.keys() <= self.reach(tensor).keys():
            return False  # a sampler tidies its own draw: Gamma keeps it away from 0
        views = self._written.setdefault(place, {})
        views[id(base)] = merge(views.get(id(base), {}), reach)
        self._alive += [base, tensor.untyped_storage()]
        return place in self._shared or not tensor.untyped_storage().resizable()  # shared with NumPy

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Notes that the host can look into the memory of these from now on."""
        for tensor in tensors:
            self._shared.add(storage(tensor))
            self._alive.append(tensor)

    def split(self, pieces: Iterable[Tensor], tensor: Tensor) -> None:
        """Notes the pieces of an unsafe split."""
        for piece in pieces:
            self._apart.add(id(piece))
            self._origins[id(piece)] = id(_base(tensor))
            self._alive.append(piece)

    def answer_for(self, tensors: Iterable[Tensor]) -> None:
        """Notes tensors whose lack of a gradient a library answers for."""
        self._answered_for |= set(map(id, tensors))


def _base(tensor: Tensor) -> Tensor:
    """The tensor whose gradient knows of writes to this one."""
    return tensor if tensor._base is None else tensor._base
