"""What JAX does for a training step: gradients of pure functions, one jitted loop, levels of what is an argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.engine import Advanced, Found, Source
from ppl_gen.backends.jax import dialect, library
from ppl_gen.backends.jax.compiled import (
    ARRAYS,
    LEAVES_TRACER,
    NOTHING,
    Compiled,
    Same,
    on_host,
    shapes,
    split_batch,
    user_line,
)
from ppl_gen.backends.jax.optimizers import Optimizer
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.survey import culprit
from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch, Facts, Run
from ppl_gen.program.arrays import Namespace

if TYPE_CHECKING:
    from ppl_gen.training.state import State
    from ppl_gen.training.step import Step

Aux = TypeVar("Aux")
Build = Callable[[list[jax.Array], Any], Batch]
CHUNK = 100  # steps in one call of the compiled loop


class Engine:
    """See `ppl_gen.backends.engine.Engine`; a step is a pure function of the state.

    Attributes:
        watchful: whether gradients are looked at in every step. Adam keeps a NaN or an infinity for good, so that a look
            at the end of a chunk finds it; another optimizer may swallow one.
    """

    def __init__(self, program: Program, facts: Facts, compile: bool | str = "auto", steps: int = 0) -> None:
        del steps  # one jitted loop serves runs of any length
        self.program, self._facts = program, facts
        self.jitted = compile is not False and not facts.eager
        self.watchful = False
        self.how = "one jitted loop on the device"
        if not self.jitted:
            self.how = f"un-jitted, as {f'values leave JAX at {facts.eager}' if facts.eager else 'asked'}"
        self._compiled = Compiled(program.compiled.level)

    @property
    def xp(self) -> Namespace:
        """See the protocol; where Python may look at values, particles are run one by one."""
        return dialect.xp if self.jitted else dialect.one_by_one

    # -- making a state ------------------------------------------------------------------------------------------

    def arrays(self, tree: Mapping[str, Mapping[str, np.ndarray]], *, learned: bool) -> dict[str, dict[str, jax.Array]]:
        """See the protocol; real ones are of JAX's default type."""
        del learned
        real = jnp.result_type(float)

        def make(value: np.ndarray) -> jax.Array:
            return jnp.asarray(value, real if np.issubdtype(value.dtype, np.floating) else None)

        return {site: {n: make(value) for n, value in own.items()} for site, own in tree.items()}

    def place(self, state: State[jax.Array]) -> State[jax.Array]:
        """See the protocol."""
        placed: State[jax.Array] = self.program.placed(strong(state))
        return placed

    def random(self) -> jax.Array:
        """See the protocol."""
        return self.program.key()

    def optimizer(self, wanted: object, learning_rate: float, values: Mapping[str, Any]) -> Optimizer:
        """See the protocol."""
        self.watchful |= wanted is not None
        return Optimizer(wanted, learning_rate, values)

    # -- the parts of a step ---------------------------------------------------------------------------------------

    def run(
        self,
        state: State[jax.Array],
        batch: Batch,
        key: jax.Array,
        fixed: Mapping[str, Any],
        cut: Collection[str],
        *,
        frozen: bool = False,
        guide: bool = True,
        dream: bool = False,
    ) -> Run:
        """See the protocol."""
        params = jax.lax.stop_gradient(state.params) if frozen else state.params
        if dream:
            key, now = jax.random.split(key)
            batch, fixed, _ = self.program.dream(params, state.buffers, now, batch)
        return self.program.run(params, state.buffers, key, batch, fixed, cut, guide=guide)

    def gradient(
        self, function: Callable[[dict[str, Any]], tuple[Any, Aux]], parts: dict[str, Any]
    ) -> tuple[dict[str, Any], Aux]:
        """See the protocol."""
        found, more = jax.grad(function, has_aux=True)(parts)
        return found, more

    def all_finite(self, *trees: Any) -> jax.Array:
        """See the protocol."""
        found = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]
        return jnp.all(jnp.stack(found)) if found else jnp.asarray(True)

    def carried(
        self, averages: Mapping[str, Mapping[str, Any]], buffers: Mapping[str, Any], state: State[jax.Array]
    ) -> tuple[dict[str, dict[str, jax.Array]], dict[str, Any]]:
        """See the protocol: in the types that they began with."""
        own = {
            site: {n: jnp.asarray(averages[site][n], old.dtype) for n, old in kept.items()}
            for site, kept in state.averages.items()
        }
        return own, like_before(buffers, state.buffers)

    # -- steps -----------------------------------------------------------------------------------------------------

    def advance(
        self, step: Step[jax.Array], state: State[jax.Array], source: Source, number: int, most: int
    ) -> Advanced:
        """See the protocol: a chunk of steps in one call of the compiled loop, or one step un-jitted."""
        arrays, rows = source.at(number)
        chunk = self._chunk(source, number, min(most, CHUNK), rows)
        state, losses, good = self._taken(step, state, source, arrays, chunk)
        asked = len(chunk) if self.jitted else 1
        failed = source.build(arrays, chunk[good]) if good < asked else None
        return Advanced(state, losses[:good].tolist(), failed)

    def _chunk(self, source: Source, first: int, count: int, rows: Any) -> list[Any]:
        """The rows of as many next steps as have the same arrays and batch length."""
        if not self.jitted or source.one_by_one:
            return [rows]
        following = [source.rows(first + i) for i in range(count)]
        lengths = [None if r is None else len(r) for r in following]
        same = next((i for i, length in enumerate(lengths) if length != lengths[0]), count)
        return following[:same]

    def _taken(
        self, step: Step[jax.Array], state: State[jax.Array], source: Source, arrays: Any, chunk: list[Any]
    ) -> tuple[State[jax.Array], np.ndarray, int]:
        while self.jitted:
            try:
                return self._quickly(step, state, source, arrays, chunk)
            except LEAVES_TRACER as error:
                self._give_way(source, chunk, error)
        try:
            after, found = self._one(step, state, source.build(arrays, chunk[0]))
        except LEAVES_TRACER as error:
            raise self._refusal(error) from error
        good = bool(found.finite)
        return (after if good else state), np.array([float(found.loss)]), int(good)

    def _give_way(self, source: Source, chunk: list[Any], error: BaseException) -> None:
        """Let Python read more of the data; where they change from step to step, take the steps un-jitted.

        Raises:
            ProgramError: data are constants already, and still a value leaves JAX.
        """
        changing = chunk[0] is not None or source.one_by_one
        self._compiled.level = max(self._compiled.level, 0 if source.one_by_one else ARRAYS) + 1
        if self._compiled.level > (ARRAYS if source.one_by_one else NOTHING):
            if not changing:
                raise self._refusal(error) from error
            self.jitted = False
            self.how = f"un-jitted, as data that change from step to step are read on the host at {user_line(error)}"

    def _refusal(self, error: BaseException) -> ProgramError:
        """What cannot even run un-jitted under differentiation."""
        names = ", ".join(f"'{site.name}'" for site in self._facts.latents())
        return ProgramError(
            f"site {names}: expected values that stay in JAX; got a conversion to NumPy at "
            f"{self._facts.eager or user_line(error)}. Use jax.numpy, or jax.pure_callback for what only NumPy can do."
        )

    def _quickly(
        self, step: Step[jax.Array], state: State[jax.Array], source: Source, arrays: Any, chunk: list[Any]
    ) -> tuple[State[jax.Array], np.ndarray, int]:
        """The chunk's steps, or the first of them, in the compiled loop."""
        level = self._compiled.level
        if chunk[0] is None:  # whole batches, which may differ in whatever they hold
            start = level if source.one_by_one else max(level, ARRAYS)  # a table's plain numbers stay what they are
            rows, (given, join, key) = None, split_batch(source.build(arrays, None), start)
            build: Build = lambda given, _: join(given)  # noqa: E731
        else:  # rows of one table
            rows, given = np.zeros((CHUNK, len(chunk[0])), dtype=np.int32), arrays
            build = lambda given, rows: on_host(source.build(given, rows), level)  # noqa: E731
            key = (level, rows.shape, *shapes(given))
            rows[: len(chunk)] = chunk

        def take(watchful: bool, count: int) -> Any:
            def loop(state: State[jax.Array], given: list[jax.Array], rows: Any, count: jax.Array) -> Any:
                return self._many(step, build, state, given, rows, count, watchful)

            return self._compiled.get(("loop", key, watchful), lambda: loop)(state, given, rows, count)

        after, losses, good = take(self.watchful, len(chunk))
        if int(good) < len(chunk):  # go back, and only as far as all was well
            _, losses, good = take(True, len(chunk))
            after, _, _ = take(True, int(good))
        return after, np.asarray(losses), int(good)

    def _many(
        self,
        step: Step[jax.Array],
        build: Build,
        state: State[jax.Array],
        arrays: Any,
        rows: Any,
        count: jax.Array,
        watchful: bool,
    ) -> tuple[State[jax.Array], jax.Array, jax.Array]:
        """Up to CHUNK steps in one loop on the device: (state, losses, how many were finite from the first on).

        Unless `watchful`, a gradient is judged by what Adam has made of it at the end; averages, which may forget, are
        looked at in every step.
        """

        def body(i: jax.Array, carry: Any) -> Any:
            state, losses, good = carry
            after, found = self._one(step, state, build(arrays, None if rows is None else rows[i]))
            finite = found.finite if watchful else self.all_finite(found.averages)
            return after, losses.at[i].set(found.loss), good + (finite & (good == i))

        start = (state, jnp.zeros(CHUNK), jnp.zeros((), jnp.int32))
        state, losses, good = jax.lax.fori_loop(0, count, body, start)
        if not watchful:
            good = jnp.where(self.all_finite(losses, state.params, state.weights), good, 0)
        return strong(state), losses, good

    def _one(
        self, step: Step[jax.Array], state: State[jax.Array], batch: Batch
    ) -> tuple[State[jax.Array], Found[jax.Array]]:
        after, now = jax.random.split(state.random)
        found = step.gradients(state, now, batch)
        return step.update(state, found)._replace(random=after), found

    def inspect(
        self, step: Step[jax.Array], state: State[jax.Array], batch: Batch
    ) -> tuple[Found[jax.Array], str | None]:
        """See the protocol: with the draws that the first particle had."""
        _, now = jax.random.split(state.random)
        _, key = jax.random.split(jax.random.split(now, step.plan.num_particles)[0])
        return step.gradients(state, now, batch), self._culprit(state, key, batch)

    def _culprit(self, state: State[jax.Array], key: jax.Array, batch: Batch) -> str | None:
        run = partial(self.program.run, state.params, state.buffers, key, batch)
        return culprit(library, lambda look: run(observer=look))

    def evaluate(
        self,
        function: Callable[[State[jax.Array], jax.Array, Batch], jax.Array],
        state: State[jax.Array],
        batch: Batch,
        draw: int,
    ) -> float:
        """See the protocol."""

        def run(batch: Batch, state: State[jax.Array], draw: int) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(self.program.seed), draw)
            with self.program.session(train=False):
                return function(state, key, batch)

        if self.jitted:
            try:
                return float(self._compiled.call("evaluate", run, batch, state, draw))
            except LEAVES_TRACER:  # data that are read on the host
                pass
        return float(run(batch, state, draw))

    def draws(
        self, step: Step[jax.Array], state: State[jax.Array], batch: Batch, count: int, seed: int
    ) -> dict[str, np.ndarray]:
        """See the protocol; by one compiled function where that is possible."""
        keys = jax.random.split(jax.random.key(seed), count)
        if self.jitted:
            try:
                return self._at_once(step, state, batch, keys)
            except LEAVES_TRACER:  # data that are read on the host: one by one
                self.jitted = False
        try:
            each = [step.gradients(state, key, batch).gradients["params"] for key in keys]
        except LEAVES_TRACER as error:
            raise self._refusal(error) from error
        return {n: np.stack([np.asarray(g[n]) for g in each]) for n in state.params}

    def _at_once(
        self, step: Step[jax.Array], state: State[jax.Array], batch: Batch, keys: jax.Array
    ) -> dict[str, np.ndarray]:
        empty = {name for name, value in state.params.items() if not value.size}  # which a batched map divides by
        count = len(keys)

        def mapped(batch_size: int | None) -> Any:
            def every(batch: Batch, state: State[jax.Array], keys: jax.Array) -> Any:
                def one(key: jax.Array) -> dict[str, jax.Array]:
                    found = step.gradients(state, key, batch).gradients["params"]
                    return {name: g for name, g in found.items() if name not in empty}

                return jax.lax.map(one, keys, batch_size=batch_size)

            name = ("gradients", Same(step.objective, step.plan), count, batch_size)
            return self.program.compiled.call(name, every, batch, state, keys)

        try:
            found = mapped(min(count, 1000))
        except NotImplementedError:  # a callback to the host that cannot be batched
            found = mapped(None)
        drawn = {name: np.array(g) for name, g in found.items()}
        return drawn | {name: np.zeros((count, *state.params[name].shape), np.float32) for name in empty}

    # -- reading and writing a state -------------------------------------------------------------------------------

    def params(self, state: State[jax.Array]) -> dict[str, jax.Array]:
        """See the protocol."""
        return dict(state.params)

    def flatten(self, state: State[jax.Array]) -> dict[str, np.ndarray]:
        """See the protocol."""
        return {name: np.array(_plain(leaf)) for name, leaf in _named(state)}

    def load(self, state: State[jax.Array], flat: Mapping[str, np.ndarray]) -> State[jax.Array]:
        """See the protocol."""
        loaded: State[jax.Array] = jax.tree.unflatten(
            jax.tree.structure(state), [_as_before(leaf, flat[name]) for name, leaf in _named(state)]
        )
        return loaded


