"""Which elements of a plate reach which elements of what a torch program computes, whatever their values.

Beside every storage that carries anything stands a mirror of it, one word of marks per element (see
`ppl_gen.program.independence`). A tensor's words are read off the mirror with the tensor's own size and stride, so views, and what is
written through them, need no rules; the rules in `ppl_gen.backends.torch.flows.rules` say what operations with new memory do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_gen.backends.torch.flows.call import Call, either, everything, reduced
from ppl_gen.backends.torch.flows.rules import flow
from ppl_gen.backends.torch.operators import FROM_OUTSIDE, Operation, is_among
from ppl_gen.program.independence import WIDTH, Marks, bits


def storage(tensor: Tensor) -> int:
    """Identity of the memory; 0 where there is none (sparse tensors)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return 0


@contextmanager
def unwatched() -> Iterator[None]:
    """Inside, no mode sees what is done."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        yield


@dataclass
class _Mirror:
    """Words of one storage.

    Attributes:
        words: one per element, shape (elements,).
        size: bytes of an element.
        alive: the storage, so that its identity is not used twice.
    """

    words: Tensor
    size: int
    alive: object

    def refined(self, size: int) -> Tensor:
        """One word for each `size` bytes, which divide an element."""
        return self.words.repeat_interleave(self.size // size) if size < self.size else self.words


@dataclass
class Plane:
    """One word per element of every tensor.

    Attributes:
        marks: key -> (plate, its marks).
    """

    marks: dict[tuple[Hashable, int], tuple[str, Marks]] = field(default_factory=dict)
    used: int = 0
    _mirrors: dict[int, _Mirror] = field(default_factory=dict)
    _loose: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # without a storage: one word for all

    def words_of(self, tensor: Tensor) -> Tensor | None:
        """Words of a tensor, in its shape; None where it carries nothing."""
        place = storage(tensor)
        if not place:
            return self._loose[id(tensor)][1].expand(tensor.shape) if id(tensor) in self._loose else None
        mirror = self._mirrors.get(place)
        return None if mirror is None else _part(mirror, tensor)

    def write(self, tensor: Tensor, words: Tensor | None) -> None:
        """Gives a tensor's memory these words, which are expanded to its shape."""
        place = storage(tensor)
        if not place:
            if words is not None:
                self._loose[id(tensor)] = tensor, reduced(words, range(words.dim())).reshape(())
            return
        mirror = self._mirrors.get(place)
        if mirror is None:
            if words is None or not tensor.numel():
                return
            mirror = self._mirrors[place] = _blank(tensor)
        if (
            tensor.element_size() < mirror.size
            or _length(tensor) * tensor.element_size() > len(mirror.words) * mirror.size
        ):
            mirror = self._mirrors[place] = _resized(mirror, tensor)
        target = _region(mirror.words, mirror.size, tensor)
        target.copy_(words.unsqueeze(-1) if words is not None else torch.zeros((), dtype=torch.int64))

    def carries(self, tensors: Iterable[Tensor]) -> bool:
        """Whether any of these has a mirror."""
        return any(storage(t) in self._mirrors or id(t) in self._loose for t in tensors)


