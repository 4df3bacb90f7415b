"""The verb `fit`: check, choose, loop, report."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from ppl_gen.backends.interface import Callback, Data, PathLike, Seed
from ppl_gen.backends.rates import DEFAULT_RATE, check_rate
from ppl_gen.backends.seeds import as_seed
from ppl_gen.errors import Interrupted, ProgramError
from ppl_gen.estimators import Estimator
from ppl_gen.estimators.likelihood import unlearned
from ppl_gen.evaluate.measure import Still
from ppl_gen.evaluate.rare import seldom_better
from ppl_gen.evaluate.selection import best_plan, trials, worth_it
from ppl_gen.infer.arguments import check_choices, check_form, check_options, check_program
from ppl_gen.infer.automatic import converter, knows_rows
from ppl_gen.infer.reading import Settings, open_program
from ppl_gen.infer.result import Fit
from ppl_gen.infer.rows import followers, resized, settle
from ppl_gen.objectives import Bound
from ppl_gen.program import Batch
from ppl_gen.training.again import Watch, read_again
from ppl_gen.training.batches import Stream, Table, make_source
from ppl_gen.training.interrupt import keeping
from ppl_gen.training.loop import HeldOut, Running, loop
from ppl_gen.training.model import model_of
from ppl_gen.training.prepare import Prepared, accepted, own_objective, under, with_plan
from ppl_gen.training.trainer import Trainer
from ppl_gen.training.trajectory import trajectory

OTHER_BATCHES = 4  # that a program which reads data on the host is read on beside the first rows


@keeping
def fit(
    model: Callback,
    guide: Callback | None = None,
    data: Data = None,
    *,
    steps: int = 1000,
    batch_size: int | None = None,
    learning_rate: float = DEFAULT_RATE,
    optimizer: object = None,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
    objective: Bound | None = None,
    backend: str | None = None,
    device: str = "auto",
    seed: Seed = 0,
    compile: bool | str = "auto",
    validation: Data = None,
    patience: int | None = None,
    checkpoint: PathLike | None = None,
    callbacks: Iterable[Callable[[Running], None]] = (),
    progress: bool = True,
    warm_start: bool = False,
) -> Fit:
    """Train a program on data.

    Fits in several threads take turns: both libraries' handlers and random states belong to the whole process.

    Args:
        model: a Pyro, NumPyro or portable program, or a built-in model.
        guide: proposes the model's latents; None takes the model's own guide, else a mean-field one, with finite latents
            left out where they can be summed out. One that `estimators` names is proposed, and has a posterior.
        data: an array or a tuple (positional arguments), a dict (keyword arguments), a DataFrame, or a list or other
            iterable of batches of these. Each batch of a list, or of a torch DataLoader, stands for all rows. Arrays
            of the other library are converted; what is not an array is passed on as it is, and the program is read anew
            on the first batch in which it differs.
        steps: gradient steps.
        batch_size: rows per step of the leading axis, the smaller last batch included; None takes all.
        learning_rate: of Adam, and of an optimizer that takes ``lr`` and was given none; 0.001 if left out. Beside an
            optimizer with a rate of its own it is refused.
        optimizer: None (Adam); on torch a torch.optim class or partial, or one of pyro.optim; on JAX an optax transformation
            or one of numpyro.optim.
        estimators: site name or ``"*"`` -> estimator instance, to overrule the choice.
        num_particles: draws of the latents per step.
        objective: None means the model's own `objective`, else the ELBO, which is the exact likelihood without latents.
        backend: "torch" or "jax"; None notices it.
        device: "auto" takes a GPU where the backend sees one and the program can run there; or a name, such as "cpu" or
            "cuda:1", which is used or refused. On JAX "all" splits the rows among all devices of the default kind; a batch
            whose rows they cannot share equally is worked out on each.
        seed: of everything random, a whole number or a JAX key; nothing global is touched.
        compile: "auto", True or False.
        validation: data of the same form, evaluated a few times per pass; the best parameters are kept.
        patience: evaluations without improvement after which to stop.
        checkpoint: a path, written as the run goes and continued from when it is there and fits. It holds no rows.
        callbacks: called with a `Running` at each report.
        progress: show a bar on a terminal.
        warm_start: start from, and write back to, the user's own networks, guides and, on torch, Pyro's parameter store.

    Returns:
        The `Fit`.

    Raises:
        ProgramError: program or data cannot be trained with; the message names the site. Before the first step.
        NonFinite: a NaN or an infinity appeared; `.fit` is the last good state.
        Interrupted: Ctrl-C, a KeyboardInterrupt; `.fit` is the state so far, which a checkpoint holds too. The first Ctrl-C
            is taken up when the present step is done, a second one at once.
    """
    check_program(model, guide, data, backend)
    listed = check_options(steps, batch_size, compile, patience, validation, callbacks, checkpoint)
    check_choices(estimators, num_particles, device)
    seed, learning_rate = as_seed(seed), check_rate(learning_rate)
    objective = own_objective(model) if objective is None else objective
    parts = model_of(model)
    guide = parts.guide if guide is None else guide
    settings = Settings(backend, device, seed, estimators, num_particles)
    prepared, source = open_program(model, guide, data, settings, batch_size=batch_size, encode=parts.encode)
    left = _take_store(prepared, warm_start)
    prepared = under(prepared, objective, seed, source.first())
    _warn_of_idleness(prepared, steps)
    if compile is not False:
        asked = estimators or {}
        prepared = _measured(prepared, source, asked, seed, objective, optimizer, learning_rate, steps)
    _read_other_batches(prepared, source, objective, seed)
    prepared.plan.notes += left
    with prepared.session():
        trainer = Trainer(prepared, objective, optimizer, learning_rate, compile, steps, begins=True)
        config = {
            "steps": steps,
            "batch_size": batch_size,
            "num_rows": source.num_rows,
            "optimizer": prepared.backend.optimizer_name(optimizer),
            "loss_rows": source.num_rows or source.first_rows,
            "validation_rows": None,
        }
        result = Fit(prepared, trainer, model, source, np.zeros(0), config)
        held_out = None if validation is None else _held_out(model, prepared, validation, batch_size)
        config["validation_rows"] = None if held_out is None else held_out.source.num_rows
        state = Running(0, steps, [], [], result)
        try:
            loop(state, trainer, source, held_out, patience, checkpoint, listed, progress)
        except Interrupted:
            if warm_start:
                prepared.program.write_back(trainer.current_params())
            raise
        _note_afterwards(prepared, trainer, result.losses, compile)
        if warm_start:
            prepared.program.write_back(trainer.current_params())
    return result


def _warn_of_idleness(prepared: Prepared, steps: int) -> None:
    """Say which parameters, or that all of them, learn nothing."""
    if prepared.idle:
        named = ", ".join(f"'{name}'" for name in prepared.idle)
        warnings.warn(
            f"param {named}: expected a way to the loss; got none, no site depends on it, so it stays as it is. Use it in a "
            "distribution, or remove it.",
            stacklevel=4,
        )
    if not prepared.program.params and steps:
        warnings.warn(
            "the program states no parameters: there is nothing to learn. Register networks with module().",
            stacklevel=4,
        )
    nothing = unlearned(prepared.plan.facts)
    if nothing is not None and steps:
        warnings.warn(nothing, stacklevel=4)


def _measured(
    prepared: Prepared,
    source: Table | Stream,
    asked: Mapping[str, Estimator],
    seed: int,
    objective: Bound,
    optimizer: object,
    learning_rate: float,
    steps: int,
) -> Prepared:
    """The program under the plan that did best along a short run, where the fit is long enough to be worth it."""
    plans = trials(prepared, asked, objective)
    if not worth_it(plans, steps):
        return prepared
    steady = source if isinstance(source, Table) else Still(source.first())  # a stream may run but once
    points = trajectory(prepared, steady, seed, objective, optimizer, learning_rate)
    best = best_plan(prepared, source.first(), asked, seed, objective, plans, points)
    for note in best.notes:
        if note.startswith("rare signal"):
            warnings.warn(note, stacklevel=4)
    return with_plan(prepared, best, seed)


def _read_other_batches(prepared: Prepared, source: Table | Stream, objective: Bound, seed: int) -> None:
    """Read the program on batches of other kinds: those of a stream as they come, of a table some where it reads data."""
    read, by_data = _reader(prepared, objective, seed), prepared.plan.facts.by_data
    if isinstance(source, Stream):
        source.watch(Watch(source.first(), read, by_data))
    elif by_data and source.batch_size:
        for step in range(min(source.per_pass, OTHER_BATCHES)):
            read(source.build(*source.at(step)), f"on the batch of step {step + 1}")


def _note_afterwards(prepared: Prepared, trainer: Trainer, losses: np.ndarray, compile: bool | str) -> None:
    """What the plan is to say of the run."""
    rare = seldom_better(prepared.plan, losses)
    if rare is not None:
        prepared.plan.notes += (rare,)
        warnings.warn(rare, stacklevel=4)
    if trainer.how.startswith("eager, as ") and compile is not False and not prepared.plan.facts.eager:
        prepared.plan.notes += (f"steps: {trainer.how}",)  # there was no graph, or it was not trusted


def _take_store(prepared: Prepared, warm_start: bool) -> tuple[str, ...]:
    """Start from Pyro's parameter store where that is wanted; else what to say of its values that are not used."""
    with prepared.session():
        if warm_start:
            prepared.program.take_store()
        unused = ", ".join(map(repr, prepared.program.unused_store()))
    said = (
        f"param {unused}: Pyro's parameter store holds other values, not used here; with warm_start=True parameters start from "
        "them, and networks from their own weights"
    )
    return (said,) if unused else ()


