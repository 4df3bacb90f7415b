"""The optimizers that torch programs may be trained with: torch's, partials of them, and Pyro's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.optim.optim import PyroOptim
from torch import Tensor

from ppl_gen.backends.rates import settle_rate
from ppl_gen.backends.torch.trees import below
from ppl_gen.backends.torch.trees import leaves as leaves_of

ADVICE = "For example functools.partial(torch.optim.SGD, lr=0.1)."


class Optimizer:
    """Moves leaves in place, and holds their moments itself.

    Args:
        wanted: see `build`.
        leaves: name -> unconstrained leaf.
        learning_rate: of whatever has none of its own.
    """

    def __init__(self, wanted: Any, leaves: dict[str, Tensor], learning_rate: float) -> None:
        self._make = functools.partial(build, wanted, learning_rate=learning_rate)
        self._leaves = leaves
        self._built = self._make(leaves) if leaves else None

    def start(self, values: object) -> Optimizer:
        """What stands for the moments in a state: this."""
        return self

    def update(self, values: Any, gradient: dict[str, Any], moments: Optimizer, loss: Tensor) -> tuple[Any, Optimizer]:
        """Take one step."""
        if self._built is not None:
            for leaf, slope in zip(self._leaves.values(), leaves_of(gradient), strict=True):
                leaf.grad = slope
            self._built.step()
            for leaf in self._leaves.values():
                leaf.grad = None
        return values, self

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Number of the leaf -> slot -> what is kept there; nothing before the first step."""
        held = {} if self._built is None else self._built.state_dict()["state"]
        return {str(i): {s: torch.as_tensor(v) for s, v in own.items() if v is not None} for i, own in held.items()}

    def load(self, stored: Mapping[str, Tensor], prefix: str) -> None:
        """Put back what `moments` gave: nothing, as before the first step, or all of it.

        Raises:
            ValueError: a part of it is missing, or belongs to another optimizer.
        """
        if self._built is None:
            return
        found: dict[int, dict[str, Tensor]] = {}
        for name, value in below(stored, prefix).items():
            index, slot = name.split("/", 1)
            found.setdefault(int(index), {})[slot] = value
        for i, expected in enumerate(self._slots() if found else ()):
            for slot in sorted(expected ^ found.get(i, {}).keys()):
                asked, came = ("it", "none") if slot in expected else ("none", "one")
                raise ValueError(
                    f"'{prefix}{i}/{slot}': expected {asked} in the optimizer's state; got {came}. Continue with the optimizer "
                    "and the options that the run began with."
                )
        self._built.load_state_dict({**self._built.state_dict(), "state": found})

    def _slots(self) -> list[set[str]]:
        """The names of what it keeps for each leaf after a step, seen on copies."""
        copies = {name: torch.zeros_like(leaf).requires_grad_() for name, leaf in self._leaves.items()}
        other = self._make(copies)
        for copy in copies.values():
            copy.grad = torch.zeros_like(copy)
        other.step()
        state = other.state_dict()["state"]
        return [{slot for slot, v in state.get(i, {}).items() if v is not None} for i in range(len(copies))]


