"""The verb `fit`: check, choose, loop, report."""

from __future__ import annotations

import functools
import numbers
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Estimator
from ppl_gen.estimators.plan import lone_masks
from ppl_gen.infer import checkpoint as files
from ppl_gen.infer.again import Watch, read_again
from ppl_gen.infer.automatic import automatic, converter, followers, length, prepare_any, resized
from ppl_gen.infer.batches import Stream, Table, is_stream, make_source
from ppl_gen.infer.loop import HeldOut, Running, loop
from ppl_gen.infer.measure import Still, best_plan, seldom_better, trials, with_plan, worth_it
from ppl_gen.infer.prepare import (
    Prepared,
    accepted,
    as_arguments,
    check_data,
    choose_backend,
    no_guide,
    own_objective,
    under,
)
from ppl_gen.infer.result import Fit, knows_rows
from ppl_gen.infer.trajectory import trajectory
from ppl_gen.objectives import ELBO
from ppl_gen.program import OWN, Batch
from ppl_gen.sums import part_of_sum


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
        guide: proposes the model's latents; None takes the model's own guide, else a mean-field one, with finite latents
            left out where they can be summed out. One that `estimators` names is proposed, and has a posterior.
        data: an array or a tuple (positional arguments), a dict (keyword arguments), a DataFrame, or a list or other
            iterable of batches of these. Each batch of a list, or of a torch DataLoader, stands for all rows. Arrays
            of the other library are converted; what is not an array is passed on as it is, and the program is read anew
            on the first batch in which it differs.
        steps: gradient steps.
        batch_size: rows per step of the leading axis, the smaller last batch included; None takes all.
        learning_rate: of Adam, or of an optimizer class that takes ``lr``.
        optimizer: a torch.optim class or partial, an optax transformation, or None (Adam).
        estimators: site name or ``"*"`` -> estimator instance, to overrule the choice.
        num_particles: draws of the latents per step.
        objective: None means the model's own `objective`, else the ELBO, which is the exact likelihood without latents.
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
    _check_options(steps, learning_rate, compile, patience, validation)
    objective = own_objective(model) if objective is None else objective
    guide = getattr(model, "guide", None) if guide is None else guide
    encode = getattr(model, "prepare", None)
    prepared, source = _open(
        model, guide, data, batch_size, backend, device, seed, estimators, num_particles, None, encode
    )
    prepared = under(prepared, objective, seed, source.first())
    if prepared.idle:
        warnings.warn(
            f"parameters of a registered network that nothing depends on: {', '.join(prepared.idle)}", stacklevel=2
        )
    if not prepared.program.params and steps:
        warnings.warn(
            "the program states no parameters: there is nothing to learn. Register networks with module().",
            stacklevel=2,
        )
    plans = trials(prepared, estimators or {}, objective) if compile is not False else {}
    if worth_it(plans, steps):
        steady = source if isinstance(source, Table) else Still(source.first())  # a stream may run but once
        points = trajectory(prepared, steady, seed, objective, optimizer, learning_rate)
        best = best_plan(prepared, source.first(), estimators or {}, seed, objective, plans, points)
        prepared = with_plan(prepared, best, seed)
        for note in best.notes:
            if note.startswith("rare signal"):
                warnings.warn(note, stacklevel=2)
    if isinstance(source, Stream):
        source.watch(Watch(source.first(), _reader(prepared, objective, seed), prepared.plan.facts.by_data))
    with prepared.session():
        if warm_start:  # asked first, so that a backend that cannot says so before the run
            prepared.program.write_back(prepared.program.params)
        trainer = prepared.backend.Trainer(
            prepared.program,
            objective,
            prepared.plan,
            (prepared.start[0], {**prepared.start[1], OWN: objective.start()}),
            optimizer,
            learning_rate,
            compile,
            steps,
        )
        config = {"steps": steps, "batch_size": batch_size, "num_rows": source.num_rows, "optimizer": _named(optimizer)}
        result = Fit(prepared, trainer, model, source, np.zeros(0), config)
        held_out = (
            None
            if validation is None
            else HeldOut(_held_out(model, prepared, validation), _chunk(prepared, batch_size))
        )
        state = Running(0, steps, [], [], result)
        loop(state, trainer, source, held_out, patience, checkpoint, list(callbacks), progress)
        rare = seldom_better(prepared.plan, result.losses)
        if rare is not None:
            prepared.plan.notes += (rare,)
            warnings.warn(rare, stacklevel=2)
        if trainer.how.startswith("eager, as ") and compile is not False and not prepared.plan.facts.eager:
            prepared.plan.notes += (f"steps: {trainer.how}",)  # there was no graph, or it was not trusted
        if warm_start:
            prepared.program.write_back(trainer.current_params())
    return result