def _reader(prepared: Prepared, objective: Bound, seed: int) -> Callable[[Batch, str], None]:
    """Reads the program on a batch of another kind than the first."""

    def read(batch: Batch, when: str) -> None:
        plan = read_again(prepared.backend, prepared.program, prepared.plan, batch, seed, when)
        try:
            accepted(prepared, plan, objective, seed, batch)
        except ProgramError as error:
            raise ProgramError(f"the program is another {when}. {error}") from error

    return read


def _held_out(model: Callback, prepared: Prepared, validation: Data, batch_size: int | None) -> HeldOut:
    """The validation data, of the same form as the training data."""
    if isinstance(validation, Iterator):
        raise TypeError(
            "validation: expected data that can be gone through again and again; got an iterator. Pass a list of batches."
        )
    if knows_rows(prepared.program.guide):
        raise ProgramError(
            "validation: expected a guide that proposes from the data it is given; got the automatic one, "
            "which has parameters for each training row. Write a guide, or drop validation."
        )
    check_form(validation, "validation")
    convert = converter(prepared.backend, prepared.program.device)
    backend, encode = prepared.backend, model_of(model).encode
    source = make_source(validation, None, 0, convert, encode, backend.loading)
    first = source.first()
    following, beside, _ = followers(backend, prepared.program, first, resized(source))
    settle(following, beside, prepared, first)
    return HeldOut(source, _chunk(prepared, batch_size))


def _chunk(prepared: Prepared, batch_size: int | None) -> int | None:
    """Rows evaluated at once; None (all) where it is not settled that a part of the rows can stand for all of them."""
    plates = prepared.program.row_plates
    return None if batch_size is None or (plates is not None and not plates) else max(batch_size, 1000)


__all__ = ["Running", "fit"]
