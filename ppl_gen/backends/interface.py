"""What one text asks of either library: messages of one form, and the functions in which the libraries differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ppl_gen.program import Batch, Facts, Latent, Term
from ppl_gen.program.arrays import Array, Namespace

if TYPE_CHECKING:  # what stands above the backends, whose functions are given it
    from ppl_gen.estimators.plan import Plan
    from ppl_gen.objectives import Loss
    from ppl_gen.objectives.bound import RunProgram

# -- the backend: what a module such as `ppl_gen.backends.torch` offers to the verbs ---------------------------------

Callback = Callable[..., Any]  # a user's own function: a model, a guide, what one of them calls
PathLike = str | os.PathLike[str]
Seed = int | np.integer[Any] | Array
Data = Array | Iterable[Any] | Mapping[str, Any] | np.generic | float | None
Start = tuple[Mapping[str, Any], Mapping[str, Any]]  # a plan's baselines: their weights, their running averages


class Objective(Protocol):
    """A loss to be minimised; see `ppl_gen.objectives.Bound`."""

    @property
    def dreams(self) -> bool:
        """Whether it runs the guide on data that the model draws."""

    def accept(self, plan: Plan) -> Plan:
        """The plan as this objective uses it."""

    def __call__(
        self,
        xp: Namespace,
        run: RunProgram,
        keys: list[Any],
        plan: Plan,
        weights: dict[str, Any],
        averages: dict[str, Any],
    ) -> Loss:
        """Evaluate."""


class Program(Protocol):
    """A model and a guide, what they learn, and a way to run them.

    Attributes:
        model: the model.
        guide: the guide.
        seed: of everything random.
        device: where it runs.
        params: name -> unconstrained array.
        statements: names that come from `param` statements.
        row_plates: plates that stand for the rows of the data; None where every term does.
    """

    model: Callback
    guide: Callback
    seed: int
    device: str
    params: dict[str, Any]
    statements: set[str]
    row_plates: Collection[str] | None

    @property
    def buffers(self) -> Mapping[str, Any]:
        """State that the program carries from run to run."""

    def session(self, seed: int | None = None, *, train: bool = True) -> AbstractContextManager[None]:
        """Everything runs inside one."""

    def constrain(self, params: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Parameters in the space the program sees them."""

    def module(self, name: str, params: Mapping[str, Any]) -> Any:
        """The network registered under `name`."""

    def unused_store(self) -> list[str]:
        """The parameters for which the library's own store holds another value."""

    def take_store(self) -> None:
        """Start from the values of the library's own store."""

    def write_back(self, params: Mapping[str, Any]) -> None:
        """Let the user's own objects keep what was learned."""


class MakeProgram(Protocol):
    """The class of a backend's programs."""

    def __call__(self, model: Callback, guide: Callback, *, seed: int = 0, device: str = "cpu") -> Program:
        """Build one."""


class Source(Protocol):
    """Batches, by step."""

    def at(self, step: int) -> tuple[list[Any], np.ndarray | None]:
        """(arrays, rows) of the batch at `step`."""

    def build(self, arrays: list[Any], rows: np.ndarray | None) -> Batch:
        """The batch of these."""


class Trainer(Protocol):
    """The training state of one program, and the step that moves it.

    Attributes:
        program: the program.
        objective: what is minimised.
        how: how steps are taken, and why so.
    """

    @property
    def program(self) -> Program:
        """The program."""

    objective: Any
    how: str

    def steps(self, source: Source, first: int, count: int, halt: Callable[[], bool] = ...) -> np.ndarray:
        """Take steps; losses in nats."""

    def loss(self, batch: Batch, draw: int = 0) -> float:
        """The objective's value in evaluation mode."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a continued run needs."""

    def load(self, flat: Mapping[str, np.ndarray]) -> None:
        """Take up a state."""

    def load_values(self, flat: Mapping[str, np.ndarray]) -> None:
        """Take up the parameters and buffers of a state."""

    def current_params(self) -> Mapping[str, Any]:
        """Unconstrained parameters as they are now."""

    def final(self) -> Any:
        """What `Backend.draw` takes as the state."""


