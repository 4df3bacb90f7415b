"""The parameters of a Pyro program: their values, and what becomes of them in the user's networks and Pyro's store."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppl_gen.backends.params import inside, refuse_late
from ppl_gen.backends.torch import library
from ppl_gen.backends.torch.networks import Networks
from ppl_gen.backends.torch.outside import outside
from ppl_gen.backends.torch.record import PyroMessage
from ppl_gen.errors import ProgramError


class Learned(Networks):
    """What a program learns.

    Attributes:
        params: name -> unconstrained leaf tensor (inside a session: the tensor the program itself reads).
        constraints: name -> constraint of the parameter.
        statements: names that come from `param` statements (as against a registered network's).
        open: whether new parameters may still appear.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.params: dict[str, Tensor] = {}
        self.constraints: dict[str, Any] = {}
        self.statements: set[str] = set()
        self.open = True
        self._aliases: dict[str, str] = {}
        self._initial: dict[str, Tensor] = {}
        self._stored_as: dict[str, str] = {}  # parameter -> its name in Pyro's store
        self._copies: dict[str, nn.Parameter] = {}  # parameter -> the one that a module of Pyro's set up for itself
        self._to_store: dict[str, Tensor] = {}  # what the store is to hold once the session is over

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradient reaches the parameters from what runs inside."""
        for leaf in self.params.values():
            leaf.requires_grad_(False)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*not registered in the param store", UserWarning)  # of pyro.module
                yield
        finally:
            for leaf in self.params.values():
                leaf.requires_grad_()

    def _param(self, msg: PyroMessage) -> Tensor:
        name = public_name(msg["name"])
        name = self._aliases.get(name, name)
        if name not in self.params:
            if not self.open:
                raise refuse_late(name)
            name = self._new_param(name, msg)
        constraint, leaf = self.constraints[name], self.params[name]
        own = pyro.get_param_store()._params.get(msg["name"])
        if isinstance(own, nn.Parameter) and own is not leaf:
            self._copies[name] = own
        value = leaf if constraint is constraints.real else transform_to(constraint)(leaf)
        if name in self._initial:  # Pyro's modules ask for it when they set up their own parameters; they get a copy
            setattr(value, "unconstrained", weakref.ref(self._initial[name]))  # noqa: B010
        return value

    def _new_param(self, name: str, msg: PyroMessage) -> str:
        leaf, constraint = self._first_value(name, msg)
        self._stored_as[name] = msg["name"]
        if isinstance(leaf, nn.Parameter):
            known = self._names.setdefault(id(leaf), name)
            if known != name:  # one tensor under two names is one parameter
                self._aliases[name] = known
                return known
            self._borrow(leaf)
        else:
            with torch.no_grad():
                value = torch.as_tensor(leaf, device=self.device)
                if not value.is_floating_point():
                    value = value.to(torch.get_default_dtype())
                value = inside(library, name, constraint, value.detach())
                leaf = transform_to(constraint).inv(value).clone().contiguous().requires_grad_()
                self._initial[name] = leaf.detach().clone()
        if "$$$" not in msg["name"] and not isinstance(leaf, nn.Parameter):
            self.statements.add(name)
        self.params[name], self.constraints[name] = leaf, constraint
        return name

    def _first_value(self, name: str, msg: PyroMessage) -> tuple[Tensor, Any]:
        """(a parameter's initial value, its constraint): a module's own tensor, what the store holds, or what is stated."""
        store, before = pyro.get_param_store(), outside()
        if msg["name"] in store._params:  # a PyroParam: Pyro puts the module's own tensor there
            return store._params[msg["name"]], store._constraints[msg["name"]]
        if len(msg["args"]) < 2 and msg["name"] in before.params:
            constraint = before.constraints[msg["name"]]
            return transform_to(constraint)(before.params[msg["name"]]).detach(), constraint
        if len(msg["args"]) < 2:
            raise ProgramError(f"param '{name}': expected an initial value; got none. Pass one at its first statement.")
        init = msg["args"][1]
        value = init() if callable(init) and not isinstance(init, Tensor) else init
        return value, msg["kwargs"].get("constraint") or constraints.real

    def constrain(self, params: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Parameters in the space the program sees them, as NumPy arrays."""
        with self.lent(), torch.no_grad():
            values = self.params if params is None else {n: torch.as_tensor(v) for n, v in params.items()}
            return {n: library.to_host(transform_to(self.constraints[n])(v)).copy() for n, v in values.items()}

    def module(self, name: str, params: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the network registered under `name`, with our tensors."""
        for module in self._modules.values():
            named = list(module.named_parameters())
            if named and all(self._names.get(id(leaf)) == f"{name}.{part}" for part, leaf in named):
                with self.lent():
                    return copy.deepcopy(module)
        networks = sorted({n.split(".")[0] for n in self.params if n not in self.statements})
        raise KeyError(f"module: expected a network of the program, one of {networks}; got '{name}'.")

    def unused_store(self) -> list[str]:
        """The parameters for which Pyro's store held another value when the session began. Call inside a session."""
        stored = outside().params
        return [n for n, own in self._stored_as.items() if own in stored and not self._holds(n, stored[own])]

    def _holds(self, name: str, value: Tensor) -> bool:
        leaf = self.params[name]
        return leaf.shape == value.shape and bool(torch.equal(leaf, value.to(leaf)))

    def take_store(self) -> None:
        """Start from the values that Pyro's store held when the session began, networks from their own. Call inside a session.

        Raises:
            ProgramError: one of another shape.
        """
        for name in self.unused_store():
            leaf, value = self.params[name], outside().params[self._stored_as[name]]
            if isinstance(leaf, nn.Parameter):
                continue
            if leaf.shape != value.shape:
                raise ProgramError(
                    f"param '{name}': expected the shape {tuple(leaf.shape)}; Pyro's store holds {tuple(value.shape)}. "
                    "Clear it with pyro.clear_param_store(), or drop warm_start."
                )
            with torch.no_grad():
                leaf.copy_(value)

    def write_back(self, params: Mapping[str, Tensor]) -> None:
        """Let the user's own networks, guides and Pyro's store keep what was learned. Call inside a session."""
        with self.lent():
            for tensor, data, _ in self._theirs.values():
                data.copy_(tensor.data)
        self._to_store = {name: leaf.detach().clone() for name, leaf in params.items() if name in self._stored_as}
        with torch.no_grad():
            for name, copied in self._copies.items():
                copied.copy_(self.params[name])

    def _fill_store(self) -> None:
        """After the session: Pyro's store holds the modules' own parameters, and what else was learned."""
        if self._depth:
            return
        store = pyro.get_param_store()
        for name, value in self._to_store.items():
            key, leaf = self._stored_as[name], self.params[name]
            held = self._copies.get(name, leaf)
            kept = held if isinstance(held, nn.Parameter) else value.requires_grad_()
            if key in store:
                del store[key]
            store._constraints[key], store._params[key] = self.constraints[name], kept
            store._param_to_name[kept] = key
        self._to_store = {}


def public_name(name: str) -> str:
    """A parameter's dotted name."""
    return name.replace("$$$", ".")
