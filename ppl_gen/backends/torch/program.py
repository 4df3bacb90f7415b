"""A Pyro model and guide as one pure object: parameters and buffers of our own, runs that leave nothing behind."""

from __future__ import annotations

import copy
import random
import sys
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.overrides import TorchFunctionMode

from ppl_gen import language
from ppl_gen.backends.dreams import Dream, dreamt
from ppl_gen.backends.interface import Observer
from ppl_gen.backends.params import inside, refuse_late
from ppl_gen.backends.record import Recorder, record
from ppl_gen.backends.torch import dialect, library
from ppl_gen.backends.torch.generators import kept_random_state
from ppl_gen.backends.torch.record import Handler, PyroMessage, StartAgain
from ppl_gen.backends.turns import turn
from ppl_gen.errors import ProgramError
from ppl_gen.program import PLATE, Batch, Run

Found = TypeVar("Found")


class Outside(NamedTuple):
    """What is global in Pyro, as it is outside of every session.

    Attributes:
        params: the parameter store's names -> unconstrained tensors.
        constraints: name -> constraint.
        checks_values: whether distributions check the values that they are given.
    """

    params: Mapping[str, Tensor]
    constraints: Mapping[str, Any]
    checks_values: bool


_OUTSIDE: ContextVar[Outside | None] = ContextVar("outside", default=None)


