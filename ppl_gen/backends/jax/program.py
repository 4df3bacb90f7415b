"""A NumPyro model and guide as one pure function of parameters, buffers, key and batch."""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.typing import ArrayLike
from numpyro import handlers
from numpyro.contrib.module import ParamShape
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.constraints import Constraint

from ppl_gen import language
from ppl_gen.backends.dreams import Dream, dreamt
from ppl_gen.backends.interface import Observer
from ppl_gen.backends.jax import dialect, library
from ppl_gen.backends.jax.compiled import Compiled
from ppl_gen.backends.jax.devices import find_device, put
from ppl_gen.backends.jax.record import Handler, NumPyroMessage, copy_tree
from ppl_gen.backends.jax.uncompiled import uncompiled
from ppl_gen.backends.params import inside, refuse_late
from ppl_gen.backends.record import Recorder, record
from ppl_gen.backends.turns import turn
from ppl_gen.program import Batch, Run

T = TypeVar("T")


class Program:
    """A model and a guide, what they learn, and a way to run them.

    Attributes:
        params: name -> unconstrained initial array; the leaves of a network have dotted names.
        buffers: state the program carries from run to run.
        constraints: name -> constraint of the parameter.
        statements: names that come from `param` statements (as against a registered network's).
        compiled: functions of the program that were compiled, and what of its data they take as arguments.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.model, self.guide, self.seed, self.device = model, guide, seed, device
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Any] = {}
        self.constraints: dict[str, Any] = {}
        self.statements: set[str] = set()
        self.row_plates: Collection[str] | None = ()
        self.open = True
        self.judging = False  # in evaluation
        self.compiled = Compiled()
        self._replaced: dict[
            str, Array
        ] = {}  # leaves of networks whose weights are sample sites: of them only shapes count
        self._trees: dict[str, tuple[list[str], Any]] = {}  # message name -> (leaf names, tree)

    def placed(self, tree: T) -> T:
        """The same arrays on the program's device, where it is not JAX's own choice."""
        return put(tree, self.device)

    @contextmanager
    def session(self, seed: int | None = None, *, train: bool = True) -> Iterator[None]:
        """Everything runs inside one: portable statements are NumPyro's, host random state is our own."""
        with turn:
            numpy_state, python_state, judging = np.random.get_state(), random.getstate(), self.judging
            try:
                self.judging = not train
                np.random.seed(self.seed if seed is None else seed)
                random.seed(self.seed if seed is None else seed)
                place = find_device(self.device)
                with (
                    language.use(dialect, self.seed),
                    numpyro.validation_enabled(False),
                    nullcontext() if place is None else jax.default_device(place),
                ):
                    yield
            finally:
                self.judging = judging
                np.random.set_state(numpy_state)
                random.setstate(python_state)

    def constrain(self, params: Mapping[str, Array] | None = None) -> dict[str, np.ndarray]:
        """Parameters in the space the program sees them, as NumPy arrays."""
        values = self.params if params is None else params
        return {name: np.array(biject_to(self.constraints[name])(jnp.asarray(v))) for name, v in values.items()}

    def key(self) -> Array:
        """The random key that everything starts from."""
        with uncompiled():
            return jax.random.key(self.seed)

    def known(self) -> dict[str, Any]:
        """What a first run changes, as it is now."""
        return {name: copy.copy(own) for name, own in vars(self).items() if isinstance(own, dict | set | bool)}

    def settle(self, table: _Table, sites: Collection[str]) -> None:
        """After the first run: no more parameters; weights that `random_flax_module` and its like made `sites` are none."""
        self.open = False
        for name, tree in table.seen:
            leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, ParamShape))
            for leaf_name, (path, leaf) in zip(self._trees[name][0], leaves, strict=True):
                site = f"{name.removesuffix('$params')}/{jax.tree_util.keystr(path)[1:]}"  # equinox changes no tree in place
                if leaf_name in self.params and (isinstance(leaf, ParamShape) or site in sites):
                    self._replaced[leaf_name] = self.params.pop(leaf_name)

    def module(self, name: str, params: Mapping[str, Array]) -> Any:
        """The trained parameter tree of the network registered under `name`."""
        key = f"{name}$params" if f"{name}$params" in self._trees else name
        if key not in self._trees:
            networks = sorted(n.removesuffix("$params") for n in self._trees if n.endswith("$params"))
            raise KeyError(f"module: expected a network of the program, one of {networks}; got '{name}'.")
        return _Table(self, dict(params)).value(key)

    def unused_store(self) -> list[str]:
        """NumPyro has no store of parameters."""
        return []

    def take_store(self) -> None:
        """Networks on JAX are values, and NumPyro has no store: there is nothing of the user's to start from.

        Raises:
            ValueError: the program has networks.
        """
        if any(name.endswith("$params") for name in self._trees):
            raise ValueError(
                "warm_start: expected torch modules, which can be written back to; got JAX networks, which are values. "
                "Take the trained parameters from fit.module(name)."
            )

    def write_back(self, params: Mapping[str, Array]) -> None:
        """There is nothing of the user's to write to."""

    def run(
        self,
        params: Mapping[str, Array],
        buffers: Mapping[str, Any],
        key: Array,
        batch: Batch,
        fixed: Mapping[str, Any] | None = None,
        cut: Collection[str] = (),
        *,
        observer: Observer[Array] | None = None,
        predictive: bool = False,
        guide: bool = True,
        first: bool = False,
    ) -> Run:
        """Run the guide, then the model on its choices: a pure function, but for the `first`, which meets the parameters."""
        table, keys = _Table(self, dict(params)), jax.random.split(key)
        recorder = Recorder(
            library,
            "guide",
            Run(buffers=copy_tree(dict(buffers))),
            batch,
            partial(_noise, key),
            fixed=fixed or {},
            cut=cut,
            row_plates=self.row_plates,
            observer=observer,
            judging=self.judging,
        )

        @contextmanager
        def handle(recorder: Recorder[Array]) -> Iterator[None]:
            with handlers.seed(rng_seed=keys[int(recorder.role == "model")]), Handler(recorder, table):
                yield

        run = record(recorder, handle, self.guide if guide else None, self.model, predictive=predictive)
        if first:
            self.settle(table, run.records)
        return run

    def dream(
        self,
        params: Mapping[str, Array],
        buffers: Mapping[str, Any],
        key: Array,
        batch: Batch,
        values: Mapping[str, Any] | None = None,
    ) -> Dream:
        """(the batch as the model draws it, its sites' values, their terms), given some values: pure, without gradient."""
        run = self.run(jax.lax.stop_gradient(dict(params)), buffers, key, batch, values, predictive=True, guide=False)
        return dreamt(batch, run, lambda value, like: jnp.asarray(value, like.dtype))

    def apply(self, params: Mapping[str, Array], function: Callable[..., Any], *args: Any) -> Any:
        """A portable function of arrays under these parameters. Call inside a session."""
        recorder = Recorder(library, "model", Run(), Batch(), partial(_noise, jax.random.key(0)))
        with handlers.seed(rng_seed=0), Handler(recorder, _Table(self, dict(params))):
            return function(*args)


