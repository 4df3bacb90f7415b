"""Steps of a JAX program: gradient, optimiser, state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl_gen.backends.checks import broken_baseline
from ppl_gen.backends.jax import dialect
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
from ppl_gen.backends.jax.distributions import core
from ppl_gen.backends.jax.optimizers import adam, build
from ppl_gen.backends.jax.program import Program
from ppl_gen.errors import NonFinite, ProgramError
from ppl_gen.program import OWN, Batch

Array = Any
Build = Callable[[list[Array], Any], Batch]
CHUNK = 100  # steps in one call of the compiled loop


class State(NamedTuple):
    """Everything a step changes."""

    params: dict[str, Array]
    buffers: dict[str, Any]
    weights: dict[str, dict[str, Array]]
    averages: dict[str, dict[str, Array]]
    moments: Any
    key: Array


def evaluate(
    program: Program, objective: Any, plan: Any, state: State, key: Array, batch: Batch, *, batched: bool = True
) -> Any:
    """The objective on one batch: see `ppl_gen.objectives.Loss`; `batched`: particles are run as one batch."""

    def run(key: Array, fixed: Any, cut: Any, *, frozen: bool = False, guide: bool = True, dream: bool = False) -> Any:
        params = jax.lax.stop_gradient(state.params) if frozen else state.params
        given = batch
        if dream:
            key, now = jax.random.split(key)
            given, fixed, _ = program.dream(params, state.buffers, now, batch)
        return program.run(params, state.buffers, key, given, fixed, cut, guide=guide)

    keys = jax.random.split(key, plan.num_particles)
    xp = dialect.xp if batched and not plan.facts.eager else dialect.one_by_one
    return objective(xp, run, keys, plan, state.weights, state.averages)


def gradients(
    program: Program, objective: Any, plan: Any, state: State, key: Array, batch: Batch, *, batched: bool = True
) -> tuple[Any, Any]:
    """((gradient of params, gradient of weights), loss)."""

    def surrogate(params: Any, weights: Any) -> tuple[Array, Any]:
        now = state._replace(params=params, weights=weights)
        loss = evaluate(program, objective, plan, now, key, batch, batched=batched)
        return loss.surrogate, (loss.value, loss.averages, loss.buffers)

    return jax.grad(surrogate, argnums=(0, 1), has_aux=True)(state.params, state.weights)


def tree_of(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Array]]:
    """A two-level tree of NumPy arrays as JAX arrays, real ones of JAX's default type."""
    real = jnp.result_type(float)
    return {
        site: {n: jnp.asarray(v, real if np.issubdtype(v.dtype, np.floating) else None) for n, v in leaves.items()}
        for site, leaves in tree.items()
    }


