"""Data to read a saved program on: made up in the shapes of the data it was trained on, of which a file keeps none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.interface import Data
from ppl_gen.program import Batch
from ppl_gen.training.batches import is_array
from ppl_gen.training.checkpoint import Missing

Template = Mapping[str, Any]  # {"args": [...], "kwargs": {...}}
Fill = Callable[[Missing, np.random.Generator], np.ndarray]


def _between(missing: Missing, rng: np.random.Generator) -> np.ndarray:
    """Numbers between zero and one, which most supports hold; zeros where they are whole."""
    real = np.dtype(missing.dtype).kind == "f"
    return rng.uniform(0.1, 0.9, missing.shape) if real else np.zeros(missing.shape)


FILLS: tuple[Fill, ...] = (
    _between,
    lambda missing, rng: np.zeros(missing.shape),
    lambda missing, rng: np.ones(missing.shape),
)


def is_whole(template: Template) -> bool:
    """Whether a file kept rows, or there never were any."""
    return not any(isinstance(v, Missing) for v in (*template["args"], *template["kwargs"].values()))


def data_of(template: Template, fill: Fill = _between, seed: int = 0) -> Data:
    """The data of a template, with arrays made up where there are none."""
    rng = np.random.default_rng(seed)

    def value(entry: object) -> object:
        return fill(entry, rng).astype(entry.dtype) if isinstance(entry, Missing) else entry

    args = tuple(value(entry) for entry in template["args"])
    return {key: value(entry) for key, entry in template["kwargs"].items()} or args


def candidates(template: Template, redraw: Callable[[Data], Data]) -> Iterator[Data]:
    """Data to try, the likeliest first, their observed sites drawn from the model where it can run at all."""
    for fill in FILLS:
        made = data_of(template, fill)
        try:
            drawn = redraw(made)
        except Exception:  # the reading that follows says what is wrong, in full
            drawn = None
        if drawn is not None:
            yield drawn
        yield made


def others(batch: Batch) -> Batch:
    """The batch with other values throughout, to see what hangs on them."""

    def other(value: object) -> object:
        return value if not is_array(value) else ~value if "bool" in str(value.dtype) else 1 - value

    return Batch(tuple(map(other, batch.args)), {k: other(v) for k, v in batch.kwargs.items()}, batch.scale, batch.rows)