def strong(tree: Any) -> Any:
    """The same arrays without weak types, which would compile a function of them anew."""
    return jax.tree.map(_strong, tree)


def _strong(leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.core.Tracer):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if key else jax.lax.convert_element_type(leaf, leaf.dtype)
    weak = getattr(leaf, "weak_type", not isinstance(leaf, jax.Array))
    return jnp.asarray(np.asarray(leaf, dtype=jnp.result_type(leaf))) if weak else leaf


def like_before(buffers: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The state that the program itself carries on, as arrays of the types it had before.

    Raises:
        ProgramError: it is of another form, which no compiled loop can carry.
    """
    for name, old in before.items():
        found, expected = _form(buffers[name]), _form(old)
        if found != expected:
            raise ProgramError(
                f"mutable '{name}': expected state of one form at every step, {expected[0]}; got {found[0]}. Start it with arrays of "
                "the shapes and types that it has later."
            )
    return {
        name: jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), buffers[name], before[name]) for name in before
    }


def _form(tree: Any) -> tuple[list[str], Any]:
    """(type and shape of every leaf, the containers)."""
    leaves, containers = jax.tree.flatten(tree)
    return [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in leaves], containers


def _named(state: State[jax.Array]) -> Iterable[tuple[str, jax.Array]]:
    """(name in a file, leaf); the random state is called key there."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)
        yield ("key" if name == "random" else name), leaf


def _plain(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _as_before(leaf: jax.Array, value: np.ndarray) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value))
    return jnp.asarray(value, leaf.dtype)
