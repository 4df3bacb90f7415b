"""Steps of `infer.fit`: the time between two of its reports."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from workloads import LEARNING_RATE, PIXELS, Workload

from ppl_gen import estimators, infer, models


class Contender:
    """A run of `run_length` steps that is stopped after those which are timed; see `step_time.Contender`.

    Attributes:
        how: how its steps were taken, in the words of the fit.
    """

    def __init__(
        self,
        workload: Workload,
        x: Any,
        seed: int,
        backend: str,
        run_length: int,
        compile: Any = "auto",
        baselines: bool = True,
        device: str = "cpu",
    ) -> None:
        built = {"vae": models.VAE(PIXELS, 20, (400,)), "belief_net": models.SigmoidBeliefNet(PIXELS, (200, 200))}
        self._model, self._x, self._batch = built[workload.name], x, workload.batch
        self.how = ""
        self._options = {"backend": backend, "seed": seed, "steps": run_length, "compile": compile, "device": device}
        if not baselines:
            self._options["estimators"] = {"*": estimators.Score(baseline=estimators.Constant(0.0))}

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """(seconds before the first timed step, seconds per step, loss per row in nats)."""
        marks = {0: perf_counter()}

        def watch(running: infer.Running) -> None:
            marks[running.step] = perf_counter()
            running.stop = running.step >= warm + steps

        fit = infer.fit(
            self._model,
            data=self._x,
            batch_size=self._batch,
            learning_rate=LEARNING_RATE,
            callbacks=[watch],
            progress=False,
            **self._options,
        )
        self.how = next((line for line in fit.summary().splitlines() if line.startswith("steps:")), "")
        loss = fit.losses[warm:].mean() / len(self._x)
        return marks[warm] - marks[0], (marks[warm + steps] - marks[warm]) / steps, float(loss)