def sample_gradients(
    program: Program, objective: Any, plan: Any, start: Any, batch: Batch, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
    """Independent single-step gradient estimates: name -> (num_samples, *shape)."""
    state = State(program.params, program.buffers, tree_of(start[0]), tree_of(start[1]), None, None)
    keys = jax.random.split(jax.random.key(seed), num_samples)
    with program.session(seed):
        if not plan.facts.eager:
            try:
                return _sampled(program, objective, plan, strong(state), batch, keys)
            except LEAVES_TRACER:  # data that are read on the host: one by one
                pass
        try:
            each = [gradients(program, objective, plan, state, key, batch, batched=False)[0][0] for key in keys]
        except LEAVES_TRACER as error:
            raise refusal(plan, error) from error
        return {n: np.stack([np.asarray(g[n]) for g in each]) for n in program.params}


def _sampled(
    program: Program, objective: Any, plan: Any, state: State, batch: Batch, keys: Array
) -> dict[str, np.ndarray]:
    """The same by one compiled function."""
    empty = {name for name, value in program.params.items() if not value.size}  # which a batched map divides by
    count = len(keys)

    def mapped(batch_size: int | None) -> Any:
        def every(batch: Batch, state: State, keys: Array) -> Any:
            def one(key: Array) -> Any:
                found = gradients(program, objective, plan, state, key, batch)[0][0]
                return {name: g for name, g in found.items() if name not in empty}

            return jax.lax.map(one, keys, batch_size=batch_size)

        name = ("gradients", Same(objective, plan), count, batch_size)
        return program.compiled.call(name, every, batch, state, keys)

    try:
        found = mapped(min(count, 1000))
    except NotImplementedError:  # a callback to the host that cannot be batched
        found = mapped(None)
    draws = {name: np.array(g) for name, g in found.items()}
    return draws | {name: np.zeros((count, *program.params[name].shape), np.float32) for name in empty}


def refusal(plan: Any, error: BaseException) -> ProgramError:
    """What cannot even run un-jitted under differentiation."""
    names = ", ".join(f"'{name}'" for name in plan)
    return ProgramError(
        f"site {names}: expected values that stay in JAX; got a conversion to NumPy at {plan.facts.eager or user_line(error)}. "
        "Use jax.numpy, or jax.pure_callback for what only NumPy can do."
    )


def strong(tree: Any) -> Any:
    """The same arrays without weak types, which would compile a function of them anew."""
    return jax.tree.map(_strong, tree)


def _strong(leaf: Any) -> Array:
    if isinstance(leaf, jax.core.Tracer):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if key else jax.lax.convert_element_type(leaf, leaf.dtype)
    weak = getattr(leaf, "weak_type", not isinstance(leaf, jax.Array))
    return jnp.asarray(np.asarray(leaf, dtype=jnp.result_type(leaf))) if weak else leaf


class Trainer:
    """The training state of one JAX program and the step that moves it.

    Args:
        program: the program.
        objective: what is minimised.
        plan: the estimators.
        start: (baseline weights, running averages) as NumPy trees.
        optimizer: an optax transformation or one of NumPyro's; None means Adam.
        learning_rate: for Adam; another has its own.
        compile: False runs every step un-jitted.
        steps: length of the run.

    Attributes:
        how: how steps are taken, and why so.
    """

    def __init__(
        self,
        program: Program,
        objective: Any,
        plan: Any,
        start: Any,
        optimizer: Any,
        learning_rate: float,
        compile: Any = "auto",
        steps: int = 0,
    ) -> None:
        del steps  # one jitted loop serves runs of any length
        self.how = "one jitted loop on the device"
        if compile is False or plan.facts.eager:
            self.how = (
                f"un-jitted, as values leave JAX at {plan.facts.eager}" if plan.facts.eager else "un-jitted, as asked"
            )

        self.program, self.objective, self.plan = program, objective, plan
        self.transform = build(optimizer, learning_rate, program.params)
        self.own = adam(1e-3)
        # Adam keeps a NaN or infinity for good, so a look at the end of a chunk finds it; another may swallow one.
        self.watchful = optimizer is not None
        weights = tree_of(start[0])
        moments = (self.transform.init(program.params), self.own.init(weights))
        key = program.key()
        start_state = State(dict(program.params), program.buffers, weights, tree_of(start[1]), moments, key)
        self.values: State = program.placed(strong(start_state))
        self.jitted = compile is not False and not plan.facts.eager
        self._compiled = Compiled(program.compiled.level)

    def steps(self, source: Any, first: int, count: int, halt: Callable[[], bool] = lambda: False) -> np.ndarray:
        """Take the steps `first`, ..., each on the source's batch of that number; losses in nats, (steps taken,).

        Args:
            source: of batches.
            first: number of the first step.
            count: how many, if `halt` does not say so before.
            halt: asked after each call of the compiled loop whether to end there.

        Raises:
            NonFinite: the loss or a gradient is; the state is as before that step, `.losses` holds those before.
            KeyboardInterrupt: raised in the program; likewise.
        """
        losses: list[float] = []
        try:
            self._take(source, first, count, halt, losses)
        except KeyboardInterrupt as error:
            error.losses = np.array(losses)  # type: ignore[attr-defined]
            raise
        return np.array(losses)

    def _take(self, source: Any, first: int, count: int, halt: Callable[[], bool], losses: list[float]) -> None:
        while len(losses) < count and not (losses and halt()):
            arrays, rows = source.at(first + len(losses))
            chunk = self._chunk(source, first + len(losses), min(count - len(losses), CHUNK), arrays, rows)
            self.values, found, good = self._loop(source, arrays, chunk)
            losses += found[:good].tolist()
            if good < (len(chunk) if self.jitted else 1):  # un-jitted, the first alone was taken
                self._blame(float(found[good]), source.build(arrays, chunk[good]), losses)

    def _chunk(self, source: Any, first: int, count: int, arrays: Any, rows: Any) -> list[Any]:
        """The rows of as many next steps as have the same arrays and batch length."""
        if not self.jitted or _flows(source):
            return [rows]
        following = [source.rows(first + i) for i in range(count)]
        lengths = [None if r is None else len(r) for r in following]
        same = next((i for i, length in enumerate(lengths) if length != lengths[0]), count)
        return following[:same]

    def _loop(self, source: Any, arrays: Any, chunk: list[Any]) -> tuple[State, np.ndarray, int]:
        while self.jitted:
            try:
                return self._quickly(source, arrays, chunk)
            except LEAVES_TRACER as error:
                self._give_way(source, chunk, error)
        try:
            values, loss, finite = self._advance(self.values, source.build(arrays, chunk[0]))
        except LEAVES_TRACER as error:
            raise refusal(self.plan, error) from error
        good = bool(finite)
        return (values if good else self.values), np.array([float(loss)]), int(good)

    def _give_way(self, source: Any, chunk: list[Any], error: BaseException) -> None:
        """Let Python read more of the data; where they change from step to step, take the steps un-jitted.

        Raises:
            ProgramError: data are constants already, and still a value leaves JAX.
        """
        changing = chunk[0] is not None or _flows(source)
        self._compiled.level = max(self._compiled.level, 0 if _flows(source) else ARRAYS) + 1
        if self._compiled.level > (ARRAYS if _flows(source) else NOTHING):
            if not changing:
                raise refusal(self.plan, error) from error
            self.jitted = False
            self.how = f"un-jitted, as data that change from step to step are read on the host at {user_line(error)}"

    def _quickly(self, source: Any, arrays: Any, chunk: list[Any]) -> tuple[State, np.ndarray, int]:
        """The chunk's steps, or the first of them, in the compiled loop."""
        level = self._compiled.level
        if chunk[0] is None:  # whole batches, which may differ in whatever they hold
            start = level if _flows(source) else max(level, ARRAYS)  # a table's plain numbers stay what they are
            rows, (given, join, key) = None, split_batch(source.build(arrays, None), start)
            build: Build = lambda given, _: join(given)  # noqa: E731
        else:  # rows of one table
            rows, given = np.zeros((CHUNK, len(chunk[0])), dtype=np.int32), arrays
            build = lambda given, rows: on_host(source.build(given, rows), level)  # noqa: E731
            key = (level, rows.shape, *shapes(given))
            for i, one in enumerate(chunk):
                rows[i] = one
        quick = self._loop_of(build, key, self.watchful)
        values, losses, good = quick(self.values, given, rows, len(chunk))
        if int(good) < len(chunk):  # go back, and only as far as all was well
            careful = self._loop_of(build, key, True)
            _, losses, good = careful(self.values, given, rows, len(chunk))
            values, _, _ = careful(self.values, given, rows, int(good))
        return values, np.asarray(losses), int(good)

    def _loop_of(self, build: Build, key: Any, watchful: bool) -> Any:
        """The compiled loop for batches of this kind."""

        def loop(state: State, given: list[Array], rows: Any, count: Array) -> tuple[State, Array, Array]:
            return self._many(build, state, given, rows, count, watchful)

        return self._compiled.get(("loop", key, watchful), lambda: loop)

    def _many(
        self, build: Build, state: State, arrays: Any, rows: Any, count: Array, watchful: bool
    ) -> tuple[State, Array, Array]:
        """Up to CHUNK steps in one loop on the device: (state, losses, how many were finite from the first on).

        Unless `watchful`, gradients are judged by the parameters they leave at the end: all were finite, or not all.
        """

        def body(i: Array, carry: Any) -> Any:
            state, losses, good = carry
            new, loss, finite = self._advance(state, build(arrays, None if rows is None else rows[i]))
            return new, losses.at[i].set(loss), good + (finite & (good == i)) if watchful else good

        start = (state, jnp.zeros(CHUNK), jnp.zeros((), jnp.int32))
        state, losses, good = jax.lax.fori_loop(0, count, body, start)
        if not watchful:
            good = jnp.where(all_finite([losses, *state.params.values(), *_own(state)]), count, 0)
        return strong(state), losses, good

    def _advance(self, state: State, batch: Batch) -> tuple[State, Array, Array]:
        key, now = jax.random.split(state.key)
        (of_params, of_weights), (loss, averages, buffers) = gradients(
            self.program, self.objective, self.plan, state, now, batch, batched=self.jitted
        )
        buffers, averages = like_before(buffers, state.buffers), _typed_as(averages, state.averages)
        updates, moments = self.transform.update(of_params, state.moments[0], state.params, value=loss)
        own_updates, own_moments = self.own.update(of_weights, state.moments[1], state.weights)
        finite = all_finite([loss, *of_params.values(), *jax.tree.leaves((of_weights, averages))])
        params, weights = optax.apply_updates(state.params, updates), optax.apply_updates(state.weights, own_updates)
        return State(params, buffers, weights, averages, (moments, own_moments), key), loss, finite

    def _blame(self, loss: float, batch: Batch, losses: list[float]) -> None:
        _, now = jax.random.split(self.values.key)
        (gradient, own), (_, averages, _) = gradients(self.program, self.objective, self.plan, self.values, now, batch)
        bad = [name for name, g in gradient.items() if not bool(jnp.all(jnp.isfinite(g)))]
        if np.isfinite(loss) and bad:
            message = f"param '{bad[0]}': expected a finite gradient; got NaN or infinity. Lower the learning rate or check the batch."
        elif np.isfinite(loss) and (broken := self._broken(own) or self._broken(averages)):
            message = broken_baseline(broken, self.plan[broken].estimator)
        else:
            message = blame(self.program, self.values, batch)
        error = NonFinite(message)
        error.losses = np.array(losses)
        raise error

    def _broken(self, tree: Mapping[str, Mapping[str, Array]]) -> str | None:
        """The first site for which something is not finite."""
        sites = [site for site, leaves in tree.items() if leaves and site in self.plan]
        return next((site for site in sites if not bool(all_finite(tree[site].values()))), None)

    def loss(self, batch: Batch, draw: int = 0) -> float:
        """The objective's value on `batch`; one `draw` always means the same random numbers."""
        if not self.jitted:
            return float(self._value(batch, self.values, draw))
        try:
            return float(self._compiled.call("loss", self._value, batch, self.values, draw))
        except LEAVES_TRACER:
            return float(self._value(batch, self.values, draw))

    def _value(self, batch: Batch, state: State, draw: Any) -> Array:
        key = jax.random.fold_in(jax.random.key(self.program.seed), draw)
        settled = state._replace(averages={name: own for name, own in state.averages.items() if name != OWN})
        batched = self.jitted
        with self.program.session(train=False):
            return evaluate(self.program, self.objective, self.plan, settled, key, batch, batched=batched).value

    def current_params(self) -> dict[str, Array]:
        """Parameter name -> unconstrained array."""
        return dict(self.values.params)

    def load_values(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back parameters and buffers only."""
        everything = self.state()
        self.load(
            {name: flat[name] if name.startswith(("params/", "buffers/")) else old for name, old in everything.items()}
        )

    def final(self) -> tuple[Any, Any]:
        """(params, buffers) for `draw`."""
        return self.values.params, self.values.buffers

    def state(self) -> dict[str, np.ndarray]:
        """Everything that a continued run needs, as flat NumPy arrays."""
        paths, _ = jax.tree_util.tree_flatten_with_path(self.values)
        return {_path(path): np.array(_plain(leaf)) for path, leaf in paths}

    def load(self, flat: Mapping[str, np.ndarray]) -> None:
        """Put back what `state` gave."""
        paths, tree = jax.tree_util.tree_flatten_with_path(self.values)
        leaves = [_like(leaf, flat[_path(path)]) for path, leaf in paths]
        self.values = jax.tree.unflatten(tree, leaves)


def _flows(source: Any) -> bool:
    """Whether batches come one by one, each with data of its own."""
    return type(source).__name__ == "Stream"


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


def _typed_as(averages: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The estimators' averages in the types that they began with."""
    return {
        site: {n: jnp.asarray(v, before[site][n].dtype) for n, v in leaves.items()} for site, leaves in averages.items()
    }


def _form(tree: Any) -> tuple[list[str], Any]:
    """(type and shape of every leaf, the containers)."""
    leaves, containers = jax.tree.flatten(tree)
    return [f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in leaves], containers


def _path(path: Any) -> str:
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def _plain(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _like(leaf: Array, value: np.ndarray) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value))
    return jnp.asarray(value, leaf.dtype)


def _own(state: State) -> list[Array]:
    """What the estimators learn for themselves."""
    return [*jax.tree.leaves(state.weights), *jax.tree.leaves(state.averages)]


def all_finite(arrays: Any) -> Array:
    """Whether every element of every array is."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in arrays]))


def blame(program: Program, state: State, batch: Batch) -> str:
    """Run once more and name the first site whose density is not finite."""
    found: list[str] = []

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        log_prob = np.asarray(msg["fn"].log_prob(msg["value"]))
        if not found and not np.isfinite(log_prob).all():
            worst = log_prob[~np.isfinite(log_prob)].flat[0]
            what = f"the log density of {type(core(msg['fn'])).__name__}"
            found.append(f"site '{msg['name']}' ({role}): expected {what} to be finite; got {worst}")

    program.run(state.params, state.buffers, state.key, batch, observer=look)
    where = found[0] if found else "loss: expected a finite value; got NaN or infinity, which no site repeats"
    return f"{where}. Check the batch, the constraints of what the site depends on, and the learning rate."
