"""What one text asks of either library: messages of one form, and the functions in which the libraries differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from ppl_gen.backends.engine import Engine
from ppl_gen.backends.engine import Program as Steppable
from ppl_gen.program import Batch, Facts, Latent, Term
from ppl_gen.program.arrays import Array, Namespace

if TYPE_CHECKING:  # what stands above the backends, whose functions are given it
    from ppl_gen.estimators.plan import Plan


A = TypeVar("A", bound=Array)  # of one backend

# -- the library: sample statements and distributions ---------------------------------------------------------------

WRAPPERS = ("MaskedDistribution", "Independent", "ExpandedDistribution")  # of both libraries


class Distribution(Protocol):
    """What is asked of a distribution."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the log density."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""

    @property
    def has_rsample(self) -> bool:
        """Whether its sampler passes a gradient."""

    @property
    def support(self) -> Any:
        """The library's own constraint."""

    def log_prob(self, value: Any, /) -> Any:
        """The log density, batch shape, nats."""


class Frame(NamedTuple):
    """A plate around a site.

    Attributes:
        name: of the plate.
        dim: batch dimension, negative, counted from the right.
        size: number of elements in this run.
        full_size: number of elements in all.
    """

    name: str
    dim: int
    size: int
    full_size: int


@dataclass(eq=False)
class Message(Generic[A]):
    """One sample statement, whichever library made it.

    Attributes:
        role: "guide" or "model".
        name: of the site.
        distribution: of the value.
        value: of the site; before it is drawn, nothing.
        observed: whether the value is given.
        frames: the plates around it, outermost first.
        scale: by which handlers and plates multiply the log density.
        mask: of the handlers around it; None where the library puts it into the distribution.
        infer: what the program says of how the site is to be inferred.
        args: what the log density takes beside the value.
        kwargs: what the log density takes by name.
        flow: the control flow ("scan") that has drawn the value; None outside of any.
    """

    role: str
    name: str
    distribution: Distribution
    value: A
    observed: bool
    frames: Sequence[Frame] = ()
    scale: A | float = 1.0
    mask: A | bool | None = None
    infer: Mapping[str, object] = field(default_factory=dict)
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    flow: str | None = None

    @property
    def term(self) -> Term:
        """The key of its log density."""
        return self.role, self.name

    @property
    def kind(self) -> str:
        """See `kind_of`."""
        return kind_of(self.distribution)

    @property
    def where(self) -> str:
        """The site in an error's words."""
        return f"site '{self.name}' ({self.kind})"

    @property
    def plates(self) -> dict[str, int]:
        """Plate -> batch dimension."""
        return {frame.name: frame.dim for frame in self.frames}

    @property
    def is_deterministic(self) -> bool:
        """Whether it is no choice at all, but a value to be recorded."""
        return bool(self.infer.get("_deterministic"))

    @property
    def is_bookkeeping(self) -> bool:
        """Whether an observed site is no data: a factor or a deterministic value."""
        return self.is_deterministic or self.kind == "Unit"


Observer = Callable[[Message[A]], None]


class Library(Protocol[A]):
    """Where Pyro and NumPyro differ; `ppl_gen.backends.torch.library` and `ppl_gen.backends.jax.library` are two."""

    def log_density(self, message: Message[A], distribution: Distribution, /) -> A:
        """The log density of the value under the site's distribution, or that without its mask; before masks and scales around."""

    def weigh(self, log_prob: A, scale: A | float, mask: A | bool | None, /) -> A:
        """A log density, scaled and masked."""

    def total(self, array: A, axes: tuple[int, ...], /) -> A:
        """The sum over these axes, which are kept with size 1."""

    def cut(self, value: A, /) -> A:
        """The same value, which passes no gradient."""

    def as_now(self, value: A | float, /) -> A | float:
        """A scale as it is now: the program may write to it between this site and the gradient."""

    def choose(self, distribution: Distribution, index: int, /) -> A:
        """The `index`-th value of a finite distribution, at every batch element."""

    def unmasked(self, distribution: Distribution, /) -> Distribution:
        """The distribution without its own mask."""

    def features(self, distribution: Distribution, /) -> A | None:
        """The distribution's parameters as one constant array, batch shape + (features,); None where it has none."""

    def num_features(self, distribution: Distribution, /) -> int | None:
        """The width of `features`."""

    def log_masses(self, distribution: Distribution, /) -> A:
        """Log probability of every value of a finite distribution's elements, batch + event + (levels,), nats."""

    def parameters(self, distribution: Distribution, /) -> Mapping[str, A]:
        """A distribution's own scalar parameters by name, broadcast to batch + event."""

    def divergence(self, q: Distribution, p: Distribution, /) -> A | None:
        """KL(q || p), batch shape, nats; None where no formula is known."""

    def support(self, distribution: Distribution, /) -> tuple[str, int | None]:
        """("real" | "finite" | "countable", a number of values)."""

    def num_values(self, distribution: Distribution, /) -> int | None:
        """Number of values of one element of a finite support; None for others."""

    def is_reparametrized(self, distribution: Distribution, /) -> bool:
        """Whether the distribution's own sampler passes the whole gradient."""

    def constraint_of(self, distribution: Distribution, /) -> Any:
        """The constraint that observations are held to: the support, or the reals for a class that states none."""

    def satisfies(self, constraint: Any, value: Any, /) -> np.ndarray:
        """Where a value lies in a constraint."""

    def counted(self, message: Message[A], /) -> A:
        """A site's value, constant, with something feasible wherever it does not count."""

    def is_unchecked(self, distribution: Distribution, /) -> bool:
        """Whether the user switched the check of values off."""

    def check_distribution(self, message: Message[A], /) -> None:
        """Raise on a distribution that cannot be."""

    def to_host(self, value: object, /) -> np.ndarray:
        """An array, or a plain number, as a NumPy array."""


def core_of(distribution: Distribution) -> Any:
    """The named distribution beneath masks, expansion and event dimensions."""
    core: Any = distribution
    while type(core).__name__ in WRAPPERS:
        core = core.base_dist
    return core


def kind_of(distribution: Distribution) -> str:
    """The distribution's name, as Pyro and the user know it."""
    return type(core_of(distribution)).__name__.removesuffix("Logits").removesuffix("Probs")


# -- the backend: what a module such as `ppl_gen.backends.torch` offers to the verbs ---------------------------------

Callback = Callable[..., Any]  # a user's own function: a model, a guide, what one of them calls
PathLike = str | os.PathLike[str]
Seed = int | np.integer[Any] | Array
Data = Array | Iterable[Any] | Mapping[str, Any] | np.generic | float | None


class Program(Steppable, Protocol):
    """A model and a guide, what they learn, and a way to run them.

    Attributes:
        statements: names that come from `param` statements.
        row_plates: plates that stand for the rows of the data; None where every term does.
    """

    statements: set[str]
    row_plates: Collection[str] | None

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
    def Engine(self) -> Callable[[Program, Facts, bool | str, int], Engine[Any]]:  # noqa: N802
        """The class of its engines, made from (program, facts, compile, steps of the run)."""

    @property
    def Program(self) -> MakeProgram:  # noqa: N802
        """The class of its programs."""
