"""The verb `load`: a saved fit with the program it was trained from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.estimators import Estimator, Plan
from ppl_gen.infer import standins
from ppl_gen.infer.arguments import check_choices, check_program
from ppl_gen.infer.automatic import converter
from ppl_gen.infer.fit import open_program
from ppl_gen.infer.result import Fit, as_table
from ppl_gen.infer.specs import rebuild, sites
from ppl_gen.program import Batch
from ppl_gen.training import checkpoint as files
from ppl_gen.training.batches import Table
from ppl_gen.training.model import model_of
from ppl_gen.training.prepare import Prepared, no_guide, own_objective, under
from ppl_gen.training.trainer import Trainer

CONFIG = ("steps", "batch_size", "num_rows", "optimizer", "loss_rows", "validation_rows")
FACTS: dict[str, Any] = {
    "backend": str,
    "seed": int,
    "row_plates": list | None,
    "steps": int,
    "batch_size": int | None,
    "num_rows": int | None,
    "optimizer": str,
    "loss_rows": int | None,
    "validation_rows": int | None,
}
PLAN: dict[str, type] = {"rows": dict, "num_particles": int, "notes": list, "sites": list, "mixes": list}
ADVICE = "Pass the model and guide it was trained from."


class Saved(NamedTuple):
    """What a file says beside its arrays.

    Attributes:
        facts: of the run.
        objective: what was trained on.
        estimators: site -> estimator.
        plan: as it was described; None in an old file.
    """

    facts: dict[str, Any]
    objective: Any
    estimators: dict[str, Estimator]
    plan: dict[str, Any] | None

    @property
    def num_particles(self) -> int:
        """Draws per step."""
        return 1 if self.plan is None else int(self.plan["num_particles"])


def load(
    path: Any,
    model: Any,
    guide: Any = None,
    data: Any = None,
    *,
    objective: Any = None,
    estimators: Mapping[str, Estimator] | None = None,
) -> Fit:
    """A saved fit, with the program it was trained from.

    Args:
        path: a file that `Fit.save` or a checkpoint wrote.
        model: the same model.
        guide: the same guide, if one was given.
        data: a few rows in the form that was trained on, to read the program on. None takes those that the file keeps, else
            makes some up in the shapes of the data: the observed sites are drawn from the model, given inputs are numbers
            between zero and one, zeros, or ones. What is learned comes from the file in any case.
        objective: the objective, where it is a class of your own, which a file cannot hold.
        estimators: site -> estimator, likewise.

    Returns:
        The `Fit`. Where validation has judged, it is the best state.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole checkpoint, one of another program, or one that keeps no rows of a program that cannot be read
            on made-up ones.
    """
    check_program(model, guide, data)
    check_choices(estimators, 1)
    arrays, meta, template = files.read(path)
    guide = model_of(model).guide if guide is None else guide
    saved = _saved(path, meta, model, objective, estimators)
    names = {name.removeprefix("params/") for name in arrays if name.startswith("params/")}
    made_up = data is None and not standins.is_whole(template)
    if made_up:
        prepared, source = _read_made_up(path, model, guide, template, saved, names)
    else:
        encode = None if data is None else model_of(model).encode
        given = standins.data_of(template) if data is None else data
        prepared, source = _read(path, model, guide, given, saved, names, encode)
    fit = _filled(path, model, prepared, source, arrays, saved)
    if made_up:
        fit._other = _others(prepared, standins.others(source.first()))
    return fit


def _others(prepared: Prepared, batch: Batch) -> Batch:
    """Other made-up data, their observed sites drawn, where the model can run on them at all."""
    try:
        drawn: Batch = prepared.backend.redraw(prepared.program, batch, 1)
    except Exception:
        return batch
    return drawn


def _saved(path: Any, meta: Mapping[str, Any], model: Any, objective: Any, estimators: Any) -> Saved:
    """What the header says, each part of its type; objective and estimators that are given come before."""
    old = meta["version"] != files.VERSION
    facts = _typed(path, {"loss_rows": meta.get("num_rows"), "validation_rows": None, **meta} if old else meta, FACTS)
    if old:
        files.warn_old(path)
        return Saved(facts, own_objective(model) if objective is None else objective, dict(estimators or {}), None)
    plan = _typed(path, meta.get("plan") if isinstance(meta.get("plan"), Mapping) else {}, PLAN)
    if objective is None:
        objective = rebuild(meta.get("objective"), path, "an objective", "objective=")
    found = dict(estimators or {})
    for name, row in plan["rows"].items():
        if not isinstance(row, Mapping) or not {"estimator", "reason", "variance"} <= row.keys():
            raise ValueError(
                f"checkpoint {path}: expected site '{name}' of the plan in its header; got {row!r}. Train again."
            )
        if row["estimator"] is not None and name not in found:
            found[name] = rebuild(
                row["estimator"], path, f"an estimator of site '{name}'", f"estimators={{'{name}': ...}}"
            )
    return Saved(facts, objective, found, plan)


def _typed(path: Any, meta: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The facts beside the arrays, each of its type."""
    for key, kind in kinds.items():
        if key not in meta or not isinstance(meta[key], kind):
            raise ValueError(f"checkpoint {path}: expected '{key}' in its header; got {meta.get(key)!r}. Train again.")
    return {key: meta[key] for key in kinds}


