"""From grey levels to bits: two ways that give different numbers and must never be mixed.

Log-likelihoods of thresholded, fixed and freshly drawn binarizations of the same images are not comparable;
applied to a `Dataset` these functions therefore change its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppl_gen.data.dataset import Dataset

Rows = TypeVar("Rows", NDArray[Any], Dataset)


def binarize(x: Rows, *, threshold: float) -> Rows:
    """Bits that say which levels lie above a threshold.

    For `digits`, with levels 0..16, the usual choice is ``threshold=7``; for MNIST, 0..255, ``127``.

    Args:
        x: an array of any shape, or a Dataset, of which every split is binarized.
        threshold: a level; a pixel at the threshold itself becomes 0.

    Returns:
        What came, as uint8 of 0 and 1.

    Raises:
        ValueError: x holds NaN.
    """

    def cut(levels: NDArray[Any]) -> NDArray[Any]:
        return (_levels(levels) > threshold).astype(np.uint8)

    return _apply(x, cut, f"level > {threshold:g}")


def binarize_stochastically(x: Rows, *, max_level: float, seed: int) -> Rows:
    """One Bernoulli draw per pixel, with probability level / max_level.

    Args:
        x: an array of any shape with levels in 0..max_level, or a Dataset.
        max_level: the level that is 1 for certain: 16 for `digits`, 255 for MNIST.
        seed: of the draws; the splits of a Dataset take consecutive draws of one stream.

    Returns:
        What came, as uint8 of 0 and 1.

    Raises:
        ValueError: a level lies outside 0..max_level or is NaN.
    """
    rng = np.random.default_rng(seed)

    def draw(levels: NDArray[Any]) -> NDArray[Any]:
        levels = _levels(levels, max_level)
        return (rng.random(levels.shape) * max_level < levels).astype(np.uint8)

    return _apply(x, draw, f"Bernoulli(level / {max_level:g}), seed {seed}")


def _levels(x: NDArray[Any], max_level: float | None = None) -> NDArray[Any]:
    levels = np.asarray(x)
    if levels.dtype.kind == "f" and np.isnan(levels).any():
        raise ValueError("data.binarize: expected levels; got NaN. Fill or drop missing pixels first.")
    if max_level is not None and levels.size and (levels.min() < 0 or levels.max() > max_level):
        raise ValueError(
            f"data.binarize_stochastically: expected levels in 0..{max_level:g}; got "
            f"{levels.min()}..{levels.max()}. Pass the largest possible level as max_level."
        )
    return levels


def _apply(x: Rows, to_bits: Callable[[NDArray[Any]], NDArray[Any]], what: str) -> Rows:
    if not isinstance(x, Dataset):
        return to_bits(x)
    done = what if x.preprocessing == "raw" else f"{x.preprocessing}, {what}"
    train, valid = to_bits(x.train), None if x.valid is None else to_bits(x.valid)
    return replace(x, train=train, valid=valid, test=to_bits(x.test), preprocessing=done)