class Prepared(Protocol):
    """A program that was read; see `ppl_gen.training.prepare.Prepared`."""

    @property
    def program(self) -> Program:
        """The program."""

    @property
    def plan(self) -> Plan:
        """The plan."""

    def session(self, seed: int | None = None, *, train: bool = True) -> AbstractContextManager[None]:
        """Inside, the program may run."""


Sizes = dict[str, tuple[int, int]]  # plate -> (size, full size)
Shapes = dict[str, tuple[int, ...]]
Runs = Iterator[dict[str, dict[Any, np.ndarray]]]  # of each: values, terms and records


class Backend(Protocol):
    """One library's side of all that the verbs do."""

    @property
    def name(self) -> str:
        """Name: "torch" or "jax"."""

    @property
    def xp(self) -> Namespace:
        """The array namespace of portable programs."""

    def array(self, value: object, device: str = "cpu") -> Any:
        """Arrays of any library as its own, on the device; all else as it is."""

    def to_numpy(self, value: object) -> Any:
        """An array, wherever it is, as a NumPy array."""

    def resolve_device(self, device: str) -> str:
        """The device meant."""

    def held_elsewhere(self, device: str, *programs: Callback | None) -> list[str]:
        """The arrays that programs hold on another device and that are not moved, in words."""

    def loading(self) -> AbstractContextManager[None]:
        """Inside, the user's own loader makes arrays where it would outside of a session."""

    def read(self, program: Program, batch: Batch) -> Facts:
        """Everything the plan needs to know."""

    def survey(self, program: Program, batch: Batch, *, guide: bool) -> tuple[Sizes, list[Latent], Shapes]:
        """(plates, the model's latents, shapes of what it observes)."""

    def relabelled(self, prepared: Prepared, state: object, batch: Batch) -> Facts:
        """The facts as they are on this batch, as far as masks and scales go."""

    def draw(
        self,
        prepared: Prepared,
        state: object,
        batch: Batch,
        num_samples: int,
        seed: int,
        *,
        guide: bool = True,
        predictive: bool = False,
    ) -> Runs:
        """Independent runs of the trained program."""

    def dream(
        self, program: Program, batch: Batch, seed: int, values: Mapping[str, Any]
    ) -> tuple[Batch, dict[str, Any], dict[Term, np.ndarray]]:
        """The batch as the model draws it, its sites' values and terms."""

    def redraw(self, program: Program, batch: Batch, seed: int) -> Batch:
        """The batch with what the model draws where it observes an argument."""

    def sample_gradients(
        self,
        program: Program,
        objective: Objective,
        plan: Plan,
        start: Start,
        batch: Batch,
        num_samples: int,
        seed: int,
    ) -> dict[str, np.ndarray]:
        """Independent estimates: name -> (num_samples, *shape)."""

    def is_finite(self, program: Program, batch: Batch) -> bool:
        """Whether every term of one run is finite."""

    def set_params(self, program: Program, params: Mapping[str, Any]) -> None:
        """Start from these unconstrained values."""

    def host_function(self, prepared: Prepared, state: object, function: Callback) -> Callable[..., np.ndarray]:
        """A portable function under the trained parameters, of NumPy arrays."""

    def optimizer_name(self, optimizer: object) -> str:
        """What an optimizer is called."""

    def on_any_statement(self, call: Callable[[str | None], None]) -> AbstractContextManager[None]:
        """Call at the first sign of any statement of its library."""

    # Last, as these are the names of types.

    @property
    def Program(self) -> MakeProgram:  # noqa: N802
        """The class of its programs."""

    @property
    def Trainer(self) -> Callable[..., Trainer]:  # noqa: N802
        """The class of its trainers."""
