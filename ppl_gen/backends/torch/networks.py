"""The networks that a program calls: while it runs, they hold our tensors in place of the user's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ppl_gen.backends.turns import turn


class Networks:
    """What a program's own modules hold, and lend us while a session lasts; outside they are as they were."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.judging = False  # in evaluation mode
        self._names: dict[int, str] = {}  # id(a registered network's tensor) -> the parameter's name
        self._modules: dict[int, nn.Module] = {}
        self._ours: dict[int, tuple[Tensor, Tensor]] = {}  # id(user's tensor) -> (it, our data)
        self._theirs: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}  # id -> (it, the user's data and gradient)
        self._depth = 0  # how often our tensors are lent: a callback of the user's may open a session within another

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The networks' buffers (running averages), by order of first call."""
        named: dict[str, Tensor] = {}
        for number, module in enumerate(self._modules.values()):
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    named[f"{number}.{name}"] = buffer
        return named

    @property
    def constants(self) -> dict[str, Tensor]:
        """The weights of networks that are called but not registered: nothing learns them, yet the program hangs on them."""
        named: dict[str, Tensor] = {}
        for number, module in enumerate(self._modules.values()):
            for name, weight in module._parameters.items():
                if weight is not None and id(weight) not in self._names:
                    named[f"{number}.{name}"] = weight
        return named

    def set_constants(self, values: Mapping[str, Tensor]) -> None:
        """Give unregistered networks these weights, by the names of `constants`; the user's own keep theirs."""
        with self.lent(), torch.no_grad():
            for name, weight in self.constants.items():
                if name in values and not torch.equal(weight, values[name].to(weight.device)):
                    self._borrow(weight)
                    weight.copy_(values[name])

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside, the user's modules hold our tensors: all that reads or writes what is learned, in a session or not."""
        with turn:
            self._depth += 1
            try:
                if self._depth == 1:
                    for tensor, data in list(self._ours.values()):
                        self._borrow(tensor, data)
                yield
            finally:
                self._leave()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The networks in evaluation mode (dropout off, running averages used)."""
        before, judging = [(module, module.training) for module in self._modules.values()], self.judging
        try:
            self.judging = True
            for module, _ in before:
                module.training = False
            yield
        finally:
            self.judging = judging
            for module, training in before:
                module.training = training

    @contextmanager
    def discovering(self) -> Iterator[None]:
        """Note every network that is called, so that its buffers become ours before they change, and it is on our device."""

        def meet(module: nn.Module, _: object) -> None:
            if not torch.compiler.is_compiling():
                inside = getattr(module, "_orig_mod", module)  # of torch.compile, whose own parts pass by unseen
                for part in (module,) if inside is module else inside.modules():
                    self._meet(part)

        handle = nn.modules.module.register_module_forward_pre_hook(meet)
        try:
            with warnings.catch_warnings():  # the hook fires for a compiled network and for what it wraps
                warnings.filterwarnings(
                    "ignore", message=r"Using `torch.compile\(module\)` when there are global hooks"
                )
                yield
        finally:
            handle.remove()

    def forget_runs(self) -> None:
        """Give the networks' buffers the user's values again, as if nothing had run."""
        for buffer in self.buffers.values():
            if id(buffer) in self._theirs:
                buffer.copy_(self._theirs[id(buffer)][1])

    def _meet(self, module: nn.Module) -> None:
        if id(module) not in self._modules:
            self._modules[id(module)] = module
            weights = module._parameters.values() if self.device != "cpu" else ()  # unregistered ones must move, too
            for own in (*module._buffers.values(), *weights):
                if own is not None:
                    self._borrow(own)

    def _borrow(self, tensor: Tensor, data: Tensor | None = None) -> None:
        """Put our data into the user's tensor until the session ends."""
        if id(tensor) in self._theirs:
            return
        self._theirs[id(tensor)] = (tensor, tensor.data, tensor.grad)
        tensor.grad = None
        tensor.data = tensor.data.clone().to(self.device) if data is None else data

    def _leave(self) -> None:
        """Give the user's tensors back at the end of the outermost loan."""
        self._depth -= 1
        if self._depth:
            return
        for tensor, data, gradient in self._theirs.values():
            self._ours[id(tensor)] = (tensor, tensor.data)
            tensor.data, tensor.grad = data, gradient
        self._theirs.clear()
