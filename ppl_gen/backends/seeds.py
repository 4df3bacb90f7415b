"""Seeds: whole numbers, or keys of JAX's."""

from __future__ import annotations

import numbers
from typing import SupportsInt, cast

import numpy as np

from ppl_gen import backends
from ppl_gen.backends.interface import Seed

MOST = 2**32  # the host's own random state takes no more


def as_seed(seed: Seed) -> int:
    """A whole number for a seed.

    Args:
        seed: a whole number, or a key: ``jax.random.key(n)`` and ``jax.random.PRNGKey(n)`` mean n, and a key that was
            split off means a number made from it.

    Raises:
        TypeError: it is none of these.
        ValueError: the number is negative or too large.
    """
    if isinstance(seed, numbers.Integral) and not isinstance(seed, bool):
        return _checked(int(seed))
    kind, shape = str(getattr(seed, "dtype", "")), tuple(getattr(seed, "shape", (0,)))
    if kind.startswith("key<") and shape == ():
        return _of_words(backends.get("jax").to_numpy(seed))
    if kind == "uint32" and shape in ((2,), (4,)):
        return _of_words(np.asarray(seed))
    if shape == () and kind.removeprefix("torch.").startswith(("int", "uint")):
        return _checked(int(cast(SupportsInt, seed)))
    raise TypeError(f"seed: expected a whole number or one JAX key; got {seed!r}. Pass a number such as 0.")


def _checked(seed: int) -> int:
    if not 0 <= seed < MOST:
        raise ValueError(f"seed: expected a whole number from 0 to 2**32 - 1; got {seed}. Pass a number such as 0.")
    return seed


def _of_words(words: np.ndarray) -> int:
    """The number that a key was made from, where it holds one; else one that stands for its words."""
    *high, low = (int(word) for word in words)
    return low if not any(high) else int(np.random.SeedSequence([*high, low]).generate_state(1)[0])
