"""The verb `fit`: check, choose, loop, report."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.backends.rates import DEFAULT_RATE, check_rate
from ppl_gen.backends.seeds import as_seed
from ppl_gen.elimination.sums import part_of_sum
from ppl_gen.errors import Interrupted, ProgramError
from ppl_gen.estimators import Estimator
from ppl_gen.estimators.likelihood import lone_masks, unlearned
from ppl_gen.evaluate.measure import Still, best_plan, seldom_better, trials, with_plan, worth_it
from ppl_gen.infer.arguments import check_choices, check_form, check_options, check_program
from ppl_gen.infer.automatic import automatic, converter, followers, prepare_any, resized
from ppl_gen.infer.result import Fit, knows_rows
from ppl_gen.program import Batch
from ppl_gen.training.again import Watch, read_again
from ppl_gen.training.batches import Stream, Table, as_arguments, check_data, is_stream, length, make_source
from ppl_gen.training.interrupt import keeping
from ppl_gen.training.loop import HeldOut, Running, loop
from ppl_gen.training.model import model_of
from ppl_gen.training.prepare import Prepared, accepted, choose_backend, no_guide, own_objective, under
from ppl_gen.training.trainer import Trainer
from ppl_gen.training.trajectory import trajectory

OTHER_BATCHES = 4  # that a program which reads data on the host is read on beside the first rows


@keeping
def fit(
    model: Any,
    guide: Any = None,
    data: Any = None,
    *,
    steps: int = 1000,
    batch_size: int | None = None,
    learning_rate: float = DEFAULT_RATE,
    optimizer: Any = None,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
    objective: Any = None,
    backend: str | None = None,
    device: str = "auto",
    seed: Any = 0,
    compile: Any = "auto",
    validation: Any = None,
    patience: int | None = None,
    checkpoint: Any = None,
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
        device: "auto" takes a GPU where the backend sees one; or a name, such as "cpu" or "cuda:1".
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
    prepared, source = open_program(
        model, guide, data, batch_size, backend, device, seed, estimators, num_particles, None, parts.encode
    )
    left = _take_store(prepared, warm_start)
    prepared = under(prepared, objective, seed, source.first())
    if prepared.idle:
        named = ", ".join(f"'{name}'" for name in prepared.idle)
        warnings.warn(
            f"param {named}: expected a way to the loss; got none, no site depends on it, so it stays as it is. Use it in a "
            "distribution, or remove it.",
            stacklevel=3,
        )
    if not prepared.program.params and steps:
        warnings.warn(
            "the program states no parameters: there is nothing to learn. Register networks with module().",
            stacklevel=3,
        )
    nothing = unlearned(prepared.plan.facts)
    if nothing is not None and steps:
        warnings.warn(nothing, stacklevel=3)
    plans = trials(prepared, estimators or {}, objective) if compile is not False else {}
    if worth_it(plans, steps):
        steady = source if isinstance(source, Table) else Still(source.first())  # a stream may run but once
        points = trajectory(prepared, steady, seed, objective, optimizer, learning_rate)
        best = best_plan(prepared, source.first(), estimators or {}, seed, objective, plans, points)
        prepared = with_plan(prepared, best, seed)
        for note in best.notes:
            if note.startswith("rare signal"):
                warnings.warn(note, stacklevel=3)
    if isinstance(source, Stream):
        source.watch(Watch(source.first(), _reader(prepared, objective, seed), prepared.plan.facts.by_data))
    elif prepared.plan.facts.by_data and source.batch_size:
        for step in range(min(source.per_pass, OTHER_BATCHES)):
            _reader(prepared, objective, seed)(source.build(*source.at(step)), f"on the batch of step {step + 1}")
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
        held_out = None
        if validation is not None:
            held_out = HeldOut(_held_out(model, prepared, validation), _chunk(prepared, batch_size))
            config["validation_rows"] = held_out.source.num_rows
        state = Running(0, steps, [], [], result)
        try:
            loop(state, trainer, source, held_out, patience, checkpoint, listed, progress)
        except Interrupted:
            if warm_start:
                prepared.program.write_back(trainer.current_params())
            raise
        rare = seldom_better(prepared.plan, result.losses)
        if rare is not None:
            prepared.plan.notes += (rare,)
            warnings.warn(rare, stacklevel=3)
        if trainer.how.startswith("eager, as ") and compile is not False and not prepared.plan.facts.eager:
            prepared.plan.notes += (f"steps: {trainer.how}",)  # there was no graph, or it was not trusted
        if warm_start:
            prepared.program.write_back(trainer.current_params())
    return result


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


def _reader(prepared: Prepared, objective: Any, seed: int) -> Callable[[Batch, str], None]:
    """Reads the program on a batch of another kind than the first."""

    def read(batch: Batch, when: str) -> None:
        plan = read_again(prepared.backend, prepared.program, prepared.plan, batch, seed, when)
        try:
            accepted(prepared, plan, objective, seed, batch)
        except ProgramError as error:
            raise ProgramError(f"the program is another {when}. {error}") from error

    return read


def _held_out(model: Any, prepared: Prepared, validation: Any) -> Table | Stream:
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
    source = make_source(validation, None, 0, convert, model_of(model).encode)
    first = source.first()
    following, beside, _ = followers(prepared.backend, prepared.program, first, resized(source))
    _settle(following, beside, prepared, first)
    return source


def _chunk(prepared: Prepared, batch_size: int | None) -> int | None:
    """Rows evaluated at once; None (all) where it is not settled that a part of the rows can stand for all of them."""
    plates = prepared.program.row_plates
    return None if batch_size is None or (plates is not None and not plates) else max(batch_size, 1000)


def open_program(
    model: Any,
    guide: Any,
    data: Any,
    batch_size: int | None,
    backend_name: str | None,
    device: str,
    seed: int,
    estimators: Mapping[str, Estimator] | None,
    num_particles: int,
    num_rows: int | None = None,
    encode: Any = None,
    names: Collection[str] | None = None,
) -> tuple[Prepared, Table | Stream]:
    """Read the program on the first batch and settle which plates stand for the rows; `names`: of a saved fit's parameters."""
    args, kwargs = as_arguments(
        (data[0] if data else ()) if isinstance(data, list) else () if is_stream(data) else data
    )
    bad = None if encode or is_stream(data) else check_data(args, kwargs)
    module = choose_backend(model, guide, args, kwargs, backend_name)
    place = module.resolve_device(device)
    with module.Program(no_guide, no_guide, seed=seed, device=place).session():  # a loader may draw random numbers
        source = make_source(data, batch_size, seed, converter(module, place), encode)
    first, other = source.first(), resized(source)
    if num_rows is not None:  # of a saved fit, whose guide may have parameters for each of more rows
        first, other = _indexed(first), other and _indexed(other)

    def settle(prepared: Prepared) -> None:
        if guide is None:
            _check_automatic(prepared, names)
        with prepared.session():
            following, beside, _ = followers(module, prepared.program, first, other)
        prepared.program.row_plates = _settle(following, beside, prepared, first)

    makers = [lambda: guide]
    if guide is None:
        made = automatic(model, module, num_rows or source.num_rows, first, other, seed, place)
        makers = [functools.partial(_for_data, make, source) for make in made]
    options = {"estimators": estimators, "num_particles": num_particles, "seed": seed, "device": place, "bad": bad}
    return prepare_any(model, makers, first, settle, backend=module, **options), source


