"""The loop of `fit`: steps, reports, validation, early stopping, checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from ppl_gen.backends.interface import PathLike
from ppl_gen.backends.values import changed
from ppl_gen.backends.values import state as state_of
from ppl_gen.errors import Interrupted, NonFinite
from ppl_gen.estimators import Plan
from ppl_gen.training import checkpoint as files
from ppl_gen.training.batches import Stream, Table, length
from ppl_gen.training.interrupt import Halt, listening
from ppl_gen.training.progress import Progress
from ppl_gen.training.trainer import Trainer

REPORTS = 100  # callbacks and progress at most this often in a run
SAVES = 20  # checkpoints
ANOTHER = "Remove the file, or choose another path."
DRAWS = 4  # of the held-out loss, the same at every evaluation: a single one would choose by its luck


class Result(Protocol):
    """What the loop needs of a `Fit`, which callbacks are given whole."""

    losses: np.ndarray
    validation_losses: list[tuple[int, float]]
    config: dict[str, Any]
    plan: Plan
    _best: dict[str, np.ndarray] | None
    _last: dict[str, np.ndarray] | None

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Parameters in constrained space."""

    def save(self, path: PathLike) -> None:
        """Write it to a file."""

    def meta(self) -> dict[str, Any]:
        """What a file says of it."""


@dataclass
class Running:
    """What callbacks see.

    Attributes:
        step: steps taken.
        steps: steps in all.
        losses: so far, nats.
        validation_losses: (step, loss) so far, nats.
        fit: a usable result as of now.
        stop: set it to end the run after this report.
    """

    step: int
    steps: int
    losses: list[float]
    validation_losses: list[tuple[int, float]]
    fit: Result
    stop: bool = False


@dataclass
class HeldOut:
    """Validation data, gone through in chunks of `chunk` rows; None takes them at once.

    Attributes:
        rows: in all, as counted in a pass; None without arrays.
    """

    source: Table | Stream
    chunk: int | None
    rows: int | None = None

    def loss(self, trainer: Trainer) -> float:
        """The loss on all rows, nats: what belongs to rows is summed, what does not counts once."""
        total, rows = 0.0, 0
        for number, (share, batch) in enumerate(self.source.passes(self.chunk)):
            total += share * sum(trainer.loss(batch, number * DRAWS + draw) for draw in range(DRAWS)) / DRAWS
            rows += length(batch) or 0
        self.rows = rows or None
        return total


def loop(
    state: Running,
    trainer: Trainer,
    source: Table | Stream,
    held_out: HeldOut | None,
    patience: int | None,
    path: PathLike | None,
    callbacks: list[Callable[[Running], None]],
    show: bool,
) -> None:
    """Train to the end; whatever happens, `state.fit` is left usable.

    Raises:
        NonFinite: a NaN or an infinity appeared; `.fit` is the last good state.
        Interrupted: Ctrl-C, or a KeyboardInterrupt in the program or a callback; `.fit` is the state so far.
    """
    if path is not None:
        _continue_or_begin(path, state, trainer, judged=held_out is not None)
    state.stop = _enough(state, patience)
    bar = Progress(state.steps, state.step, state.fit.plan, state.fit.config["loss_rows"], show)
    try:
        with listening() as halt:
            _Course(state, trainer, source, held_out, patience, path, callbacks, bar, halt).run()
        if path is not None:
            save(path, state)
        _keep_best(state, trainer)
    except NonFinite as error:
        state.losses += [float(loss) for loss in error.losses]
        _sync(state)
        raise NonFinite(f"step {len(state.losses)}: {error}", fit=state.fit, losses=state.losses) from None
    except KeyboardInterrupt as error:
        _interrupted(state, trainer, path, error)
    finally:
        bar.close()


