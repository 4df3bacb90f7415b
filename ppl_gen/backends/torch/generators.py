"""The state of every generator that torch draws from: saved, put back and kept in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = "cpu"
RandomState = dict[str, Tensor]  # device -> the state of its generator


def generators() -> dict[str, torch.Generator]:
    """Device -> its generator: the CPU's, and that of each CUDA device."""
    found: dict[str, torch.Generator] = {CPU: torch.default_generator}
    if torch.cuda.is_available():
        torch.cuda.init()  # before it there are none
        found |= {f"cuda:{number}": one for number, one in enumerate(torch.cuda.default_generators)}
    return found


def random_state() -> RandomState:
    """The states of now."""
    return {device: generator.get_state() for device, generator in generators().items()}


def set_random_state(states: Mapping[str, Tensor]) -> None:
    """Put these back; a generator without one, as in a file from another machine, goes on."""
    for device, generator in generators().items():
        if device in states:
            generator.set_state(states[device])


def same_random_state(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all generators stand where they stood."""
    return one.keys() == other.keys() and all(torch.equal(state, other[device]) for device, state in one.items())


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Whatever is drawn inside, afterwards all generators stand where they stood."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