def _check_options(steps: Any, learning_rate: Any, compile: Any, patience: Any, validation: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 0:
        raise ValueError(f"steps: expected a whole number, 0 or more; got {steps!r}.")
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate: expected a positive number; got {learning_rate}.")
    if compile not in ("auto", True, False):
        raise ValueError(f"compile: expected 'auto', True or False; got {compile!r}.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience: expected 1 evaluation or more; got {patience}.")
    if patience is not None and validation is None:
        raise ValueError(
            "patience: expected validation data to judge by; got none. Pass validation=, or drop patience."
        )


def _reader(prepared: Prepared, objective: Any, seed: int) -> Callable[[Batch, str], None]:
    """Reads the program on a batch of another kind than the first."""

    def read(batch: Batch, when: str) -> None:
        plan = read_again(prepared.backend, prepared.program, prepared.plan, batch, seed, when)
        try:
            accepted(prepared, plan, objective, seed, batch)
        except ProgramError as error:
            raise ProgramError(f"the program is another {when}. {error}") from error

    return read


def _named(optimizer: Any) -> str:
    """An optimizer's name, to tell by which one a checkpoint was written."""
    optimizer = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    return getattr(optimizer, "__name__", type(optimizer).__name__)


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
    convert = converter(prepared.backend, prepared.program.device)
    source = make_source(validation, None, 0, convert, getattr(model, "prepare", None))
    first = source.first()
    following, beside, _ = followers(prepared.backend, prepared.program, first, resized(source))
    _settle(following, beside, prepared, first)
    return source


def _chunk(prepared: Prepared, batch_size: int | None) -> int | None:
    """Rows evaluated at once; None (all) where it is not settled that a part of the rows can stand for all of them."""
    plates = prepared.program.row_plates
    return None if batch_size is None or (plates is not None and not plates) else max(batch_size, 1000)


def _open(
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


CONFIG = ("steps", "batch_size", "num_rows", "optimizer")
FACTS: dict[str, Any] = {
    "backend": str,
    "seed": int,
    "row_plates": list | None,
    "steps": int,
    "batch_size": int | None,
    "num_rows": int | None,
    "optimizer": str,
}


def _facts(path: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The facts beside the arrays, each of its type."""
    for key, kind in FACTS.items():
        if key not in meta or not isinstance(meta[key], kind):
            raise ValueError(f"checkpoint {path}: expected '{key}' in its header; got {meta.get(key)!r}. Train again.")
    return {key: meta[key] for key in FACTS}


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
    facts = _facts(path, meta)
    data = example["kwargs"] or tuple(example["args"])
    names = {name.removeprefix("params/") for name in arrays if name.startswith("params/")}
    prepared, source = _open(
        model, guide, data, None, facts["backend"], "auto", facts["seed"], None, 1, facts["num_rows"], names=names
    )
    prepared.program.row_plates = None if facts["row_plates"] is None else set(facts["row_plates"])
    losses, validation = files.history(path, arrays)
    with prepared.session():
        trainer = prepared.backend.Trainer(prepared.program, ELBO(), prepared.plan, prepared.start, None, 1e-3, False)
        values = {n: v for n, v in trainer.state().items() if n.startswith(("params/", "buffers/"))}
        files.fitting(path, arrays, values)
        trainer.load_values(arrays)
    result = Fit(prepared, trainer, model, source, np.array(losses), {k: facts[k] for k in CONFIG})
    result.validation_losses = validation
    return result


__all__ = ["Running", "fit", "load"]
