"""What is known of a value in a jaxpr: what reaches it, its bounds, how it was made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ppl_gen.backends.jax.calls import Atom
from ppl_gen.program import NOISE, PARAM, Path, blocked, merge
from ppl_gen.program.bounds import ANY, Bounds
from ppl_gen.program.continuity import Expr

Reach = dict[str, Path]


@dataclass(frozen=True)
class Known:
    """What is known of a value, whatever its sources are.

    Attributes:
        reach: the sources that reach it, and how.
        bounds: between which it lies.
        expr: how it was made, elementwise; equal expressions are equal arrays.
        border: of a condition: what reaches the sides of its comparisons.
        clear: whether it stays away from zero however its latents move.
        diagonal: whether that is so of a matrix's diagonal.
        doubt: sources that came through what may have left its domain.
        rising: whether it is a constant whose elements strictly increase.
    """

    reach: Reach
    bounds: Bounds = ANY
    expr: Expr | None = None
    border: Reach | None = None
    clear: bool = False
    diagonal: bool = False
    doubt: frozenset[str] = frozenset()
    rising: bool = False


def poled(reach: Reach, where: str) -> Reach:
    """The same sources after a pole that latents may come to: a step, and a derivative that leaves something out."""
    if not has_latents(reach):
        return reach
    stopped = blocked(reach, where)
    return {s: path.joined(stopped[s]) if s.startswith(PARAM) else stopped[s] for s, path in reach.items()}


def whole(ins: Sequence[Known]) -> Reach:
    """All sources of several values."""
    return merge(*(own.reach for own in ins))


def blocked_of(reach: Reach, sources: Collection[str], where: str) -> Reach:
    """The same sources; no gradient passes to some of them."""
    stopped = blocked(reach, where)
    return {source: stopped[source] if source in sources else path for source, path in reach.items()}


def has_latents(reach: Reach) -> bool:
    """Whether any of the sources is a latent."""
    return any(source != NOISE and not source.startswith(PARAM) for source in reach)


def is_discrete(atom: Atom) -> bool:
    """Whether its type carries no derivative."""
    dtype = getattr(atom.aval, "dtype", None)  # tokens have none
    return dtype is None or not jnp.issubdtype(dtype, jnp.inexact)


def is_coarse(atom: Atom) -> bool:
    """Whether a float has so few values that rounding to it is a step."""
    return not is_discrete(atom) and dtype_of(atom).itemsize < 2


def dtype_of(atom: Atom) -> np.dtype:
    """The type of the elements; that of a token does not matter."""
    return getattr(atom.aval, "dtype", None) or np.dtype("float32")


def rises(value: jax.Array | np.ndarray) -> bool:
    """Whether the elements of an array in one dimension strictly increase."""
    return np.ndim(value) == 1 and bool(np.all(np.diff(np.asarray(value)) > 0))
