"""The one door to JAX and NumPyro: their messages, graphs, distributions and steps.

It may import JAX, NumPyro, optax and what `backends` may, but nothing of `backends.torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from ppl_gen.backends import doors
from ppl_gen.backends.doors import Watch, drawn
from ppl_gen.backends.dreams import redrawn
from ppl_gen.backends.jax import dialect, library
from ppl_gen.backends.jax.compiled import LEAVES_TRACER, Same
from ppl_gen.backends.jax.devices import ALL, find_device, names, put, put_rows
from ppl_gen.backends.jax.engine import Engine
from ppl_gen.backends.jax.optimizers import name_of as optimizer_name
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.jax.read import read, survey
from ppl_gen.backends.params import fitting
from ppl_gen.backends.survey import relabelled as _relabelled
from ppl_gen.program import Batch, Facts, Term

if TYPE_CHECKING:  # of a later layer
    from ppl_gen.training.prepare import Prepared

__all__ = [
    "Engine",
    "Program",
    "array",
    "draw",
    "dream",
    "held_elsewhere",
    "loading",
    "on_any_statement",
    "host_function",
    "optimizer_name",
    "is_finite",
    "read",
    "relabelled",
    "redraw",
    "resolve_device",
    "set_params",
    "survey",
    "to_numpy",
    "xp",
]

name = "jax"
xp = dialect.xp
State = tuple[Mapping[str, jax.Array], Mapping[str, Any]]  # parameters and buffers, which the program does not hold


class on_any_statement(Watch, Messenger):
    """Inside, every NumPyro statement is reported by its name."""


def resolve_device(device: str) -> str:
    """The device meant: auto is JAX's default device, and all are all of that kind, the rows split among them.

    Raises:
        ValueError: a device that is not there.
    """
    if device == "auto":
        return jax.default_backend()
    if device == ALL:
        return f"{jax.default_backend()}:{ALL}"
    platform, colon, number = device.partition(":")
    wanted = {"cuda": "gpu"}.get(platform, platform) + colon + number
    try:
        find_device(wanted)
    except (RuntimeError, ValueError):
        raise ValueError(
            f"device: expected 'auto', 'all' or one of {', '.join(names())}; got {device!r}, which JAX does not see here. Name one "
            "of these."
        ) from None
    return wanted


def held_elsewhere(device: str, *programs: object) -> list[str]:
    """Nothing: JAX takes an array along that was put on no device by hand."""
    return []


def loading() -> AbstractContextManager[None]:
    """JAX's own random keys are the loader's: there is nothing to put back."""
    return nullcontext()


def array(value: object, device: str = "cpu") -> Any:
    """Arrays, of torch too, as JAX arrays of the default float or integer type on the device; all else as it is."""
    foreign = hasattr(value, "__array__") and not isinstance(value, jax.Array | np.generic)
    values = np.asarray(value) if foreign else None
    if values is None or values.dtype.kind not in "fiub":
        return put(value, device) if isinstance(value, jax.Array) else value
    return put_rows(jnp.asarray(values), device)


def to_numpy(value: object) -> np.ndarray:
    """An array as a NumPy array; a random key as the words it is made of."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value))
    return np.asarray(value)


def dream(
    program: Program, batch: Batch, seed: int, values: Mapping[str, Any]
) -> tuple[Batch, dict[str, Any], dict[Term, np.ndarray]]:
    """The batch as the model draws it, its sites' values (those given, and drawn) and terms. Call inside a session."""
    given, drawn, terms = program.dream(program.params, program.buffers, jax.random.key(seed), batch, values)
    return given, drawn, {term: np.asarray(value) for term, value in terms.items()}


def redraw(program: Program, batch: Batch, seed: int) -> Batch:
    """The batch with what the model draws where it observes an argument."""
    with program.session(seed):
        key = jax.random.key(seed)
        run = program.run(program.params, program.buffers, key, batch, predictive=True, guide=False)
    return redrawn(batch, run, lambda value, like: jnp.asarray(value, like.dtype))


def draw(
    prepared: Prepared,
    state: State,
    batch: Batch,
    num_samples: int,
    seed: int,
    *,
    guide: bool = True,
    predictive: bool = False,
) -> Iterator[dict[str, dict[Any, np.ndarray]]]:
    """Independent runs of the trained program, as NumPy: values, terms and records."""
    program, (params, buffers) = cast(Program, prepared.program), state

    def once(batch: Batch, *known: Any) -> dict[str, dict[Any, Any]]:
        run = partial(program.run, *known)
        return drawn(xp, prepared.plan.facts, run, batch, guide=guide, predictive=predictive)

    name = ("draw", guide, predictive, Same(prepared.plan))
    with prepared.session(seed, train=False):
        for key in jax.random.split(jax.random.key(seed), num_samples):
            given = (batch, params, buffers, key)
            found = once(*given) if prepared.plan.facts.eager else _drawn(program, name, once, given)
            yield {part: {k: np.asarray(v) for k, v in found[part].items()} for part in found}


def _drawn(program: Program, name: Hashable, once: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    """One draw, by what was compiled for an earlier one where there is any."""
    try:
        return program.compiled.call(name, once, *given)
    except LEAVES_TRACER:
        return once(*given)


def relabelled(prepared: Prepared, state: State, batch: Batch) -> Facts:
    """The program's facts before any sum, with masks and scales as they are on this batch."""
    program, (params, buffers) = cast(Program, prepared.program), state
    with prepared.session():
        key = program.key()
        run = partial(program.run, params, buffers, key, batch)
        return _relabelled(library, lambda look: run(observer=look), prepared.plan.facts.whole)


def is_finite(program: Program, batch: Batch) -> bool:
    """Whether every term of one run is finite. Call inside a session."""
    run = program.run(program.params, program.buffers, program.key(), batch)
    return doors.is_finite(library, run)


def host_function(prepared: Prepared, state: State, function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A portable function of arrays under the trained parameters, as a function of NumPy arrays."""
    params, _ = state
    program = cast(Program, prepared.program)
    owner, text = getattr(function, "__self__", None), getattr(function, "__func__", function)

    def compiled(params: Mapping[str, jax.Array], *args: Any) -> Any:
        return program.compiled.get(
            ("host", Same(owner, text)), lambda: lambda params, *args: program.apply(params, function, *args)
        )(params, *args)

    def call(*args: np.ndarray) -> np.ndarray:
        rows = args[0].shape[0]
        padded = 1 << max(0, rows - 1).bit_length()  # few shapes, few compilations
        wide = [np.concatenate([a, np.repeat(a[:1], padded - rows, axis=0)]) for a in args]
        with prepared.session():
            return np.asarray(compiled(params, *(jnp.asarray(a) for a in wide)))[:rows]

    return call


def set_params(program: Program, params: Mapping[str, Any]) -> None:
    """Start from these unconstrained values.

    Raises:
        ValueError: an unknown name or another shape.
    """
    for key, leaf, value in fitting(program.params, params):
        program.params[key] = jnp.asarray(value, leaf.dtype)