@dataclass
class _Course:
    """A run between its beginning and its end."""

    state: Running
    trainer: Trainer
    source: Table | Stream
    held_out: HeldOut | None
    patience: int | None
    path: PathLike | None
    callbacks: list[Callable[[Running], None]]
    bar: Progress
    halt: Halt

    def run(self) -> None:
        """Steps, and a report after every few of them."""
        state = self.state
        every, saves = max(1, state.steps // REPORTS), max(1, state.steps // SAVES)
        judge = max(every, -(-self.source.per_pass // 3)) if self.held_out is not None else state.steps + 1
        burnt = _BurntIn(self.trainer)
        while state.step < state.steps and not state.stop:
            losses = _advance(state, self.trainer, self.source, (every, saves, judge), self.halt)
            last = state.step == state.steps or not len(losses)
            self._judged(losses, last or state.step % judge == 0)
            if self.path is not None and (last or state.stop or state.step % saves == 0):
                save(self.path, state)
            if last or state.step % every == 0:
                with burnt.watching() if self.callbacks else nullcontext():
                    for callback in self.callbacks:
                        callback(state)
            if self.halt():
                raise KeyboardInterrupt

    def _judged(self, losses: np.ndarray, due: bool) -> None:
        """Take in the losses of some steps, with the held-out loss where that is due."""
        value = None
        if self.held_out is not None and not self.halt() and due:
            value = _validate(self.state, self.trainer, self.held_out)
        _sync(self.state)
        self.bar.update(losses, value, self.state.fit.config["validation_rows"])
        self.state.stop = _enough(self.state, self.patience) or not len(losses)


class _BurntIn:
    """Python values that the program read when its step was compiled; what callbacks make of them does not reach that step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.said = trainer, False

    def _now(self) -> dict[str, Any]:
        return state_of(self.trainer.program.model, self.trainer.program.guide)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Warn, once, of a value that is another one afterwards."""
        if self.said or not self.trainer.engine.jitted:
            yield
            return
        before = self._now()
        yield
        names = changed(before, self._now())
        if names:
            self.said = True
            warnings.warn(
                f"{', '.join(names)}: expected Python values that stay as they are during a fit on JAX; got another, which has no "
                "effect, as the compiled step still uses the old one. Pass it as data (a float argument, batch by batch), or fit "
                "with compile=False.",
                stacklevel=6,
            )


def _interrupted(state: Running, trainer: Trainer, path: PathLike | None, error: KeyboardInterrupt) -> NoReturn:
    """Keep what there is, in the checkpoint too, and go on raising."""
    done = [float(loss) for loss in getattr(error, "losses", ())]
    state.losses += done
    state.step += len(done)
    _sync(state)
    if path is not None:
        save(path, state)
    _keep_best(state, trainer)
    raise Interrupted(
        f"step {state.step} of {state.steps}: the run was interrupted; .fit of this error is what it had come to",
        state.fit,
    ) from None


def _keep_best(state: Running, trainer: Trainer) -> None:
    """Where validation has judged, the fit is the best state; the last one is still what a file is to hold."""
    if state.fit._best is not None:
        state.fit._last = trainer.state()
        trainer.load(state.fit._best)


def _advance(
    state: Running, trainer: Trainer, source: Table | Stream, marks: tuple[int, ...], halt: Halt
) -> np.ndarray:
    """Steps up to the next mark, or the end of the data; their losses."""
    until = min(state.steps, *((state.step // mark + 1) * mark for mark in marks))
    count = source.ready(state.step, until - state.step)
    if not count:
        warnings.warn(
            f"data: the batches ended after {state.step} of {state.steps} steps; the run ends there.", stacklevel=6
        )
        return np.zeros(0)
    losses = trainer.steps(source, state.step, count, halt)
    state.losses += [float(loss) for loss in losses]
    state.step += len(losses)
    return losses


def _sync(state: Running) -> None:
    state.fit.losses = np.array(state.losses)
    state.fit.validation_losses = list(state.validation_losses)


def _validate(state: Running, trainer: Trainer, held_out: HeldOut) -> float:
    """The held-out loss in nats; remember the state if it is the best so far."""
    if state.validation_losses and state.validation_losses[-1][0] == state.step:
        return state.validation_losses[-1][1]
    value = held_out.loss(trainer)
    if not np.isfinite(value):
        raise NonFinite(f"validation: expected a finite loss; got {value}. Check the validation data.")
    if not state.validation_losses or value < min(loss for _, loss in state.validation_losses):
        state.fit._best = trainer.state()
    state.validation_losses.append((state.step, value))
    state.fit.config["validation_rows"] = held_out.rows
    return value


def _enough(state: Running, patience: int | None) -> bool:
    """Whether the last `patience` evaluations brought nothing better."""
    values = [loss for _, loss in state.validation_losses]
    return patience is not None and bool(values) and len(values) - 1 - int(np.argmin(values)) >= patience


# -- checkpoints -----------------------------------------------------------------------------------------------------


def save(path: PathLike, state: Running) -> None:
    """Write all that a continued run needs, and no rows."""
    _sync(state)
    state.fit.save(path)


def _continue_or_begin(path: PathLike, state: Running, trainer: Trainer, judged: bool) -> None:
    """Take up a checkpoint that fits; write one where there is none, so that what cannot be written shows now.

    What was best on validation data counts only where that is still `judged`.
    """
    if not Path(path).exists():
        save(path, state)
        return
    arrays, meta, _ = files.read(path)
    _check_same_run(path, meta, state.fit.meta())
    if meta["version"] != files.VERSION:
        files.warn_old(path)
    last, best = files.parted(arrays)
    losses, validation = files.history(path, arrays)
    expected = {name: value for name, value in trainer.state().items() if not name.startswith("random/")}
    files.fitting(path, last, expected, ANOTHER)
    if best is not None:
        files.fitting(path, best, expected, ANOTHER, files.BEST)
    try:
        trainer.load(last)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from error
    state.losses = losses
    if judged:
        state.fit._best, state.validation_losses = best, validation
    state.step = len(state.losses)
    _sync(state)


def _check_same_run(path: PathLike, meta: Mapping[str, object], own: Mapping[str, object]) -> None:
    """Raise where a checkpoint is of another run."""
    for key in ("signature", "seed", "batch_size", "num_rows", "optimizer"):
        if meta.get(key) != own[key]:
            raise ValueError(
                f"checkpoint {path}: expected one of this program, plan and data, with {key} {own[key]!r}; got {meta.get(key)!r}. "
                f"{ANOTHER}"
            )
