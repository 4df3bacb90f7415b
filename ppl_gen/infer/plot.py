"""The losses of a fit as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def plot_losses(
    losses: np.ndarray, validation: Sequence[tuple[int, float]], rows: int | None, held_out: int | None
) -> Any:
    """The losses over steps as a matplotlib figure; beside validation losses both are per row, where rows are known.

    Args:
        losses: one per step, nats.
        validation: (step, loss), nats.
        rows: that a step's loss stands for.
        held_out: rows that a validation loss stands for.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    per_row = bool(validation and rows and held_out)
    losses = np.asarray(losses) / (rows or 1) if per_row else np.asarray(losses)
    axes.plot(np.arange(1, len(losses) + 1), losses, lw=0.6, alpha=0.4, label="each step")
    width = max(1, len(losses) // 50)
    if len(losses) >= width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        axes.plot(np.arange(width, len(losses) + 1), smooth, lw=1.6, label=f"mean of {width}")
    if validation:
        steps, values = np.array(validation).T
        axes.plot(steps, values / (held_out or 1) if per_row else values, ".-", lw=1.2, label="validation")
    axes.set(xlabel="step", ylabel="loss, nats per row" if per_row else "loss, nats")
    axes.legend(frameon=False)
    return figure
