"""What a fit returns, and what can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ppl_gen.backends.seeds import as_seed
from ppl_gen.data import fingerprint
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Plan
from ppl_gen.estimators.likelihood import refuse_likelihood
from ppl_gen.evaluate.log_prob import LogProb
from ppl_gen.guides import MeanField
from ppl_gen.infer.specs import describe, describe_plan
from ppl_gen.program import Batch
from ppl_gen.training import checkpoint
from ppl_gen.training.batches import Table, as_arguments, is_array, to_host
from ppl_gen.training.model import Queries, model_of
from ppl_gen.training.prepare import Prepared

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
        self._parts = model_of(model)
        self.losses, self.config = losses, config
        self.validation_losses: list[tuple[int, float]] = []
        self._best: Arrays | None = None  # the state that was best on validation data, so far
        self._last: Arrays | None = None  # the state after the last step, where the trainer holds another
        self._other: Batch | None = None  # where the source's rows are made up: other ones
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
        source = Table(self._parts.encoded(data), None, 0, self._convert)
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
        return self._prepared.backend.draw(self._prepared, self._trainer.final(), batch, num, as_seed(seed), **options)

    def posterior(self, data: Any, num_samples: int = 1, seed: Any = 0) -> Arrays:
        """Draws from the trained guide: latent site -> (num_samples, *shape); what is summed out has none."""
        runs = list(self._draw(self._batch(data), num_samples, seed))
        return {name: np.stack([run["values"][name] for run in runs]) for name in self.plan}

    def predict(self, data: Any, num_samples: int = 1, seed: Any = 0) -> Arrays:
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

    def sample(self, n: int, given: Any = None, seed: Any = 0) -> Any:
        """Draws from the trained model.

        A model of named variables gives rows (in the form of its data); another program gives a dict, site ->
        (n, *shape), drawn from the prior.

        Raises:
            ValueError: evidence for a program that has no queries.
        """
        if self._parts.queries is not None:
            drawn = self.query(given=given).sample(n, seed=as_seed(seed))
            return (
                drawn[:, 0]
                if isinstance(drawn, np.ndarray) and (given is None or isinstance(given, Mapping))
                else drawn
            )
        if given is not None:
            raise ValueError(
                "sample: expected no evidence, as this program answers no queries. Condition the program itself."
            )
        source = self._source if isinstance(self._source, Table) else as_table(self._source.first())
        found = self._sampled(source, n, seed)
        if self._other is not None:
            self._check_made_up(found, n, seed)
        return found

    def _sampled(self, source: Table, n: int, seed: int) -> Arrays:
        """Site -> (n, *shape): where all lies in the plate of the data n rows of them, else n runs on the first batch."""
        if self._by_rows and source.num_rows:
            batch = source.build(source.arrays, np.arange(n) % source.num_rows)
            run = next(iter(self._draw(Batch(batch.args, batch.kwargs), 1, seed, guide=False, predictive=True)))
            return run["records"]  # type: ignore[no-any-return]
        runs = list(self._draw(source.first(), n, seed, guide=False, predictive=True))
        return {name: np.stack([run["records"][name] for run in runs]) for name in runs[0]["records"]}

    def _check_made_up(self, found: Arrays, n: int, seed: int) -> None:
        """Raise where draws hang on rows that are made up."""
        assert self._other is not None
        try:
            again = self._sampled(as_table(self._other), n, seed)
        except Exception:  # rows that cannot be drawn from are not the same
            again = {}
        for name, value in found.items():
            if name not in again or not np.array_equal(value, again[name], equal_nan=value.dtype.kind == "f"):
                raise ValueError(
                    f"sample: expected rows of the data, as site '{name}' hangs on what the program is given; got a fit whose file "
                    "keeps none. Pass data= to load, or save with rows=."
                )

    def log_prob(self, data: Any, num_samples: int = 100, orders: int = 16, seed: Any = 0) -> LogProb:
        """Log-likelihood in nats, one value per row where all latents lie in the plate of the data and stay there, else one.

        Without latents it is exact. With latents it is the importance-weighted estimate of `num_samples` draws from
        the guide, whose mean is a lower bound (eq. 20.79). An order-agnostic model gives the exact log-likelihood of
        the ensemble over `orders` orders (eq. 20.84).

        Args:
            data: in the form that was trained on.
            num_samples: draws from the guide.
            orders: orders of the ensemble.
            seed: of draws and orders.

        Returns:
            The `LogProb`, with the fingerprint of these data as the program is given them, after all preprocessing: one of
            other data is not compared with it.

        Raises:
            ProgramError: no likelihood follows, exact or as a bound: there is a factor, a scale, an unnormalized guide, a
                point mass at the data or of the guide's, a latent that the guide alone has or that is masked in one of the two
                only, or a plate that draws a subsample. The message names the site.
        """
        if self._parts.queries is not None:
            from ppl_gen.query.query import ensemble_log_prob

            encoded, queries = self._parts.encoded(data), self._parts.queries
            values, _ = ensemble_log_prob(self._network(queries), encoded, orders, as_seed(seed), queries.schema.tiers)
            return LogProb(values, 0.0, "exact", _fingerprint(as_table(Batch(*as_arguments(encoded))).first()))
        for plate in set(self.plan.facts.subsampled) - set(self._prepared.program.row_plates or ()):
            raise ProgramError(
                f"plate '{plate}': expected all its elements, for a likelihood of the data; got a plate that draws some. Leave "
                "subsample_size to training: batch_size= there does the same."
            )
        batch = self._batch(data)
        facts = self._prepared.backend.relabelled(self._prepared, self._trainer.final(), batch)
        why = refuse_likelihood(facts)
        if why is not None:
            raise ProgramError(
                f"{why.where}: expected a normalized density, for a likelihood of the data; got one that is {why.got}. {why.instead}"
            )
        rows = self._row_dims()
        if not len(self.plan):
            run = next(iter(self._draw(batch, 1, seed)))
            value = _by_row(run["terms"], rows)
            return LogProb(value, np.zeros_like(value), "exact", _fingerprint(batch))
        log_weights = np.stack([_by_row(run["terms"], rows) for run in self._draw(batch, num_samples, seed)])
        top = log_weights.max(0)
        weights = np.exp(log_weights - top)
        mean = weights.mean(0)
        error = weights.std(0, ddof=1) / mean / np.sqrt(num_samples) if num_samples > 1 else np.full_like(mean, np.nan)
        return LogProb(top + np.log(mean), error, "lower_bound", _fingerprint(batch))

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

    def _network(self, queries: Queries) -> Callable[..., np.ndarray]:
        call = self._prepared.backend.host_function(self._prepared, self._trainer.final(), queries.conditionals)
        return call  # type: ignore[no-any-return]

    def query(self, of: Sequence[Any] | None = None, given: Any = None, orders: int = 16, seed: Any = 0) -> Any:
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
        queries = self._parts.queries
        if queries is None:
            raise TypeError(
                f"query: expected a model of named variables; got {type(self._model).__name__}. "
                "Train an OrderAgnosticNADE for queries."
            )
        from ppl_gen.query.query import condition

        return condition(self._network(queries), queries.schema, of, given, orders, as_seed(seed))

    # -- report --------------------------------------------------------------------------------------------------

    def save(self, path: Any, rows: int = 0) -> None:
        """Write parameters, training state, losses, and what is needed to read the program again, to one file.

        Atomic; no code is stored. Objective, particles and estimators are stored as names and options; of a class of your
        own only the name, so that `load` asks for it.

        Args:
            path: the file; one that is there is replaced.
            rows: how many rows of the data to keep. None are kept by default, only shapes and types, and `load` makes up
                rows in their place. Keep a few, or pass them to `load`, where the program cannot be read on made-up rows,
                or where `sample` is to draw given inputs from the data.

        Raises:
            ValueError: there are no such rows.
            TypeError: an argument of the program is neither an array nor plain data.
        """
        state = self._trainer.state() if self._last is None else self._last
        best = {f"{checkpoint.BEST}{name}": value for name, value in (self._best or {}).items()}
        history = {
            "losses": np.array(self.losses, dtype=np.float64),
            "validation": np.reshape(self.validation_losses, (-1, 2)),
        }
        first = self._first_rows(rows)
        template = {"args": list(first.args), "kwargs": dict(first.kwargs)}
        checkpoint.write(path, state | best | history, self.meta(), template, keep=rows > 0)

    def _first_rows(self, rows: int) -> Batch:
        """The batch that a file is to tell of: the first, or its leading rows."""
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
            raise ValueError(f"rows: expected a whole number, 0 or more; got {rows!r}.")
        if rows and self._other is not None:
            raise ValueError(
                f"rows: expected 0, as the file that this fit was loaded from keeps no rows; got {rows}. Pass data= to load."
            )
        known = self._source.first_rows
        batch: Batch = self._source.first(min(rows, known)) if rows and known else self._source.first()
        return batch

    def meta(self) -> dict[str, Any]:
        """What is stored beside the arrays."""
        plates = self._prepared.program.row_plates
        return {
            "backend": self.backend,
            "seed": self.seed,
            "row_plates": None if plates is None else sorted(plates),
            "signature": signature(self._prepared),
            "objective": describe(self._trainer.objective),
            "plan": describe_plan(self.plan),
            **self.config,
        }

    def summary(self) -> str:
        """A short text: where, how long, how well, with which estimators."""
        lines = [
            f"{type(self).__name__} on {self.backend} ({self.device}), seed {self.seed}, {len(self.losses)} steps",
            f"steps: {self._trainer.how}",
            f"parameters: {sum(p.size for p in self.params.values()):,} in {len(self.params)} arrays",
        ]
        rows, held_out = self._loss_rows, self.config.get("validation_rows")
        if len(self.losses):
            tail = self.losses[-max(1, len(self.losses) // 10) :].mean()
            per_row = f", {tail / rows:.3f} per row" if rows else ""
            lines.append(f"loss: {self.losses[0]:.3f} at first, {tail:.3f} nats over the last tenth{per_row}")
        if self.validation_losses:
            step, best = min(self.validation_losses, key=lambda pair: pair[1])
            per_row = f", {best / held_out:.3f} per row" if held_out else ""
            lines.append(f"validation: best {best:.3f} nats, at step {step}{per_row}")
        return "\n".join([*lines, str(self.plan)])

    def __repr__(self) -> str:
        return self.summary()

    @property
    def _loss_rows(self) -> int | None:
        """Rows that a step's loss stands for: the data's, or a batch's where the data are not counted."""
        rows: int | None = self.config.get("loss_rows", self.config.get("num_rows"))
        return rows

    def plot(self) -> Any:
        """The losses over steps as a matplotlib figure; beside validation losses both are per row, where rows are known."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        rows, held_out = self._loss_rows, self.config.get("validation_rows")
        per_row = bool(self.validation_losses and rows and held_out)
        losses = np.asarray(self.losses) / (rows or 1) if per_row else np.asarray(self.losses)
        axes.plot(np.arange(1, len(losses) + 1), losses, lw=0.6, alpha=0.4, label="each step")
        width = max(1, len(losses) // 50)
        if len(losses) >= width > 1:
            smooth = np.convolve(losses, np.ones(width) / width, "valid")
            axes.plot(np.arange(width, len(losses) + 1), smooth, lw=1.6, label=f"mean of {width}")
        if self.validation_losses:
            steps, values = np.array(self.validation_losses).T
            axes.plot(steps, values / (held_out or 1) if per_row else values, ".-", lw=1.2, label="validation")
        axes.set(xlabel="step", ylabel="loss, nats per row" if per_row else "loss, nats")
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


def _fingerprint(batch: Batch) -> str:
    """Of all arrays, as the program was given them: one number type for each kind, whatever the library."""
    given = [*batch.args, *(value for _, value in sorted(batch.kwargs.items()))]
    arrays = [to_host(value) for value in given if is_array(value)]
    types = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.int64}
    return fingerprint(*(a.astype(types[a.dtype.kind], copy=False) for a in arrays if a.dtype.kind in types))


def as_table(batch: Batch) -> Table:
    """A batch's arrays as data."""
    return Table(dict(batch.kwargs) or tuple(batch.args), None, 0, lambda value: value)


def signature(prepared: Prepared) -> str:
    """What a checkpoint must share with a run to be continued by it; particles and objective may be others."""
    shapes = {n: [int(d) for d in np.shape(v)] for n, v in sorted(prepared.program.params.items())}
    rows = {name: repr(row.estimator) for name, row in prepared.plan.rows.items()}
    return json.dumps([prepared.backend.name, shapes, rows])


__all__ = ["Fit", "as_table", "signature"]