class Program:
    """A model and a guide, the tensors they learn, and a way to run them.

    The user's own modules hold our tensors only inside `session`; outside they are as they were.

    Attributes:
        params: name -> unconstrained leaf tensor (inside a session: the tensor the program itself reads).
        constraints: name -> constraint of the parameter.
        statements: names that come from `param` statements (as against a registered network's).
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.model, self.guide, self.seed, self.device = model, guide, seed, device
        self.params: dict[str, Tensor] = {}
        self.constraints: dict[str, Any] = {}
        self.statements: set[str] = set()
        self.row_plates: Collection[str] | None = ()
        self.open = True  # new parameters may still appear
        self.judging = False  # in evaluation mode
        self.differentiates = False  # the program takes gradients itself
        self.loops: dict[str, int] = {}  # subsampled plates of which a Python loop goes through all elements
        self._aliases: dict[str, str] = {}
        self._names: dict[int, str] = {}
        self._initial: dict[str, Tensor] = {}
        self._stored_as: dict[str, str] = {}  # parameter -> its name in Pyro's store
        self._copies: dict[str, nn.Parameter] = {}  # parameter -> the one that a module of Pyro's set up for itself
        self._to_store: dict[str, Tensor] = {}  # what the store is to hold once the session is over
        self._modules: dict[int, nn.Module] = {}
        self._ours: dict[int, tuple[Tensor, Tensor]] = {}  # id(user's tensor) -> (it, our data)
        self._theirs: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}  # id -> (it, the user's data and gradient)
        self._depth = 0  # how often our tensors are lent: a callback of the user's may open a session within another
        self._sessions = 0  # that are open

    # -- sessions ------------------------------------------------------------------------------------------------

    @contextmanager
    def session(self, seed: int | None = None, *, train: bool = True) -> Iterator[None]:
        """Everything runs inside one: own parameter store, own random state, our tensors in the user's modules."""
        with ExitStack() as stack:
            stack.enter_context(turn)
            stack.callback(self._fill_store)
            stack.enter_context(_remembered())
            stack.enter_context(_own_random_state(self.seed if seed is None else seed))
            stack.enter_context(pyro.get_param_store().scope())
            stack.enter_context(validation(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(language.use(dialect, self.seed))
            if self.device != "cpu":
                stack.enter_context(torch.device(self.device))
            stack.enter_context(self.lent())
            stack.callback(setattr, self, "_sessions", self._sessions)
            self._sessions += 1
            if not train:
                stack.enter_context(self.evaluating())
            yield

    @property
    def checks_values(self) -> bool:
        """Whether the user lets distributions check what they are given. Call inside a session."""
        outside = _OUTSIDE.get()
        return outside is None or outside.checks_values

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

    @property
    def running(self) -> bool:
        """Whether a session is open."""
        return self._sessions > 0

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

    @contextmanager
    def discovering(self) -> Iterator[None]:
        """Note every network that is called, so that its buffers become ours before they change, and it is on our device."""

        def meet(module: nn.Module, _: Any) -> None:
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

    def first(self, run: Callable[[], Found]) -> Found:
        """A first run, begun again wherever it shows that the program must be run in another way."""
        while True:
            knew = self.differentiates
            try:
                with _Differentiation(self):
                    return run()
            except StartAgain:  # at most once for each plate
                continue
            except RuntimeError:  # a value that it differentiates by had no gradient
                if knew or not self.differentiates:
                    raise

    def _meet(self, module: nn.Module) -> None:
        if id(module) not in self._modules:
            self._modules[id(module)] = module
            weights = module._parameters.values() if self.device != "cpu" else ()  # unregistered ones must move, too
            for own in (*module._buffers.values(), *weights):
                if own is not None:
                    self._borrow(own)

    def forget_runs(self) -> None:
        """Give the networks' buffers the user's values again, as if nothing had run."""
        for buffer in self.buffers.values():
            if id(buffer) in self._theirs:
                buffer.copy_(self._theirs[id(buffer)][1])

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

    # -- parameters ----------------------------------------------------------------------------------------------

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
        store, outside = pyro.get_param_store(), _OUTSIDE.get()
        constraint = msg["kwargs"].get("constraint") or constraints.real
        self._stored_as[name] = msg["name"]
        if msg["name"] in store._params:  # a PyroParam: Pyro puts the module's own tensor there
            leaf, constraint = store._params[msg["name"]], store._constraints[msg["name"]]
        elif len(msg["args"]) < 2 and outside is not None and msg["name"] in outside.params:
            constraint = outside.constraints[msg["name"]]
            leaf = transform_to(constraint)(outside.params[msg["name"]]).detach()
        else:
            if len(msg["args"]) < 2:
                raise ProgramError(
                    f"param '{name}': expected an initial value; got none. Pass one at its first statement."
                )
            init = msg["args"][1]
            leaf = init() if callable(init) and not isinstance(init, Tensor) else init
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

    def constrain(self, params: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Parameters in the space the program sees them, as NumPy arrays."""
        with self.lent(), torch.no_grad():
            values = self.params if params is None else {n: torch.as_tensor(v) for n, v in params.items()}
            return {n: transform_to(self.constraints[n])(v).cpu().numpy().copy() for n, v in values.items()}

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
        stored = _stored()
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
            leaf, value = self.params[name], _stored()[self._stored_as[name]]
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

    # -- runs ----------------------------------------------------------------------------------------------------

    def run(
        self,
        batch: Batch,
        fixed: Mapping[str, Any] | None = None,
        cut: Collection[str] = (),
        *,
        observer: Observer[Tensor] | None = None,
        param: Callable[[PyroMessage], Tensor] | None = None,
        predictive: bool = False,
        guide: bool = True,
    ) -> Run:
        """Run the guide, then the model on its choices. Call inside a session."""
        if not self.running:
            raise RuntimeError("program: expected to run inside its session; got a call outside. Open session() first.")
        recorder = Recorder(
            library,
            "guide",
            Run(),
            batch,
            _noise,
            fixed=fixed or {},
            cut=cut,
            row_plates=self.row_plates,
            observer=observer,
            judging=self.judging,
        )

        def handle(recorder: Recorder[Tensor]) -> Handler:
            return Handler(recorder, param or self._param, self.loops, leaves=self.differentiates)

        with torch.enable_grad() if self.differentiates else nullcontext():
            proposal = _proposal(self.guide) if guide else None
            return record(recorder, handle, proposal, self.model, predictive=predictive)

    def dream(self, batch: Batch, values: Mapping[str, Any] | None = None) -> Dream:
        """(the batch as the model draws it, its sites' values, their terms), given some values. Call inside a session."""
        with torch.no_grad():
            run = self.run(batch, values, predictive=True, guide=False)
        return dreamt(batch, run, lambda value, like: value.to(like.dtype))

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        """A portable function of arrays under the trained parameters. Call inside a session."""
        recorder = Recorder(library, "model", Run(), Batch(), _noise)
        with torch.no_grad(), Handler(recorder, self._param):
            return function(*args)


def _noise(site: str, like: Tensor) -> Tensor:
    return torch.rand_like(like)


def _proposal(guide: Any) -> Any:
    """The guide; one of Pyro's that runs the model beneath a handler, without what the model observes."""
    if isinstance(guide, GuideMessenger):
        return poutine.block(guide, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"])
    return guide


class _Differentiation(TorchFunctionMode):
    """Notes whether a program takes gradients itself."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward):
            self.program.differentiates = True
        return func(*args, **(kwargs or {}))


def public_name(name: str) -> str:
    """A parameter's dotted name."""
    return name.replace("$$$", ".")


def validation(on: bool) -> AbstractContextManager[None]:
    """All of Pyro's checks on or off; afterwards each is as it was, which `pyro.validation_enabled` does not see to."""
    names = ("distributions_pyro", "distributions_torch", "infer", "poutine")
    return pyro.settings.context(**{f"validate_{name}": on for name in names})


def _stored() -> Mapping[str, Tensor]:
    """What Pyro's parameter store held when the session began."""
    outside = _OUTSIDE.get()
    return {} if outside is None else outside.params


def _switched_off_by_dynamo() -> bool:
    """Whether torch's compiler has been at work, which switches the checks of torch's distributions off for good."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    patch = getattr(getattr(compiler, "TorchPatcher", None), "patch", None)
    return bool(patch is not None and patch.cache_info().currsize)


@contextmanager
def _remembered() -> Iterator[None]:
    """Note, in the outermost session, what is outside of it."""
    if _OUTSIDE.get() is not None:
        yield
        return
    store, on = pyro.get_param_store(), pyro.settings.get
    checks = on("validate_distributions_pyro") and (on("validate_distributions_torch") or _switched_off_by_dynamo())
    token = _OUTSIDE.set(Outside(dict(store._params), dict(store._constraints), bool(checks) or not __debug__))
    try:
        yield
    finally:
        _OUTSIDE.reset(token)


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with kept_random_state():
            pyro.set_rng_seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


__all__ = ["PLATE", "Program", "public_name", "validation"]
