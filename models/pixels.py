"""What the models of binary pixels share: checked sizes, checked rows, and a start at the pixels' means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_gen.language import xp
from ppl_gen.program.arrays import Array

_LEAST = 1e-3  # the nearest to zero or one that a starting probability may be


def whole(where: str, name: str, value: object) -> int:
    """A size, checked.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is below one.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{where}: expected {name} to be whole; got {value!r}. Use a number such as 64.")
    if value < 1:
        raise ValueError(f"{where}: expected {name} of one or more; got {value!r}. Raise it.")
    return int(value)


def widths(where: str, name: str, values: Sequence[int]) -> tuple[int, ...]:
    """The widths of layers, checked.

    Raises:
        TypeError: they are no sequence, or one is not a whole number.
        ValueError: one is below one.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{where}: expected {name} to be a sequence; got {values!r}. Use ({values},).")
    return tuple(whole(where, name, value) for value in values)


class Pixels:
    """Rows of binary pixels, and where a model of them starts.

    Args:
        where: the model's name, for errors.
        data_dim: pixels per row.
        data_mean: each pixel's mean in the training data, shape (data_dim,); None where unknown.

    Attributes:
        bias: log-odds of `data_mean`, kept within 0.001 .. 0.999; zero where it is unknown.

    Raises:
        ValueError: `data_mean` has another shape or leaves 0 .. 1.
    """

    def __init__(self, where: str, data_dim: int, data_mean: ArrayLike | None = None) -> None:
        self.where, self.data_dim, self.mean = where, whole(where, "data_dim", data_dim), None
        self.bias: NDArray[np.float32] | float = 0.0
        if data_mean is not None:
            self.mean = self._checked(np.asarray(data_mean, dtype=np.float32))
            start = np.clip(self.mean, _LEAST, 1 - _LEAST)
            self.bias = np.log(start) - np.log1p(-start)

    def _checked(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        if mean.shape != (self.data_dim,) or not ((mean >= 0) & (mean <= 1)).all():
            raise ValueError(
                f"{self.where}: expected data_mean of shape ({self.data_dim},) within 0 .. 1; got shape "
                f"{mean.shape}, values in {mean.min():g} .. {mean.max():g}. Use x.mean(axis=0) of the bits."
            )
        return mean

    def rows(self, x: Array) -> Array:
        """The data as floats.

        Raises:
            ValueError: x is not of shape (rows, data_dim).
        """
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) != 2 or shape[1] != self.data_dim:
            advice = "x.reshape(len(x), -1)" if len(shape) > 2 else f"data_dim={shape[-1] if shape else 1}"
            raise ValueError(
                f"{self.where}: expected data of shape (rows, {self.data_dim}); got {shape}. Use {advice}."
            )
        return xp.astype(x, xp.float32)

    def centred(self, x: Array) -> Array:
        """The data as floats minus `data_mean`: what an inference network sees."""
        rows = self.rows(x)
        return rows if self.mean is None else rows - xp.asarray(self.mean)
