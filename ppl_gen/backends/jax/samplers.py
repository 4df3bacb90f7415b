"""A distribution's own sampler: NumPyro's are trusted, and what a user wrote is followed from its arrays to the draw."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from functools import partial
from types import FunctionType, MethodType

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal, Var

from ppl_gen.backends.jax.calls import part
from ppl_gen.backends.jax.graph import follow
from ppl_gen.backends.jax.known import Known
from ppl_gen.program import NOISE, Path

_INSTALLED = sysconfig.get_path("purelib")
_MADE_OF = dist.Distribution | dist.transforms.Transform | list | tuple | dict


def strangers(thing: object, silent: frozenset[str], seen: set[int] | None = None) -> list[str]:
    """Names of what a distribution is made of that is not NumPyro's: classes of distributions and transforms, functions.

    What a class defines does not count where it is in `silent`: see `IN_DRAWS` and `IN_DENSITIES`.
    """
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, partial):
        return strangers([thing.func, *thing.args, *thing.keywords.values()], silent, seen)
    if isinstance(thing, MethodType):
        return strangers(thing.__func__, silent, seen)
    if isinstance(thing, FunctionType):
        return [] if thing.__code__.co_filename.startswith(_INSTALLED) else [thing.__name__]
    if not isinstance(thing, _MADE_OF):
        return []
    plain = isinstance(thing, list | tuple | dict)
    own = [] if plain or not _defines(type(thing), silent) else [type(thing).__name__]
    parts = thing.values() if isinstance(thing, dict) else thing if plain else vars(thing).values()
    return [*own, *(name for part in list(parts) for name in strangers(part, silent, seen))]


IN_DRAWS = frozenset(
    "log_prob mean variance cdf entropy support domain codomain arg_constraints reparametrized_params pytree_data_fields "
    "pytree_aux_fields tree_flatten tree_unflatten _inverse log_abs_det_jacobian".split()
)
"""What a class may define for itself without any effect on its draws."""

IN_DENSITIES = frozenset("sample sample_with_intermediates mean variance entropy reparametrized_params".split())
"""Likewise, on its log density."""


def _defines(kind: type, silent: frozenset[str]) -> bool:
    """Whether a class defines, above the libraries', anything but what is silent."""
    own = [one for one in kind.__mro__ if one.__module__.split(".")[0] not in ("numpyro", "builtins", "typing", "abc")]
    names = {name for one in own for name in vars(one)}
    special = {name for name in names if name.startswith("__") and name != "__call__"}
    return bool(names - special - silent)


def refuse_sampler(
    program: ClosedJaxpr,
    drawn: int,
    parts: Sequence[int],
    arrays: Sequence[Known],
    inputs: Sequence[Known],
    trusted: bool,
) -> str | None:
    """Where a sampler passes no gradient from the arrays of its distribution to the draw; None if all along.

    Args:
        program: from the program's inputs to everything.
        drawn: the output that is the draw.
        parts: the outputs that are the distribution's arrays.
        arrays: what is known of these.
        inputs: what is known of the inputs: what else the sampler takes from them, by closures say, counts too.
        trusted: see `ppl_gen.backends.jax.graph.reach`.
    """
    outvars, invars = program.jaxpr.outvars, program.jaxpr.invars
    known = {v: own for v, own in zip((outvars[i] for i in parts), arrays, strict=True) if not isinstance(v, Literal)}
    given = [var for var in known if var not in invars]
    free = [_source(var, known[var], f"array {i}") for i, var in enumerate(given)]
    rest = [_source(var, own, f"input {i}") for i, (var, own) in enumerate(zip(invars, inputs, strict=True))]
    (output,) = follow(_onwards(program, drawn, given), [*free, *rest], trusted)
    jumps = [path.jump for source, path in output.reach.items() if source != NOISE and path.jump]
    first = next(iter(jumps), None)
    return first.split(": ")[-1] if first and first.startswith("samplers.py:") else first  # no user's line


def _onwards(program: ClosedJaxpr, drawn: int, given: Sequence[Var]) -> ClosedJaxpr:
    """From these variables, and the program's inputs, to one of its outputs."""
    only = part(program, drawn, drawn + 1, stop=given)
    debug = only.jaxpr.debug_info._replace(arg_names=None)
    jaxpr = only.jaxpr.replace(invars=[*given, *only.jaxpr.invars], debug_info=debug)
    return ClosedJaxpr(jaxpr, only.consts)


def _source(var: Var, own: Known, label: str) -> Known:
    """The same value as a source of its own, where anything that may be learned or drawn is behind it."""
    noise = {NOISE: Path()} if NOISE in own.reach else {}
    moves = jnp.issubdtype(getattr(var.aval, "dtype", jnp.int32), jnp.inexact) and own.reach.keys() - {NOISE}
    return Known({label: Path()} if moves else noise, own.bounds, clear=own.clear, diagonal=own.diagonal)


def draw(fn: dist.Distribution, key: Array) -> Array:
    """One draw, made as NumPyro's sample statement makes it."""
    return jnp.asarray(fn(rng_key=key, sample_intermediates=True)[0])


__all__ = ["IN_DENSITIES", "IN_DRAWS", "draw", "refuse_sampler", "strangers"]