def _noise(key: Array, site: str, like: Array) -> Array:
    """Of a site: NumPyro's own draws have their own keys."""
    return jax.random.uniform(jax.random.fold_in(key, zlib.crc32(site.encode())), like.shape)


class _Table:
    """The parameters of one run, by the names NumPyro's messages use."""

    def __init__(self, program: Program, params: dict[str, Array]) -> None:
        self.program, self.params = program, params
        self.seen: list[tuple[str, Any]] = []  # trees of new parameters, which a random module changes in place

    def value(self, name: str) -> Any:
        """The parameter in the program's space; None where it is not known yet."""
        if name not in self.program._trees:
            return None
        leaves, tree = self.program._trees[name]
        transformed = [self._constrained(leaf) for leaf in leaves]
        return jax.tree.unflatten(tree, transformed)

    def _constrained(self, name: str) -> Array:
        constraint = self.program.constraints[name]
        value: Any = self.params.get(name, self.program._replaced.get(name))
        return value if constraint is constraints.real else biject_to(constraint)(value)

    def meet(self, msg: NumPyroMessage) -> Any:
        """Take a new parameter's initial value; known ones pass."""
        name = msg["name"]
        if name in self.program._trees:
            return msg["value"]
        if not self.program.open:
            raise refuse_late(name)
        constraint = msg["kwargs"].get("constraint") or constraints.real
        paths, tree = jax.tree_util.tree_flatten_with_path(msg["value"])
        names = [public_name(name, path) for path, _ in paths]
        self.program._trees[name] = (names, tree)
        for leaf_name, (_, leaf) in zip(names, paths, strict=True):
            self._start(leaf_name, leaf, constraint)
        if len(paths) == 1 and not paths[0][0] and not name.endswith("$params"):
            self.program.statements.add(name)
        value = self.value(name)
        self.seen += [(name, msg["value"]), (name, value)]
        return value

    def _start(self, name: str, leaf: ArrayLike, constraint: Constraint) -> None:
        value = jnp.asarray(leaf)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(float)
        value = inside(library, name, constraint, value)
        unconstrained = value if constraint is constraints.real else biject_to(constraint).inv(value)
        self.program.constraints[name] = constraint
        self.program.params[name] = self.params[name] = jnp.array(unconstrained)


def public_name(name: str, path: Sequence[object]) -> str:
    """A parameter's dotted name: the statement's, then the way to the leaf inside a network's tree."""
    parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path]
    return ".".join([name.removesuffix("$params"), *parts])
