"""A device to pretend on a machine that has none: torch takes "cpu:0" for the CPU, and `Pretended` for somewhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

DEVICE = "cpu:0"
GET_DEVICE, SET_DATA = Tensor.device.__get__, Tensor.data.__set__  # type: ignore[attr-defined]
TO_HOST = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item)
BETWEEN = (*TO_HOST, Tensor.to, Tensor.copy_)  # may take tensors of both places


class Pretended(TorchFunctionMode):
    """Inside, every tensor is on the host or on `DEVICE`, as it was made, and a call that is given one of each raises.

    As on a GPU a tensor without dimensions may come from the host, and whole numbers to index by. What torch makes out of
    sight of Python, and what was made outside, counts as being at either place.
    """

    def __init__(self) -> None:
        super().__init__()
        self._there = WeakTensorKeyDictionary()  # tensor -> whether it is on the device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = [(t, self._there[t]) for t in _tensors((args, kwargs)) if t in self._there]
        there = any(on for _, on in known)
        if func == GET_DEVICE:
            return torch.device(DEVICE) if there else func(*args, **kwargs)
        if func == SET_DATA:
            func(*args, **kwargs)
            return self._mark(args[0], self._there.get(args[1]))
        self._check(func, args, [t for t, on in known if there and not on and t.ndim])
        found, place = func(*args, **kwargs), self._place(func, args, kwargs, there if known else None)
        if func in (Tensor.to, Tensor.cpu) and found is args[0] and place != self._there.get(found):
            found = found.clone()  # elsewhere it is another tensor
        for tensor in _tensors(found):
            self._mark(tensor, place)
        return found

    def _check(self, func: Any, args: Any, host: list[Tensor]) -> None:
        index = func in (Tensor.__getitem__, Tensor.__setitem__)
        if func in BETWEEN or (index and all(t is not args[0] and not t.is_floating_point() for t in host)):
            return
        if host and getattr(func, "__name__", "") not in ("__get__", "__set__"):
            raise RuntimeError(
                f"{func.__name__}: expected tensors on {DEVICE}; got one of {tuple(host[0].shape)} on the host"
            )

    def _place(self, func: Any, args: Any, kwargs: Any, there: bool | None) -> bool | None:
        """Whether what a call gives is on the device; None where that is not known."""
        if func in TO_HOST:
            return False
        asked = kwargs.get("device")
        if func is Tensor.to:
            like = next((a for a in (*args[1:], *kwargs.values()) if isinstance(a, Tensor)), None)
            if like is not None:
                return self._there.get(like)
            asked = next((a for a in args[1:] if isinstance(a, str | torch.device)), asked)
        if asked is not None:
            return torch.device(asked).index == 0
        return there if there is not None or list(_tensors(args)) else False

    def _mark(self, tensor: Tensor, there: bool | None) -> None:
        if there is None:
            self._there.pop(tensor, None)
        else:
            self._there[tensor] = there


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ():
        yield from _tensors(value)