def _length(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _blank(tensor: Tensor) -> _Mirror:
    words = torch.zeros(_length(tensor), dtype=torch.int64, device=tensor.device)
    return _Mirror(words, tensor.element_size(), tensor.untyped_storage())


def _resized(mirror: _Mirror, tensor: Tensor) -> _Mirror:
    """A finer mirror, or one for memory that has grown: what is new there carries what all the rest carries."""
    size = min(mirror.size, tensor.element_size())
    words = mirror.refined(size)
    more = tensor.untyped_storage().nbytes() // size - len(words)
    if more > 0:
        words = torch.cat([words, reduced(words, [0]).expand(more)])
    return _Mirror(words, size, mirror.alive)


def _region(words: Tensor, size: int, tensor: Tensor) -> Tensor:
    """The words under a tensor, its shape + (words per element,)."""
    times = tensor.element_size() // size
    strides = [stride * times for stride in tensor.stride()]
    return words.as_strided([*tensor.shape, times], [*strides, 1], tensor.storage_offset() * times)


def _part(mirror: _Mirror, tensor: Tensor) -> Tensor:
    size = min(mirror.size, tensor.element_size())
    words = mirror.refined(size)
    if not tensor.numel():
        return words.new_zeros(tensor.shape)
    if (tensor.storage_offset() + _extent(tensor)) * (tensor.element_size() // size) > len(words):  # memory has grown
        return reduced(words, [0]).reshape(()).expand(tensor.shape)
    found = _region(words, size, tensor)
    return found.squeeze(-1) if found.shape[-1] == 1 else reduced(found, [-1]).squeeze(-1)


def _extent(tensor: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


class Planes:
    """All planes: as many words per element as the marks need.

    Attributes:
        planes: the planes.
    """

    def __init__(self) -> None:
        self.planes: list[Plane] = []
        self._constant: dict[int, object] = {}  # storages that hold the same in every run

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor was made inside the run from numbers alone."""
        return storage(tensor) in self._constant

    @unwatched()
    def constant(self, tensor: Tensor) -> None:
        """Notes that a tensor is."""
        self._constant[storage(tensor)] = tensor.untyped_storage()

    def follow(self, operation: Operation) -> None:
        """Follows constants and marks through one operation."""
        self._follow_constants(operation)
        if self.planes:
            self._follow_marks(operation)

    def _follow_constants(self, operation: Operation) -> None:
        old, own = ({storage(tensor) for tensor in tensors} for tensors in (operation.inputs, operation.targets))
        random = operation.draws or operation.name in FROM_OUTSIDE
        known = not random and all(place in self._constant or place in own for place in old)
        for tensor in operation.results:
            if known and storage(tensor) and storage(tensor) not in old:
                self._constant[storage(tensor)] = tensor.untyped_storage()
        if not known:
            for place in own:
                self._constant.pop(place, None)

    def _follow_marks(self, operation: Operation) -> None:
        inputs, written = operation.inputs, operation.targets
        old = {storage(tensor) for tensor in inputs}
        fresh = [t for t in operation.results if (storage(t) or id(t)) not in old and not is_among(t, written)]
        outs = [*written, *fresh]
        if not outs:
            return  # views
        for plane in self.planes:
            if plane.carries([*inputs, *written]):
                func, name, args, kwargs = operation.func, operation.name, operation.args, operation.kwargs
                call = Call(func, name, args, kwargs, inputs, outs, written, plane.words_of, self.is_constant)
                for tensor, words in zip(outs, flow(call), strict=True):
                    plane.write(tensor, words)

    @unwatched()
    def mark(self, tensor: Tensor, key: Hashable, plate: str, axis: int) -> None:
        """Marks the positions of `plate` along `axis` of a tensor with memory of its own, under `key`."""
        length = tensor.shape[axis]
        plane, marks = self._marks((key, length), plate, length)
        words = torch.as_tensor(marks.of(plate), device=tensor.device).reshape([-1] + [1] * (-axis - 1))
        present = plane.words_of(tensor)
        plane.write(tensor, (words if present is None else words | present).expand(tensor.shape))

    def _marks(self, key: tuple[Hashable, int], plate: str, length: int) -> tuple[Plane, Marks]:
        for plane in self.planes:
            if key in plane.marks:
                return plane, plane.marks[key][1]
        plane = next((plane for plane in self.planes if plane.used + bits(length) <= WIDTH), None) or Plane()
        if plane not in self.planes:
            self.planes.append(plane)
        marks = Marks({plate: length}, {plate: plane.used})
        plane.marks[key], plane.used = (plate, marks), plane.used + bits(length)
        return plane, marks

    @unwatched()
    def reached(self, tensors: Iterable[Tensor]) -> bool:
        """Whether any of these tensors carries marks."""
        tensors = list(tensors)
        return any(plane.carries(tensors) for plane in self.planes)

    @unwatched()
    def smear(self, tensor: Tensor, *rest: Tensor) -> None:
        """Gives every element of a tensor all marks of it and of the rest."""
        for plane in self.planes:
            found = [everything(words) for words in map(plane.words_of, (tensor, *rest)) if words is not None]
            if found:
                plane.write(tensor, either(*(words.to(tensor.device) for words in found)))

    @unwatched()
    def strays(self, tensors: Iterable[Tensor], plates: Mapping[str, int]) -> set[tuple[Hashable, str]]:
        """(key of marks, plate) where elements of these tensors, which broadcast, carry what other positions hold.

        Args:
            tensors: that one term is made from.
            plates: plate -> its dimension in the term.
        """
        found: set[tuple[Hashable, str]] = set()
        for plane in self.planes:
            words = either(*(plane.words_of(tensor) for tensor in tensors))
            if words is None:
                continue
            array = words.cpu().numpy()
            for (key, _), (plate, marks) in plane.marks.items():
                if plate in plates and marks.strays(plate, array, plates[plate]):
                    found.add((key, plate))
        return found
