"""How far drawn gradients are from a reference, as a share of it, and how small a share could have been seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Relative(NamedTuple):
    """A parameter's gradient held against a reference, along it.

    Attributes:
        bias: relative, as estimated: that of an estimator that is multiplied by c is c - 1.
        error: its standard error, rounding included; infinite where the reference is lost in noise or rounding.
        z: the bias in standard errors.
    """

    bias: float
    error: float
    z: float


def relative(draws: np.ndarray, reference: np.ndarray, size: float) -> Relative:
    """The relative bias of the draws' mean.

    Where the reference is drawn too, one half of it gives the direction and the other is compared, so that its own noise
    is no bias.

    Args:
        draws: (number, *shape).
        reference: likewise; a single one is exact.
        size: of the loss, nats, by which rounding in single precision is judged.
    """
    ours, truth = (np.asarray(a, dtype=float).reshape(len(a), -1) for a in (draws, reference))
    if max(np.abs(ours).max(initial=0.0), np.abs(truth).max(initial=0.0)) <= 1e-7 * size:
        return Relative(0.0, 0.0, 0.0)  # nothing depends on it here, and all agree on that
    one, other = (truth[::2], truth[1::2]) if len(truth) > 1 else (truth, truth)
    direction = one.mean(0)
    length = float(np.sqrt(direction @ direction))
    (mean, error), (aim, noise) = (_mean(rows @ direction) for rows in (ours, other))
    both, gap = float(np.hypot(error, noise)), mean - aim
    z = abs(gap) / max(both, 1e-4 * length**2 + 1e-5 * size * length, 1e-300)
    scale = aim - 3 * noise  # of the squared reference, no larger than luck allows
    if scale <= (1e-6 * size) ** 2:
        return Relative(gap / max(length**2, 1e-300), np.inf, z)
    return Relative(gap / scale, max(both, 1e-6 * size * length) / scale, z)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """(mean, its standard error); of one value, zero."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)
