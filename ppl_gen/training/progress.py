"""The bar on the terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ppl_gen.estimators import Plan


class Progress:
    """A bar with loss, time left and the estimators in use; silent where nobody watches.

    Args:
        steps: how many there will be.
        start: how many are done.
        plan: names the estimators.
        rows: that a step's loss stands for, to show it per row; None shows the whole.
        show: whether the user wants a bar.
    """

    def __init__(self, steps: int, start: int, plan: Plan, rows: int | None, show: bool) -> None:
        names = Counter(type(row.estimator).__name__ for row in plan.rows.values())
        label = " + ".join(f"{count} {name}" for name, count in names.items()) or plan.cost_is
        self.rows = rows
        self._bar: Any = tqdm(total=steps, initial=start, desc=label, disable=not show or not _watched(), leave=True)

    def update(
        self, losses: Sequence[float] | np.ndarray, validation: float | None = None, held_out: int | None = None
    ) -> None:
        """The losses of the steps since the last update (and the validation loss, on `held_out` rows), nats."""
        if self._bar.disable or not len(losses):
            return
        shown = {"nats/row" if self.rows else "nats": f"{float(np.mean(losses)) / (self.rows or 1):.3f}"}
        if validation is not None:
            shown["validation" if held_out or not self.rows else "validation, nats"] = (
                f"{validation / (held_out or 1):.3f}"
            )
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(len(losses))

    def close(self) -> None:
        """Leave the terminal as it is."""
        self._bar.close()


def _watched() -> bool:
    """Whether stderr is a terminal; a program without a console has none."""
    return sys.stderr is not None and sys.stderr.isatty()
