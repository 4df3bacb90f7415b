"""A Pyro model and guide as one pure object: parameters and buffers of our own, runs that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_gen import language
from ppl_gen.backends.dreams import Dream, dreamt
from ppl_gen.backends.interface import Observer
from ppl_gen.backends.record import Recorder, record
from ppl_gen.backends.torch import dialect, library
from ppl_gen.backends.torch.learned import Learned
from ppl_gen.backends.torch.outside import outside, own_random_state, remembered, validation
from ppl_gen.backends.torch.record import Handler, PyroMessage, StartAgain
from ppl_gen.backends.turns import turn
from ppl_gen.program import Batch, Run

Found = TypeVar("Found")


class Program(Learned):
    """A model and a guide, the tensors they learn, and a way to run them.

    The user's own modules hold our tensors only inside `session`; outside they are as they were.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], *, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(device)
        self.model, self.guide, self.seed = model, guide, seed
        self.row_plates: Collection[str] | None = ()
        self.differentiates = False  # the program takes gradients itself
        self.loops: dict[str, int] = {}  # subsampled plates of which a Python loop goes through all elements
        self._sessions = 0  # that are open

    @contextmanager
    def session(self, seed: int | None = None, *, train: bool = True) -> Iterator[None]:
        """Everything runs inside one: own parameter store, own random state, our tensors in the user's modules."""
        with ExitStack() as stack:
            stack.enter_context(turn)
            stack.callback(self._fill_store)
            stack.enter_context(remembered())
            stack.enter_context(own_random_state(self.seed if seed is None else seed))
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
        return outside().checks_values

    @property
    def running(self) -> bool:
        """Whether a session is open."""
        return self._sessions > 0

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


def _proposal(guide: Callable[..., Any]) -> Callable[..., Any]:
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
