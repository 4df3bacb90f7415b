"""The losses of a fit in words and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def describe_losses(
    losses: np.ndarray, validation: Sequence[tuple[int, float]], rows: int | None, held_out: int | None
) -> list[str]:
    """Lines on how well a fit did; see `plot_losses`."""
    lines = []
    if len(losses):
        tail = losses[-max(1, len(losses) // 10) :].mean()
        per_row = f", {tail / rows:.3f} per row" if rows else ""
        lines.append(f"loss: {losses[0]:.3f} at first, {tail:.3f} nats over the last tenth{per_row}")
    if validation:
        step, best = min(validation, key=lambda pair: pair[1])
        per_row = f", {best / held_out:.3f} per row" if held_out else ""
        lines.append(f"validation: best {best:.3f} nats, at step {step}{per_row}")
    return lines


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