def build(optimizer: Any, leaves: Mapping[str, Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of these parameters.

    Args:
        optimizer: a torch.optim class, a partial or another function of the parameters, one of Pyro's, or None (Adam).
        leaves: parameter's name -> unconstrained leaf.
        learning_rate: of whatever has none of its own.

    Raises:
        TypeError: no optimizer, or one that asks for the loss again and again within a step.
        ValueError: a learning rate beside one of the optimizer's own.
    """
    parameters = list(leaves.values())
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=learning_rate, fused=_fused(parameters))
    if isinstance(optimizer, PyroOptim):
        return _of_pyro(optimizer, leaves, learning_rate)
    make, given = _unwrapped(optimizer)
    _check(make, optimizer)
    if isinstance(make, type):
        built: Any = optimizer(parameters, **_rate(make, given, learning_rate))
    else:
        settle_rate(name_of(optimizer), None, learning_rate)
        try:
            built = optimizer(parameters)
        except Exception as error:
            raise TypeError(
                f"optimizer: expected a function of the parameters that gives a torch.optim optimizer; got {optimizer!r}, which "
                f"raised {type(error).__name__}: {error} {ADVICE}"
            ) from error
    if not isinstance(built, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim class or a partial of one; got {optimizer!r}. {ADVICE}")
    _check(type(built), optimizer)
    return built


def name_of(optimizer: Any) -> str:
    """What an optimizer is called, by which a checkpoint tells whose moments it holds."""
    make = optimizer.pt_optim_constructor if isinstance(optimizer, PyroOptim) else _unwrapped(optimizer)[0]
    return str(getattr(make, "__name__", type(make).__name__))


def _unwrapped(optimizer: Any) -> tuple[Any, dict[str, Any]]:
    """(what partials wrap, the keywords they give)."""
    given: dict[str, Any] = {}
    while isinstance(optimizer, functools.partial):
        optimizer, given = optimizer.func, {**optimizer.keywords, **given}
    return optimizer, given


def _check(make: Any, optimizer: Any) -> None:
    if isinstance(make, type) and issubclass(make, torch.optim.LBFGS):
        raise TypeError(
            "optimizer: expected one that takes a step from one gradient; got LBFGS, which asks for the loss again and again "
            "within a step, where each is another draw. Use torch.optim.Adam, or leave it out."
        )
    if not callable(make) or (isinstance(make, type) and not issubclass(make, torch.optim.Optimizer)):
        raise TypeError(f"optimizer: expected a torch.optim class or a partial of one; got {optimizer!r}. {ADVICE}")


def _rate(make: type, given: Mapping[str, Any], learning_rate: float) -> dict[str, Any]:
    """The keyword that hands on the learning rate; none where the optimizer has its own."""
    if "lr" in given:
        settle_rate(make.__name__, given["lr"], learning_rate)
        return {}
    if "lr" in inspect.signature(make).parameters:
        return {"lr": float(learning_rate)}
    settle_rate(make.__name__, None, learning_rate)
    return {}


def _of_pyro(optimizer: PyroOptim, leaves: Mapping[str, Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """One optimizer with a group for each parameter, as Pyro has one optimizer for each."""
    make: Any = optimizer.pt_optim_constructor
    _check(make, optimizer)
    if not isinstance(make, type) or type(optimizer) is not PyroOptim:
        raise TypeError(
            f"optimizer: expected one of Pyro's that torch has a class for; got {type(optimizer).__name__} of {name_of(optimizer)}, "
            "whose schedule Pyro leaves to the user. Pass the optimizer itself, such as pyro.optim.Adam({'lr': 0.01})."
        )
    groups, clips = [], []
    for name, leaf in leaves.items():
        options = _asked(optimizer.pt_optim_args, name)
        groups.append({"params": [leaf], **options, **_rate(make, options, learning_rate)})
        clips.append((leaf, _asked(optimizer.pt_clip_args, name)))
    built: torch.optim.Optimizer = make(groups)
    if any(options for _, options in clips):
        built.register_step_pre_hook(functools.partial(_clip, clips))
    return built


def _asked(options: Any, name: str) -> dict[str, Any]:
    """Pyro's options for one parameter: a dict, or a function of its name (or of its module's and its own)."""
    if not callable(options):
        return dict(options)
    if len(inspect.signature(options).parameters) == 1:
        return dict(options(name))
    return dict(options(*(name.split(".", 1) if "." in name else (None, name))))


def _clip(clips: Iterable[tuple[Tensor, Mapping[str, Any]]], *hooked: Any) -> None:
    """Pyro's gradient clipping, parameter by parameter."""
    del hooked
    for leaf, options in clips:
        if leaf.grad is not None and "clip_norm" in options:
            torch.nn.utils.clip_grad_norm_(leaf, options["clip_norm"])
        if leaf.grad is not None and "clip_value" in options:
            torch.nn.utils.clip_grad_value_(leaf, options["clip_value"])


def _fused(leaves: Iterable[Tensor]) -> bool:
    return all(leaf.is_floating_point() and leaf.device.type in ("cpu", "cuda") for leaf in leaves)
