"""Tensors that a program holds on another device than it is to run on: a session moves neither these nor what they touch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import FunctionType, ModuleType

import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from ppl_gen.backends.held import globals_of, named_parts

MOST = 10_000  # objects that are gone through
MOVED = ("_parameters", "_buffers")  # of a network: a session lends it others


def held_elsewhere(device: str, *programs: object) -> list[str]:
    """The tensors in closures, globals, distributions and objects of programs that are not on `device`, in words.

    What a program makes while it runs, its parameters, and the weights and buffers of networks that it calls are moved, and do
    not count. A tensor of the CPU counts for every other device; on the CPU nothing is looked for.
    """
    place = torch.device(device)
    if place.type == "cpu":
        return []
    found = [(name, tensor) for name, tensor in _tensors(programs) if not _is_at(tensor, place)]
    return [f"'{name}' of shape {tuple(tensor.shape)} on {tensor.device}" for name, tensor in found]


def _is_at(tensor: Tensor, place: torch.device) -> bool:
    own = tensor.device
    return own.type == place.type and (place.index is None or own.index == place.index)


def _tensors(programs: tuple[object, ...]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in what programs hold, each once, with the last name on the way to it."""
    waiting = deque[tuple[str, object]](("", program) for program in programs)
    seen = dict[int, object]()  # each kept, so that no other takes its identity
    while waiting and len(seen) < MOST:
        name, thing = waiting.popleft()
        if id(thing) in seen or isinstance(thing, type | ModuleType | Trace):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            yield name or "a tensor", thing
        else:
            waiting += [(own or name, part) for own, part in _parts(thing)]


def _parts(thing: object) -> list[tuple[str, object]]:
    parts = named_parts(thing)
    if isinstance(thing, nn.Module):
        return [(name, part) for name, part in parts if name not in MOVED]
    return [*parts, *globals_of(thing)] if isinstance(thing, FunctionType) else parts
