"""A stretch of training that is thrown away: where along it estimators are measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppl_gen.backends.engine import Source
from ppl_gen.errors import NonFinite
from ppl_gen.objectives import Bound
from ppl_gen.training.prepare import Prepared
from ppl_gen.training.trainer import Trainer

LENGTH = 1000  # steps

Point = Mapping[str, np.ndarray]  # parameter -> unconstrained array


def trajectory(
    prepared: Prepared, source: Source, seed: int, objective: Bound, optimizer: object, learning_rate: float
) -> list[Point]:
    """The parameters at the start and after `LENGTH` steps under the present plan; the program is left as it was.

    A run that ends in a NaN has its start alone: the fit that follows says where.
    """
    with prepared.session(seed):
        trainer = Trainer(prepared, objective, optimizer, learning_rate, "auto", LENGTH, begins=True)
        before = trainer.state()
        try:
            trainer.steps(source, 0, LENGTH)
            after = trainer.state()
        except NonFinite:
            after = before
        trainer.load_values(before)
    points = [before] if after is before else [before, after]
    return [{n.removeprefix("params/"): v for n, v in one.items() if n.startswith("params/")} for one in points]
