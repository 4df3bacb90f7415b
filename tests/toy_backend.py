"""A third backend in small: NumPy and central differences, for portable programs without latents, trained by gradient ascent.

It is there to show where the seam between the texts and a framework runs: everything that `infer.fit` needs of one is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ppl_gen import language
from ppl_gen.backends.engine import Advanced, Found, Source
from ppl_gen.program import PARAM, Batch, Facts, Path, Run, Site
from ppl_gen.program.arrays import Namespace
from ppl_gen.training.state import State
from ppl_gen.training.step import Step
from tests.reference.dialect import Reference
from tests.reference.dialect import xp as numpy_namespace

name = "toy"
STEP = 1e-4  # of the differences

xp = Namespace(
    numpy_namespace,
    stop_gradient=lambda value: value,
    split_key=lambda key, number: [None] * number,
    each=lambda function, keys: [function(key) for key in keys],
)
NumPyState = State[Any]


class Recorder(Reference):
    """The NumPy dialect, which notes every site."""

    def __init__(self, params: Mapping[str, Any], *, first: bool) -> None:
        super().__init__(params, record=first)
        self.sites: dict[tuple[str, str], Site] = {}

    def sample(self, name: str, distribution: Any, obs: Any, infer: Any = None) -> Any:
        """As the reference does it."""
        value = super().sample(name, distribution, obs, infer)
        plates = {f"plate {dim}": dim for dim, _, _ in self._plates}
        reach = {PARAM + param: Path() for param in self.params}
        site = Site(name, "model", type(distribution).__name__, observed=True, plates=plates, reach=reach)
        self.sites[site.term] = replace(site, batch_shape=np.shape(value))
        return value


class Program:
    """A model and a guide that draws nothing."""

    def __init__(self, model: Any, guide: Any, *, seed: int = 0, device: str = "cpu") -> None:
        self.model, self.guide, self.seed, self.device = model, guide, seed, device
        self.params: dict[str, np.ndarray] = {}
        self.buffers: dict[str, np.ndarray] = {}
        self.statements: set[str] = set()
        self.row_plates: Collection[str] | None = ()

    @contextmanager
    def session(self, seed: int | None = None, *, train: bool = True) -> Iterator[None]:
        """There is nothing to set up."""
        yield

    def run(self, params: Mapping[str, Any], batch: Batch, *, first: bool = False) -> Recorder:
        """One run of the model."""
        recorder = Recorder(params, first=first)
        with language.use(recorder, self.seed):
            self.model(*batch.args, **batch.kwargs)
        return recorder

    def constrain(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Real parameters are what they are."""
        return dict(params)

    def unused_store(self) -> list[str]:
        """There is none."""
        return []


def read(program: Program, batch: Batch) -> Facts:
    """Every parameter reaches every site."""
    recorder = program.run({}, batch, first=True)
    program.params = dict(recorder.params)
    return Facts(recorder.sites, tuple(program.params))


def survey(program: Program, batch: Batch, *, guide: bool) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """Plates by size, no latents, shapes of the sites."""
    sites = program.run(program.params, batch, first=True).sites.values()
    sizes = {plate: (s.batch_shape[dim],) * 2 for s in sites for plate, dim in s.plates.items()}
    return sizes, [], {site.name: site.batch_shape for site in sites}


def array(value: Any, device: str) -> Any:
    """Everything as it is."""
    return value


def resolve_device(device: str) -> str:
    """There is one."""
    return "cpu"


def held_elsewhere(device: str, *programs: Any) -> list[str]:
    """There is no other place."""
    return []


def loading() -> Any:
    """Nothing stands in a loader's way."""
    return nullcontext()


def optimizer_name(optimizer: object) -> str:
    """There is one."""
    return "plain"


class Engine:
    """Central differences, and steps along them."""

    how, jitted, xp = "NumPy", False, xp

    def __init__(self, program: Program, facts: Facts, compile: bool | str, steps: int) -> None:
        self.program = program

    def arrays(self, tree: Any, *, learned: bool) -> Any:
        """They are NumPy's already."""
        return tree

    def place(self, state: NumPyState) -> NumPyState:
        """Likewise."""
        return state

    def random(self) -> None:
        """Nothing is drawn."""

    def optimizer(self, wanted: object, learning_rate: float, values: Mapping[str, Any]) -> Any:
        """A step along the gradient, which keeps nothing."""

        def update(values: Any, gradient: Any, moments: Any, loss: Any) -> tuple[Any, Any]:
            return {key: value - learning_rate * gradient[key] for key, value in values.items()}, moments

        return SimpleNamespace(start=lambda values: {}, update=update)

    def run(self, state: NumPyState, batch: Batch, key: Any, fixed: Any, cut: Any, **options: bool) -> Run:
        """The model's terms."""
        return Run(terms={t: np.asarray(v) for t, v in self.program.run(state.params, batch).terms.items()})

    def gradient(self, function: Callable[[Any], tuple[Any, Any]], parts: Any) -> tuple[Any, Any]:
        """One difference for every element."""
        slopes = {}
        for key, value in parts["params"].items():
            slopes[key] = np.zeros_like(value)
            for place in np.ndindex(value.shape):
                move = np.zeros_like(value)
                move[place] = STEP
                up, down = ({**parts, "params": {**parts["params"], key: value + s * move}} for s in (1, -1))
                slopes[key][place] = (function(up)[0] - function(down)[0]) / (2 * STEP)
        return {"params": slopes, "weights": {}}, function(parts)[1]

    def all_finite(self, *trees: Any) -> Any:
        """Whether every number is."""
        leaves = [leaf for tree in trees for leaf in (tree.values() if isinstance(tree, dict) else [tree])]
        return all(self.all_finite(x) if isinstance(x, dict) else np.isfinite(x).all() for x in leaves)

    def carried(self, loss: Any, state: NumPyState) -> tuple[Any, Any]:
        """Nothing is."""
        return loss.averages, {}

    def advance(self, step: Step[Any], state: NumPyState, source: Source, number: int, most: int) -> Advanced:
        """One step."""
        batch = source.build(*source.at(number))
        found: Found[Any] = step.gradients(state, None, batch)
        if not found.finite:
            return Advanced(state, [], batch)
        return Advanced(step.update(state, found), [float(found.loss)], None)

    def inspect(self, step: Step[Any], state: NumPyState, batch: Batch) -> tuple[Found[Any], str | None]:
        """The step again; no culprit is looked for."""
        return step.gradients(state, None, batch), None

    def flatten(self, state: NumPyState) -> dict[str, np.ndarray]:
        """The parameters."""
        return {f"params/{key}": value for key, value in state.params.items()}

    def load(self, state: NumPyState, flat: Mapping[str, np.ndarray]) -> NumPyState:
        """Likewise."""
        return state._replace(params={key: flat[f"params/{key}"] for key in state.params})

    def params(self, state: NumPyState) -> dict[str, Any]:
        """Of now."""
        return state.params