def _read(
    path: Any, model: Any, guide: Any, data: Any, saved: Saved, names: set[str], encode: Any = None
) -> tuple[Prepared, Table]:
    """The program, read on these data, under the saved plan."""
    facts = saved.facts
    prepared, source = open_program(
        model,
        guide,
        data,
        None,
        facts["backend"],
        "auto",
        facts["seed"],
        saved.estimators,
        saved.num_particles,
        facts["num_rows"],
        encode,
        names,
    )
    prepared.program.row_plates = None if facts["row_plates"] is None else set(facts["row_plates"])
    prepared = under(prepared, saved.objective, facts["seed"], source.first())
    if saved.plan is not None:
        _as_saved(path, prepared.plan, saved.plan)
    return prepared, source if isinstance(source, Table) else as_table(source.first())


def _read_made_up(
    path: Any, model: Any, guide: Any, template: Mapping[str, Any], saved: Saved, names: set[str]
) -> tuple[Prepared, Table]:
    """The program, read on the first made-up data that it takes, and on which it is what it was."""
    first: Exception | None = None
    for data in _made_up(model, template, saved.facts):
        try:
            return _read(path, model, guide, data, saved, names)
        except Exception as error:  # whatever a program makes of data that are none
            first = first or error
    raise ValueError(
        f"checkpoint {path}: expected rows to read the program on; got a file that keeps none, and on made-up ones this came: "
        f"{type(first).__name__}: {first} {ADVICE} If you did, pass data= (a few rows in the form that was trained on), or save "
        "with rows=2."
    ) from first


def _made_up(model: Any, template: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[Any]:
    from ppl_gen import backends

    backend = backends.get(facts["backend"])
    place = backend.resolve_device("auto")

    def redraw(data: Any) -> Any:
        source = Table(data, None, 0, converter(backend, place))
        batch = backend.redraw(backend.Program(model, no_guide, seed=facts["seed"], device=place), source.first(), 0)
        return dict(batch.kwargs) or tuple(batch.args)

    return standins.candidates(template, redraw)


def _as_saved(path: Any, plan: Plan, saved: Mapping[str, Any]) -> None:
    """Give the plan what the file says of it, once it is known to be of the same program."""
    found, expected = sites(plan.facts), saved["sites"]
    if found != expected:
        odd = next((pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]), None)
        what = f"{odd[0]}; got {odd[1]}" if odd else f"{len(expected)} sites; got {len(found)}"
        raise ValueError(f"checkpoint {path}: expected a program with {what}. {ADVICE}")
    mixes = {(latent, (role, name), plate) for latent, role, name, plate in saved["mixes"]}
    plan.facts = replace(plan.facts, mixes=plan.facts.mixes | mixes)
    plan.notes = tuple(map(str, saved["notes"]))
    for name, row in saved["rows"].items():
        if name in plan.rows:
            plan.rows[name] = replace(plan.rows[name], reason=row["reason"], variance=row["variance"])


def _filled(path: Any, model: Any, prepared: Prepared, source: Table, arrays: Mapping[str, Any], saved: Saved) -> Fit:
    """The fit, with what the file holds of parameters, buffers and history."""
    last, best = files.parted(arrays)
    losses, validation = files.history(path, arrays)
    with prepared.session():
        trainer = Trainer(prepared, saved.objective, compile=False)
        expected = {n: v for n, v in trainer.state().items() if n.startswith(("params/", "buffers/"))}
        files.fitting(path, last, expected, ADVICE)
        if best is not None:
            files.fitting(path, best, expected, ADVICE, files.BEST)
        trainer.load_values(last if best is None else best)
    config = {key: saved.facts[key] for key in CONFIG}
    fit = Fit(prepared, trainer, model, source, np.array(losses), config)
    fit.validation_losses, fit._last, fit._best = validation, last, best
    return fit
