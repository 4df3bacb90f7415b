"""Words of marks, joined, reduced and broadcast; what is unknown mixes everything.

Words are *compact*: an array of as many dimensions as the value it tells of, a dimension being of length 1 where all elements
along it carry the same marks. None stands for no marks at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn
from numpy.typing import NDArray

from ppl_gen.backends.jax.calls import shape_of

Shape = tuple[int, ...]
Words = NDArray[np.int64] | None


Present = NDArray[np.int64]


Constant = Callable[[], NDArray[Any]] | None  # what gives a value that depends on no input, once it is asked for


Rule = Callable[[JaxprEqn, list[Words], Sequence[Constant]], list[Words]]


def union(*words: Words) -> Words:
    """The marks of several arrays of one shape."""
    found: Words = None
    for one in words:
        if one is not None:
            found = one if found is None else found | one
    return found


def gathered(words: Words, axes: Sequence[int], keep: bool = False) -> Words:
    """The marks of all elements along some axes together."""
    if words is None:
        return None
    places = tuple(axes)
    if not places:
        return words
    reduced: Present = np.bitwise_or.reduce(words, axis=places)
    return np.expand_dims(reduced, places) if keep else reduced


def all_of(words: Words) -> Words:
    """The marks of all elements, as one number."""
    return None if words is None else np.asarray(np.bitwise_or.reduce(words, axis=None), np.int64)


def fitted(words: Words, ndim: int) -> Words:
    """Of so many dimensions: a lone number is the same for all elements."""
    return None if words is None else words.reshape((1,) * (ndim - words.ndim) + words.shape)


def full(words: Words, shape: Shape) -> Present:
    """The word of every element."""
    return np.broadcast_to(np.int64(0) if words is None else words, shape)


def everything(eqn: JaxprEqn, ins: list[Words], _: Sequence[Constant] = ()) -> list[Words]:
    """Every element of every output carries all marks: what is unknown may do anything."""
    word = union(*map(all_of, ins))
    return [fitted(word, len(shape_of(out))) for out in eqn.outvars]


def cut(words: Present, parts: Sequence[slice]) -> Present:
    """A part of an array, of which axes that hold one word for all elements stay as they are."""
    own = tuple(slice(None) if size == 1 else part for size, part in zip(words.shape, parts, strict=True))
    return words[own]


def values_of(constants: Sequence[Constant]) -> list[NDArray[Any]] | None:
    """All these values; None where one is not known."""
    known = [constant() for constant in constants if constant is not None]
    return known if len(known) == len(constants) else None
