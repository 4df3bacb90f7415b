"""The verb `fit`: check, choose, loop, report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppl_gen.errors import NonFinite, ProgramError
from ppl_gen.estimators import Estimator
from ppl_gen.guides import MeanField
from ppl_gen.infer import checkpoint as files
from ppl_gen.infer.batches import Stream, Table, make_source
from ppl_gen.infer.prepare import Prepared, as_arguments, check_data, choose_backend, no_guide, prepare
from ppl_gen.infer.progress import Progress
from ppl_gen.infer.result import Fit, signature
from ppl_gen.objectives import ELBO
from ppl_gen.program import Batch, Latent

REPORTS = 100  # callbacks, progress and validation at most this often in a run


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
    fit: Fit
    stop: bool = False
    best: dict[str, np.ndarray] | None = field(default=None, repr=False)


def fit(
    model: Any,
    guide: Any = None,
    data: Any = None,
    *,
    steps: int = 1000,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    optimizer: Any = None,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
    objective: Any = None,
    backend: str | None = None,
    device: str = "auto",
    seed: int = 0,
    compile: Any = "auto",
    validation: Any = None,
    patience: int | None = None,
    checkpoint: Any = None,
    callbacks: Iterable[Callable[[Running], None]] = (),
    progress: bool = True,
    warm_start: bool = False,
) -> Fit:
    """Train a program on data.

    Args:
        model: a Pyro, NumPyro or portable program, or a built-in model.
        guide: proposes the model's latents; None takes the model's own guide, else a mean-field one, else none.
        data: an array or a tuple (positional arguments), a dict (keyword arguments), a DataFrame, or a list or other
            iterable of batches of these. What is not an array is passed on as it is.
        steps: gradient steps.
        batch_size: rows per step of the leading axis, the smaller last batch included; None takes all.
        learning_rate: of Adam, or of an optimizer class that takes ``lr``.
        optimizer: a torch.optim class or partial, an optax transformation, or None (Adam).
        estimators: site name or ``"*"`` -> estimator instance, to overrule the choice.
        num_particles: draws of the latents per step.
        objective: None means the ELBO, which is the exact likelihood without latents.
        backend: "torch" or "jax"; None notices it.
        device: "auto" takes a GPU where the backend sees one.
        seed: of everything random; nothing global is touched.
        compile: "auto", True or False.
        validation: data of the same form, evaluated a few times per pass; the best parameters are kept.
        patience: evaluations without improvement after which to stop.
        checkpoint: a path, written as the run goes and continued from when it is there and fits.
        callbacks: called with a `Running` at each report.
        progress: show a bar on a terminal.
        warm_start: start from, and write back to, the user's own networks.

    Returns:
        The `Fit`.

    Raises:
        ProgramError: program or data cannot be trained with; the message names the site. Before the first step.
        NonFinite: a NaN or an infinity appeared; `.fit` is the last good state.
    """
    _check_numbers(steps, learning_rate, patience, validation)
    guide = getattr(model, "guide", None) if guide is None else guide
    encode = getattr(model, "prepare", None)
    data = encode(data) if encode and not isinstance(data, list) else data
    prepared, source = _open(model, guide, data, encode, batch_size, backend, device, seed, estimators, num_particles)
    if prepared.idle:
        warnings.warn(f"parameters of a registered network that nothing depends on: {', '.join(prepared.idle)}", stacklevel=2)
    convert = _converter(prepared.backend, prepared.program.device)
    held_out = None if validation is None else Table(encode(validation) if encode else validation, batch_size, 0, convert)
    with prepared.session():
        trainer = prepared.backend.Trainer(
            prepared.program, objective or ELBO(), prepared.plan, prepared.start, optimizer, learning_rate, compile, steps
        )
        result = Fit(prepared, trainer, model, source, np.zeros(0), {"steps": steps, "batch_size": batch_size})
        state = Running(0, steps, [], [], result)
        if checkpoint is not None and Path(checkpoint).exists():
            _continue(checkpoint, trainer, prepared, state)
        _loop(state, trainer, source, held_out, patience, checkpoint, list(callbacks), progress)
        if warm_start:
            prepared.program.write_back(trainer.current_params())
    return result


def _check_numbers(steps: int, learning_rate: float, patience: int | None, validation: Any) -> None:
    if steps < 0:
        raise ValueError(f"steps: expected 0 or more; got {steps}.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: expected a positive number; got {learning_rate}.")
    if patience is not None and validation is None:
        raise ValueError("patience: expected validation data to judge by; got none. Pass validation=, or drop patience.")


def _converter(backend: Any, device: str) -> Callable[[Any], Any]:
    return lambda value: backend.array(value, device)


def _open(
    model: Any,
    guide: Any,
    data: Any,
    encode: Any,
    batch_size: int | None,
    backend_name: str | None,
    device: str,
    seed: int,
    estimators: Mapping[str, Estimator] | None,
    num_particles: int,
    num_rows: int | None = None,
) -> tuple[Prepared, Any]:
    """Read the program on the first batch and settle which plates stand for the rows."""
    from ppl_gen.infer.batches import is_stream

    args, kwargs = as_arguments(data[0] if isinstance(data, list) and data else () if is_stream(data) else data)
    bad = None if encode or is_stream(data) else check_data(args, kwargs)
    module = choose_backend(model, guide, args, kwargs, backend_name)
    place = module.resolve_device(device)
    source = make_source(data, batch_size, seed, _converter(module, place))
    first, shorter = source.first(), _shorter(source)
    if guide is None:
        guide = _automatic(model, module, num_rows or source.num_rows, first, shorter, seed, place)
    prepared = prepare(
        model,
        guide,
        first,
        backend=module,
        estimators=estimators,
        num_particles=num_particles,
        seed=seed,
        device=place,
        bad=bad,
    )
    with prepared.session():
        following, latents_inside = _followers(module, prepared.program, first, shorter)
    prepared.program.row_plates = _settle(following, prepared, first)
    return prepared, source


def _shorter(source: Any) -> Batch | None:
    """The first batch with one row less, where that is possible."""
    rows = source.first_rows
    return source.first(rows - 1) if rows is not None and rows > 1 else None


def _followers(backend: Any, program: Any, first: Batch, shorter: Batch | None, guide: bool = True) -> tuple[set[str], list[Latent]]:
    """(plates whose size follows the number of rows, the model's latents)."""
    sizes, latents = backend.survey(program, first, guide=guide)
    if shorter is None:
        return set(), latents
    try:
        fewer, _ = backend.survey(program, shorter, guide=guide)
    except Exception:  # a program that cannot run on fewer rows: go by length
        rows = _length(first)
        return {name for name, size in sizes.items() if size == rows}, latents
    return {name for name, size in sizes.items() if fewer.get(name) == size - 1}, latents


def _length(batch: Batch) -> int | None:
    return next((v.shape[0] for v in (*batch.args, *batch.kwargs.values()) if hasattr(v, "shape") and len(v.shape)), None)


def _automatic(model: Any, backend: Any, num_rows: int | None, first: Batch, shorter: Batch | None, seed: int, device: str) -> Any:
    """A mean-field guide for the model's latents; none where there are none."""
    program = backend.Program(model, no_guide, seed=seed, device=device)
    try:
        with program.session():
            following, latents = _followers(backend, program, first, shorter, guide=False)
    except Exception:  # the reading that follows says what is wrong, in full
        return no_guide
    return MeanField(latents, following, num_rows) if latents else no_guide


def _settle(following: set[str], prepared: Prepared, first: Batch) -> set[str] | None:
    """The plates that are scaled from a batch's rows to the data's."""
    if following or first.scale == 1.0:
        return following
    drawn = prepared.plan.facts.sites.values()
    outside = [site for site in prepared.plan.facts.latents() if not site.plates]
    if any(site.plates for site in drawn) and not outside:
        return following
    if list(prepared.plan.facts.latents()):
        name = outside[0].name if outside else next(iter(prepared.plan))
        raise ProgramError(
            f"site '{name}': expected a plate over the rows of the batch, so that its terms can be scaled to the whole data; got none. "
            "Put what belongs to the rows into plate('data', len(x)), or train without batch_size."
        )
    return None  # no latents: every term is scaled


def _continue(path: Any, trainer: Any, prepared: Prepared, state: Running) -> None:
    """Take up a checkpoint that fits."""
    arrays, meta, _ = files.read(path)
    if meta.get("signature") != signature(prepared):
        raise ValueError(
            f"checkpoint {path}: expected one of this program, backend and plan; got another. Remove the file, or choose another path."
        )
    trainer.load(arrays)
    best = {name.removeprefix("best/"): value for name, value in arrays.items() if name.startswith("best/")}
    state.best = best or None
    state.losses = list(meta["losses"])
    state.validation_losses = [(int(step), float(loss)) for step, loss in meta["validation"]]
    state.step = len(state.losses)


def _loop(
    state: Running, trainer: Any, source: Any, held_out: Table | None, patience: int | None, path: Any, callbacks: list[Any], show: bool
) -> None:
    """Steps, reports, validation, early stopping; whatever happens, the state is left usable."""
    every = max(1, state.steps // REPORTS)
    per_pass = source.per_pass if held_out is None else max(every, -(-source.per_pass // 3))
    bar = Progress(state.steps, state.step, state.fit.plan, source.num_rows, show)
    try:
        while state.step < state.steps and not state.stop:
            until = min(state.steps, (state.step // every + 1) * every)
            if held_out is not None:
                until = min(until, (state.step // per_pass + 1) * per_pass)
            losses = trainer.steps(source, state.step, until - state.step)
            state.losses += losses.tolist()
            state.step = until
            value = None
            if held_out is not None and (state.step % per_pass == 0 or state.step == state.steps):
                value = _validate(state, trainer, held_out)
            _sync(state)
            bar.update(len(losses), float(losses.mean()), value)
            for callback in callbacks:
                callback(state)
            if patience is not None and _stale(state.validation_losses) >= patience:
                state.stop = True
            if path is not None and (state.step % (every * 5) == 0):
                _save(path, state, trainer)
        if path is not None:
            _save(path, state, trainer)
        if state.best is not None:
            trainer.load(state.best)
    except NonFinite as error:
        state.losses += list(error.losses)
        _sync(state)
        raise NonFinite(f"step {len(state.losses)}: {error}", fit=state.fit, losses=state.losses) from None
    finally:
        bar.close()


def _sync(state: Running) -> None:
    state.fit.losses = np.array(state.losses)
    state.fit.validation_losses = list(state.validation_losses)


def _validate(state: Running, trainer: Any, held_out: Table) -> float:
    """The held-out loss in nats; remember the parameters if it is the best so far."""
    value = float(sum(trainer.loss(batch) for batch in held_out.passes()))
    if not state.validation_losses or value < min(loss for _, loss in state.validation_losses):
        state.best = trainer.state()
    state.validation_losses.append((state.step, value))
    return value


def _stale(history: list[tuple[int, float]]) -> int:
    """Evaluations since the best one."""
    values = [loss for _, loss in history]
    return len(values) - 1 - int(np.argmin(values)) if values else 0


def _save(path: Any, state: Running, trainer: Any) -> None:
    _sync(state)
    from ppl_gen.infer.result import template

    arrays = trainer.state() | {f"best/{name}": value for name, value in (state.best or {}).items()}
    files.write(path, arrays, state.fit.meta(), template(state.fit._source))


def load(path: Any, model: Any, guide: Any = None) -> Fit:
    """A saved fit, with the program it was trained from.

    Args:
        path: a file that `Fit.save` or a checkpoint wrote.
        model: the same model.
        guide: the same guide, if one was given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or one of another program.
    """
    arrays, meta, example = files.read(path)
    guide = getattr(model, "guide", None) if guide is None else guide
    data = example["kwargs"] or tuple(example["args"])
    prepared, source = _open(model, guide, data, None, None, meta["backend"], "auto", meta["seed"], None, 1, meta["num_rows"])
    prepared.program.row_plates = None if meta["row_plates"] is None else set(meta["row_plates"])
    with prepared.session():
        trainer = prepared.backend.Trainer(prepared.program, ELBO(), prepared.plan, prepared.start, None, 1e-3, False)
        expected, stored = trainer.current_params(), {n: v for n, v in arrays.items() if n.startswith("params/")}
        shapes = {n: tuple(np.shape(v)) for n, v in expected.items()}
        if {n.removeprefix("params/"): v.shape for n, v in stored.items()} != shapes:
            raise ValueError(f"checkpoint {path}: expected parameters {shapes}; got others. Pass the model and guide it was trained from.")
        trainer.load_values(arrays)
    result = Fit(prepared, trainer, model, source, np.array(meta["losses"]), {k: meta[k] for k in ("steps", "batch_size")})
    result.validation_losses = [(int(step), float(loss)) for step, loss in meta["validation"]]
    return result


__all__ = ["Running", "Stream", "fit", "load"]
