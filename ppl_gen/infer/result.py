"""What a fit returns, and what can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Plan
from ppl_gen.evaluate.log_prob import LogProb
from ppl_gen.guides import MeanField
from ppl_gen.infer import checkpoint
from ppl_gen.infer.batches import Stream, Table
from ppl_gen.infer.prepare import Prepared
from ppl_gen.program import Batch

Arrays = dict[str, np.ndarray]


class Fit:
    """Parameters, losses, plan, and the trained program.

    Attributes:
        losses: one per step, nats, scaled to the whole data.
        validation_losses: (step, loss) pairs, nats.
        plan: the estimators and reasons.
        backend: "torch" or "jax".
        device: where it ran.
        seed: of everything random.
    """

    def __init__(
        self, prepared: Prepared, trainer: Any, model: Any, source: Any, losses: np.ndarray, config: dict[str, Any]
    ) -> None:
        self._prepared, self._trainer, self._model, self._source = prepared, trainer, model, source
        self.losses, self.config = losses, config
        self.validation_losses: list[tuple[int, float]] = []
        self.plan: Plan = prepared.plan
        self.backend: str = prepared.backend.name
        self.device: str = prepared.program.device
        self.seed: int = prepared.program.seed

    # -- parameters ----------------------------------------------------------------------------------------------

    @property
    def params(self) -> Arrays:
        """Every parameter in its own (constrained) space; a network's leaves have dotted names."""
        with self._prepared.session():
            values: Arrays = self._prepared.program.constrain(self._trainer.current_params())
        return values

    def module(self, name: str) -> Any:
        """A trained copy of a registered network (torch), or its trained parameter tree (JAX).

        Raises:
            KeyError: no network of this name.
        """
        with self._prepared.session():
            return self._prepared.program.module(name, self._trainer.current_params())

    # -- what the trained program can do -------------------------------------------------------------------------

    def _batch(self, data: Any) -> Batch:
        """Data in the form that was trained on, whole; a guide with parameters for each row is asked for those rows."""
        prepare = getattr(self._model, "prepare", None)
        source = Table(prepare(data) if prepare else data, None, 0, self._convert)
        batch = source.build(source.arrays, None)
        guide = self._prepared.program.guide
        if not knows_rows(guide):
            return batch
        if source.num_rows != guide.num_rows:
            raise ValueError(
                f"data: expected the {guide.num_rows} rows that were trained on, as the automatic guide has parameters for each; "
                f"got {source.num_rows} rows. Write a guide that proposes from the data."
            )
        return Batch(batch.args, batch.kwargs, 1.0, np.arange(guide.num_rows))

    def _convert(self, value: Any) -> Any:
        return self._prepared.backend.array(value, self.device)

    def _draw(self, batch: Batch, num: int, seed: int, **options: Any) -> Any:
        return self._prepared.backend.draw(self._prepared, self._trainer.final(), batch, num, seed, **options)

    def posterior(self, data: Any, num_samples: int = 1, seed: int = 0) -> Arrays:
        """Draws from the trained guide: latent site -> (num_samples, *shape); what is summed out has none."""
        runs = list(self._draw(self._batch(data), num_samples, seed))
        return {name: np.stack([run["values"][name] for run in runs]) for name in self.plan}

    def predict(self, data: Any, num_samples: int = 1, seed: int = 0) -> Arrays:
        """Posterior predictive: observed and deterministic sites of the model -> (num_samples, *shape).

        Latents that are summed out are drawn from their prior on the way, and not given: of them, and of what hangs on
        them, the data say nothing here.
        """
        hidden = {
            *self.plan,
            *(site.name for site in (self.plan.facts.summed[0].sites if self.plan.facts.summed else ())),
        }
        runs = list(self._draw(self._batch(data), num_samples, seed, predictive=True))
        return {n: np.stack([run["records"][n] for run in runs]) for n in runs[0]["records"] if n not in hidden}

    def sample(self, n: int, given: Any = None, seed: int = 0) -> Any:
        """Draws from the trained model.

        A model of named variables gives rows (in the form of its data); another program gives a dict, site ->
        (n, *shape), drawn from the prior.

        Raises:
            ValueError: evidence for a program that has no queries.
        """
        if self._answers_queries:
            drawn = self.query(given=given).sample(n, seed=seed)
            return (
                drawn[:, 0]
                if isinstance(drawn, np.ndarray) and (given is None or isinstance(given, Mapping))
                else drawn
            )
        if given is not None:
            raise ValueError(
                "sample: expected no evidence, as this program answers no queries. Condition the program itself."
            )
        if self._by_rows and isinstance(self._source, Table) and self._source.num_rows:
            rows = np.arange(n) % self._source.num_rows
            batch = self._source.build(self._source.arrays, rows)
            run = next(iter(self._draw(Batch(batch.args, batch.kwargs), 1, seed, guide=False, predictive=True)))
            return run["records"]
        runs = list(self._draw(self._source.first(), n, seed, guide=False, predictive=True))
        return {name: np.stack([run["records"][name] for run in runs]) for name in runs[0]["records"]}

    def log_prob(self, data: Any, num_samples: int = 100, orders: int = 16, seed: int = 0) -> LogProb:
        """Log-likelihood in nats, one value per row where all latents lie in the plate of the data and stay there, else one.

        Without latents it is exact. With latents it is the importance-weighted estimate of `num_samples` draws from
        the guide, whose mean is a lower bound (eq. 20.79). An order-agnostic model gives the exact log-likelihood of
        the ensemble over `orders` orders (eq. 20.84).

        Args:
            data: in the form that was trained on.
            num_samples: draws from the guide.
            orders: orders of the ensemble.
            seed: of draws and orders.

        Raises:
            ProgramError: the guide holds a latent at one learned point, or a plate draws a subsample: no likelihood follows.
        """
        if self._answers_queries:
            from ppl_gen.infer.query import ensemble_log_prob

            values, _ = ensemble_log_prob(self._network(), self._model.prepare(data), orders, seed)
            return LogProb(values, np.zeros_like(values), "exact")
        for plate in set(self.plan.facts.subsampled) - set(self._prepared.program.row_plates or ()):
            raise ProgramError(
                f"plate '{plate}': expected all its elements, for a likelihood of the data; got a plate that draws some. Leave "
                "subsample_size to training: batch_size= there does the same."
            )
        latents = list(self.plan.facts.latents())
        # a point that is made from a latent which the model lacks spreads with it: so do Pyro's AutoGaussian and AutoStructured
        spread = {s.name for s in latents if not s.is_point and ("model", s.name) not in self.plan.facts.sites}
        for site in latents:
            if site.is_point and site.learns and not spread & site.reach.keys():
                raise ProgramError(
                    f"site '{site.name}' (Delta): expected a guide that spreads over the latent's values; got a point, whose "
                    "density says nothing of the others. Use a guide such as AutoNormal."
                )
        batch = self._batch(data)
        rows = self._row_dims()
        if not len(self.plan):
            run = next(iter(self._draw(batch, 1, seed)))
            value = _by_row(run["terms"], rows)
            return LogProb(value, np.zeros_like(value), "exact")
        log_weights = np.stack([_by_row(run["terms"], rows) for run in self._draw(batch, num_samples, seed)])
        top = log_weights.max(0)
        weights = np.exp(log_weights - top)
        mean = weights.mean(0)
        error = weights.std(0, ddof=1) / mean / np.sqrt(num_samples) if num_samples > 1 else np.full_like(mean, np.nan)
        return LogProb(top + np.log(mean), error, "lower_bound")

    @property
    def _by_rows(self) -> bool:
        return bool(self._prepared.program.row_plates) and self._row_dims() is not None

    def _row_dims(self) -> dict[tuple[str, str], int] | None:
        """The dimension of each term along the data rows; None where a term or latent lies outside, or rows mix."""
        plates = self._prepared.program.row_plates or ()
        if any(plate in plates for _, _, plate in self.plan.facts.mixes):
            return None
        dims = {}
        for term, site in self.plan.facts.sites.items():
            inside = [dim for plate, dim in site.plates.items() if plate in plates]
            if not inside:
                return None
            dims[term] = inside[0]
        return dims

    # -- queries -------------------------------------------------------------------------------------------------

    @property
    def _answers_queries(self) -> bool:
        return hasattr(self._model, "log_conditionals")

    def _network(self) -> Callable[..., np.ndarray]:
        call = self._prepared.backend.host_function(self._prepared, self._trainer.final(), self._model.log_conditionals)
        return call  # type: ignore[no-any-return]

    def query(self, of: Sequence[Any] | None = None, given: Any = None, orders: int = 16, seed: int = 0) -> Any:
        """p(of | given): any variables given any others.

        Args:
            of: names of the variables asked for; None asks for all that are not given.
            given: a dict (one row), or rows with NaN where nothing is given; each row may give others.
            orders: size of the ensemble over orders.
            seed: of the orders.

        Returns:
            A `Conditional`.

        Raises:
            ValueError: an unknown variable or level, evidence on a queried variable, nothing asked.
            TypeError: the model answers no queries.
        """
        if not self._answers_queries:
            raise TypeError(
                f"query: expected a model of named variables; got {type(self._model).__name__}. "
                "Train an OrderAgnosticNADE for queries."
            )
        from ppl_gen.infer.query import condition

        return condition(self._network(), self._model.schema, of, given, orders, seed)

    # -- report --------------------------------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write parameters, training state, losses and a few rows (all, if trained without batches) to one file.

        Atomic; no code is stored.
        """
        self.write(path, self._trainer.state())

    def write(self, path: Any, state: Arrays) -> None:
        """Write this training state with the losses so far."""
        history = {
            "losses": np.array(self.losses, dtype=np.float64),
            "validation": np.reshape(self.validation_losses, (-1, 2)),
        }
        checkpoint.write(path, state | history, self.meta(), template(self._source))

    def meta(self) -> dict[str, Any]:
        """What is stored beside the arrays."""
        plates = self._prepared.program.row_plates
        return {
            "backend": self.backend,
            "seed": self.seed,
            "row_plates": None if plates is None else sorted(plates),
            "signature": signature(self._prepared),
            **self.config,
        }

    def summary(self) -> str:
        """A short text: where, how long, how well, with which estimators."""
        lines = [
            f"{type(self).__name__} on {self.backend} ({self.device}), seed {self.seed}, {len(self.losses)} steps",
            f"steps: {self._trainer.how}",
            f"parameters: {sum(p.size for p in self.params.values()):,} in {len(self.params)} arrays",
        ]
        if len(self.losses):
            tail = self.losses[-max(1, len(self.losses) // 10) :]
            rows = self.config.get("num_rows")
            per_row = f", {tail.mean() / rows:.3f} per row" if rows else ""
            lines.append(f"loss: {self.losses[0]:.3f} at first, {tail.mean():.3f} nats over the last tenth{per_row}")
        if self.validation_losses:
            step, best = min(self.validation_losses, key=lambda pair: pair[1])
            lines.append(f"validation: best {best:.3f} nats, at step {step}")
        return "\n".join([*lines, str(self.plan)])

    def __repr__(self) -> str:
        return self.summary()

    def plot(self) -> Any:
        """The losses over steps as a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(np.arange(1, len(self.losses) + 1), self.losses, lw=0.6, alpha=0.4, label="each step")
        width = max(1, len(self.losses) // 50)
        if len(self.losses) >= width > 1:
            smooth = np.convolve(self.losses, np.ones(width) / width, "valid")
            axes.plot(np.arange(width, len(self.losses) + 1), smooth, lw=1.6, label=f"mean of {width}")
        if self.validation_losses:
            axes.plot(*np.array(self.validation_losses).T, ".-", lw=1.2, label="validation")
        axes.set(xlabel="step", ylabel="loss, nats")
        axes.legend(frameon=False)
        return figure


def _by_row(terms: Mapping[tuple[str, str], np.ndarray], rows: dict[tuple[str, str], int] | None) -> np.ndarray:
    """Sum of all terms, one value per data row where there are rows."""
    total: Any = 0.0
    for term, value in terms.items():
        value = np.asarray(value, dtype=np.float64)
        axes = tuple(d for d in range(-value.ndim, 0) if rows is None or d != rows[term])
        total = total + value.sum(axis=axes)
    return np.asarray(total)


def knows_rows(guide: Any) -> bool:
    """Whether a guide has parameters for each row of the data it was made for."""
    return isinstance(guide, MeanField) and any(guide.row_plates & set(latent.plates) for latent in guide.latents)


def template(source: Table | Stream) -> dict[str, Any]:
    """A little of the data, enough to read the program again."""
    whole = source.first(min(2, source.num_rows or 2)) if source.batch_size else source.first()
    return {"args": list(whole.args), "kwargs": dict(whole.kwargs)}


def signature(prepared: Prepared) -> str:
    """What a checkpoint must share with a run to be continued by it; particles and objective may be others."""
    shapes = {n: [int(d) for d in np.shape(v)] for n, v in sorted(prepared.program.params.items())}
    rows = {name: repr(row.estimator) for name, row in prepared.plan.rows.items()}
    return json.dumps([prepared.backend.name, shapes, rows])


__all__ = ["Fit", "signature", "template"]
