"""What a Pyro distribution holds: tensors, parts, and the homes of the classes and functions in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_gen.backends.held import CALLED, held, parts_of
from ppl_gen.backends.interface import Distribution

LIBRARIES = ("torch", "pyro", "ppl_gen", "builtins", "collections", "weakref", "functools")


_PLAIN = (str, bytes, int, float, bool, type(None), torch.Size, torch.dtype, torch.device)


def tensors(thing: object, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Every tensor inside a distribution, transform, constraint or container, each once."""
    seen = set() if seen is None else seen
    if isinstance(thing, _PLAIN) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, torch.nn.Module):
        yield from (*thing.parameters(), *thing.buffers())
        for module in thing.modules():
            yield from (value for value in vars(module).values() if isinstance(value, Tensor))
    elif isinstance(thing, dict):
        for name, value in thing.items():
            if name != "_proposal_r":  # part of von Mises's sampler, not of its density
                yield from tensors(value, seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for value in thing:
            yield from tensors(value, seen)
    elif not isinstance(thing, type) and hasattr(thing, "__dict__"):
        yield from tensors(vars(thing), seen)


def held_tensors(distribution: Distribution) -> list[Tensor]:
    """The tensors that functions inside a distribution hold (a conditioned flow's context)."""
    return [tensor for part in held(distribution, Tensor) for tensor in tensors(part)]


@contextmanager
def untouched(distribution: Distribution) -> Iterator[None]:
    """Whatever a distribution keeps of what is worked out inside (probabilities from logits, say), it forgets again."""
    parts = list(_parts(distribution, set()))
    before = [dict(vars(part)) for part in parts]
    try:
        yield
    finally:
        for part, state in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(state)


def _parts(thing: object, seen: set[int]) -> Iterator[Any]:
    """The distributions, transforms and constraints that a distribution is made of, itself too."""
    if isinstance(thing, _PLAIN) or isinstance(thing, Tensor | type) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, list | tuple):
        for value in thing:
            yield from _parts(value, seen)
    elif isinstance(thing, torch.distributions.Distribution | torch.distributions.Transform):
        yield thing
        for value in list(vars(thing).values()):
            yield from _parts(value, seen)


def is_users(distribution: Distribution) -> bool:
    """Whether a class, network or function that is neither torch's nor Pyro's has a part in how it draws."""
    return any(home.partition(".")[0] not in LIBRARIES for home in _homes(distribution, set()))


def _homes(thing: object, seen: set[int]) -> Iterator[str]:
    """The modules that the distributions, transforms, networks and functions inside something are from."""
    if isinstance(thing, (*_PLAIN, Tensor, type, constraints.Constraint)) or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, dict | list | tuple):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from _homes(value, seen)
    elif isinstance(thing, CALLED):
        yield from (thing.__module__,) if isinstance(thing, FunctionType) else ()
        for value in parts_of(thing):
            yield from _homes(value, seen)
    elif hasattr(thing, "__dict__"):
        yield type(thing).__module__
        yield from _homes(vars(thing), seen)