def _for_data(make: Callable[[], Any], source: Table | Stream) -> Any:
    """An automatic guide, or the reason why the data cannot have it."""
    guide = make()
    if isinstance(source, Stream) and knows_rows(guide):
        raise ProgramError(
            "data: expected arrays, as the automatic guide has parameters for each row; got an iterable of batches. "
            "Pass arrays with batch_size=, or write a guide that proposes from the data."
        )
    return guide


def _check_automatic(prepared: Prepared, names: Collection[str] | None) -> None:
    """Raise where the automatic guide does not suit the model, or is another one than a saved fit had."""
    if names is not None and set(names) != set(prepared.program.params):
        raise ProgramError(
            f"guide: expected one with the parameters {sorted(names)}; got the automatic one, with "
            f"{sorted(prepared.program.params)}. Pass the guide that the fit was trained with."
        )
    lone = lone_masks(prepared.plan.facts)
    if lone:
        raise ProgramError(
            f"site '{lone[0]}': expected the automatic guide to count wherever the prior does; the model masks this latent and the "
            "guide cannot know where, so that the loss would be no bound. Write a guide that masks it too."
        )


def _indexed(batch: Batch) -> Batch:
    """The batch as the leading rows of more."""
    return Batch(batch.args, batch.kwargs, batch.scale, np.arange(length(batch) or 0))


def _settle(following: set[str], beside: set[str], prepared: Prepared, first: Batch) -> set[str] | None:
    """The plates that are scaled from a batch's rows to the data's.

    Args:
        following: plates whose size follows the number of rows.
        beside: observed sites whose shape does.
        prepared: the program.
        first: the batch.

    Raises:
        ProgramError: it cannot be told what belongs to the rows.
    """
    if first.scale == 1.0:
        return following
    facts = prepared.plan.facts
    sites = facts.whole.sites  # what is summed out stands in its place
    latents = [site.name for site in facts.latents()]
    if not following and not latents:
        factors = [site.name for site in sites.values() if site.is_factor and not site.plates]
        if not factors or len(sites) == 1:
            return None  # nothing but the rows: every term is scaled
        beside = set(factors)
    lost = [] if following else latents
    lost += [n for n in sorted(beside) if following.isdisjoint(sites["model", n].plates)]
    if lost:
        raise ProgramError(
            f"site '{lost[0]}': expected a plate over the rows of the batch, so that its terms can be scaled to the "
            "whole data; got none. Put what belongs to the rows into plate('data', len(x)), or train without batch_size."
        )
    sums = facts.summed[0] if facts.summed else None
    for term, names in sums.reads.items() if sums else ():
        for name in names:
            for plate in sorted(following & set(sites[term].plates) - set(sites["model", name].plates)):
                raise part_of_sum(sites["model", name], plate)
    for site in sites.values():
        if len(following & set(site.plates)) > 1:
            raise ProgramError(
                f"site '{site.name}': expected one plate over the rows of the batch; got {sorted(following & set(site.plates))}: "
                "pairs of a batch's rows do not stand for all pairs. Train without batch_size."
            )
    return following


__all__ = ["Running", "fit", "open_program"]
