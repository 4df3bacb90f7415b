"""What JAX does for a training step: gradients of pure functions, one jitted loop, levels of what is an argument."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppl_gen.backends.engine import Advanced, Aux, Fixed, Found, Parts, Source, Tree
from ppl_gen.backends.jax import compiled, dialect, library, trees
from ppl_gen.backends.jax.compiled import ARRAYS, LEAVES_TRACER, NOTHING, Compiled, Same, user_line
from ppl_gen.backends.jax.devices import split_rows
from ppl_gen.backends.jax.optimizers import Optimizer
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.survey import culprit
from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch, Facts, Run
from ppl_gen.program.arrays import Namespace

if TYPE_CHECKING:
    from ppl_gen.objectives.bound import Loss
    from ppl_gen.training import state as states
    from ppl_gen.training import step as steps

    State = states.State[Array]
    Step = steps.Step[Array]

Build = Callable[[list[Array], Any], Batch]
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

    def arrays(self, tree: Tree[np.ndarray], *, learned: bool) -> Tree[Array]:
        """See the protocol; real ones are of JAX's default type."""
        del learned
        real = jnp.result_type(float)
        return jax.tree.map(lambda v: jnp.asarray(v, real if np.issubdtype(v.dtype, np.floating) else None), tree)

    def place(self, state: State) -> State:
        """See the protocol."""
        placed: State = self.program.placed(trees.strong(state))
        return placed

    def random(self) -> Array:
        """See the protocol."""
        return self.program.key()

    def optimizer(self, wanted: object, learning_rate: float, values: Mapping[str, Any]) -> Optimizer:
        """See the protocol."""
        self.watchful |= wanted is not None
        return Optimizer(wanted, learning_rate, values)

    # -- the parts of a step ---------------------------------------------------------------------------------------

    def run(self, state: State, batch: Batch, key: Array, fixed: Fixed, cut: Collection[str], **options: bool) -> Run:
        """See the protocol."""
        params = jax.lax.stop_gradient(state.params) if options.get("frozen", False) else state.params
        if options.get("dream", False):
            key, now = jax.random.split(key)
            batch, fixed, _ = self.program.dream(params, state.buffers, now, batch)
        return self.program.run(params, state.buffers, key, batch, fixed, cut, guide=options.get("guide", True))

    def gradient(self, function: Callable[[Parts], tuple[Any, Aux]], parts: Parts) -> tuple[Parts, Aux]:
        """See the protocol."""
        found: tuple[Parts, Aux] = jax.grad(function, has_aux=True)(parts)
        return found

    def all_finite(self, *trees: Any) -> Array:
        """See the protocol."""
        found = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]
        return jnp.all(jnp.stack(found)) if found else jnp.asarray(True)

    def carried(self, loss: Loss, state: State) -> tuple[Tree[Array], Parts]:
        """See the protocol: in the types that they began with."""
        averages = {site: {n: loss.averages[site][n] for n in own} for site, own in state.averages.items()}
        typed: Tree[Array] = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), averages, state.averages)
        return typed, trees.like_before(loss.buffers, state.buffers)

    # -- steps -----------------------------------------------------------------------------------------------------

    def advance(self, step: Step, state: State, source: Source, number: int, most: int) -> Advanced:
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
        self, step: Step, state: State, source: Source, arrays: Any, chunk: list[Any]
    ) -> tuple[State, np.ndarray, int]:
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
        self, step: Step, state: State, source: Source, arrays: Any, chunk: list[Any]
    ) -> tuple[State, np.ndarray, int]:
        """The chunk's steps, or the first of them, in the compiled loop."""
        level = self._compiled.level
        if chunk[0] is None:  # whole batches, which may differ in whatever they hold
            start = level if source.one_by_one else max(level, ARRAYS)  # a table's plain numbers stay what they are
            rows, (given, join, key) = None, compiled.split_batch(source.build(arrays, None), start)
            build: Build = lambda given, _: join(given)  # noqa: E731
        else:  # rows of one table
            rows, given = np.zeros((CHUNK, len(chunk[0])), dtype=np.int32), arrays
            build = lambda given, rows: self._spread(compiled.on_host(source.build(given, rows), level))  # noqa: E731
            key = (level, rows.shape, *compiled.shapes(given))
            rows[: len(chunk)] = chunk

        def take(watchful: bool, count: int) -> Any:
            def loop(state: State, given: list[Array], rows: Any, count: Array) -> Any:
                return self._many(step, build, state, given, rows, count, watchful)

            return self._compiled.get(("loop", key, watchful), lambda: loop)(state, given, rows, count)

        after, losses, good = take(self.watchful, len(chunk))
        if int(good) < len(chunk):  # go back, and only as far as all was well
            _, losses, good = take(True, len(chunk))
            after, _, _ = take(True, int(good))
        return after, np.asarray(losses), int(good)

    def _spread(self, batch: Batch) -> Batch:
        """The rows of a minibatch, split among several devices as the data are."""
        length = 0 if batch.rows is None else batch.rows.shape[0]
        args, kwargs = split_rows((batch.args, dict(batch.kwargs)), length, self.program.device)
        return Batch(args, kwargs, batch.scale, batch.rows)

    def _many(
        self,
        step: Step,
        build: Build,
        state: State,
        arrays: Any,
        rows: Any,
        count: Array,
        watchful: bool,
    ) -> tuple[State, Array, Array]:
        """Up to CHUNK steps in one loop on the device: (state, losses, how many were finite from the first on).

        Unless `watchful`, a gradient is judged by what Adam has made of it at the end; averages, which may forget, are
        looked at in every step.
        """

        def body(i: Array, carry: Any) -> Any:
            state, losses, good = carry
            after, found = self._one(step, state, build(arrays, None if rows is None else rows[i]))
            finite = found.finite if watchful else self.all_finite(found.averages)
            return after, losses.at[i].set(found.loss), good + (finite & (good == i))

        start = (state, jnp.zeros(CHUNK), jnp.zeros((), jnp.int32))
        state, losses, good = jax.lax.fori_loop(0, count, body, start)
        if not watchful:
            good = jnp.where(self.all_finite(losses, state.params, state.weights), good, 0)
        return trees.strong(state), losses, good

    def _one(self, step: Step, state: State, batch: Batch) -> tuple[State, Found[Array]]:
        after, now = jax.random.split(state.random)
        found = step.gradients(state, now, batch)
        return step.update(state, found)._replace(random=after), found

    def inspect(self, step: Step, state: State, batch: Batch) -> tuple[Found[Array], str | None]:
        """See the protocol: with the draws that the first particle had."""
        _, now = jax.random.split(state.random)
        _, key = jax.random.split(jax.random.split(now, step.plan.num_particles)[0])
        run = partial(self.program.run, state.params, state.buffers, key, batch)
        return step.gradients(state, now, batch), culprit(library, lambda look: run(observer=look))

    def evaluate(self, function: Callable[..., Array], state: State, batch: Batch, draw: int) -> float:
        """See the protocol."""

        def run(batch: Batch, state: State, draw: int) -> Array:
            key = jax.random.fold_in(jax.random.key(self.program.seed), draw)
            with self.program.session(train=False):
                return function(state, key, batch)

        if self.jitted:
            try:
                return float(self._compiled.call("evaluate", run, batch, state, draw))
            except LEAVES_TRACER:  # data that are read on the host
                pass
        return float(run(batch, state, draw))

    def draws(self, step: Step, state: State, batch: Batch, count: int, seed: int) -> dict[str, np.ndarray]:
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

    def _at_once(self, step: Step, state: State, batch: Batch, keys: Array) -> dict[str, np.ndarray]:
        empty = {name for name, value in state.params.items() if not value.size}  # which a batched map divides by
        count = len(keys)

        def mapped(batch_size: int | None) -> Any:
            def every(batch: Batch, state: State, keys: Array) -> Any:
                def one(key: Array) -> dict[str, Array]:
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

    def params(self, state: State) -> dict[str, Array]:
        """See the protocol."""
        return dict(state.params)

    def flatten(self, state: State) -> dict[str, np.ndarray]:
        """See the protocol."""
        return trees.flatten(state)

    def load(self, state: State, flat: Mapping[str, np.ndarray]) -> State:
        """See the protocol."""
        loaded: State = trees.unflatten(state, flat)
        return loaded
