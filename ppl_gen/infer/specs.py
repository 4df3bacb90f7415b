"""Objectives, estimators and baselines as plain data: a class's name and its options, from which it is built again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_gen import estimators, objectives
from ppl_gen.backends.interface import PathLike
from ppl_gen.estimators import Plan
from ppl_gen.estimators.held import Held
from ppl_gen.program import Facts
from ppl_gen.training.prepare import Prepared

Spec = dict[str, Any]
OWN = "own"  # the key of a class that is the user's: its name, all that a file can hold of it


def _known(name: str) -> Any:
    """The class of this name among what the library exports."""
    for home in (objectives, estimators):
        if name in home.__all__:
            return getattr(home, name)
    return None


def describe(thing: object) -> Spec:
    """An instance as data: ``{"class": name, "options": {...}}``, or ``{"own": name}`` where it is the user's own."""
    kind = type(thing)
    if _known(kind.__name__) is not kind:
        return {OWN: f"{kind.__module__}.{kind.__qualname__}"}
    options = {}
    for name in _options(kind):
        value = _plain(getattr(thing, name))
        if isinstance(value, dict) and OWN in value:
            return value
        options[name] = value
    return {"class": kind.__name__, "options": options}


def _options(kind: type) -> list[str]:
    """The names of a class's options; none where it has no constructor of its own."""
    return [] if kind.__init__ is object.__init__ else list(inspect.signature(kind).parameters)  # type: ignore[misc]


def _plain(value: object) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str | None) else describe(value)


def rebuild(spec: object, path: PathLike, where: str, instead: str) -> Any:
    """The instance that `describe` saw.

    Args:
        spec: what `describe` gave, from a file.
        path: of the file, for messages.
        where: what it is, for messages.
        instead: how to pass it, for messages.

    Raises:
        ValueError: it is the user's own class, or there is none of this name or with these options.
    """
    named: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {}
    if OWN in named:
        raise ValueError(
            f"checkpoint {path}: expected {where} from ppl_gen; got {named[OWN]}, a class of your own, which a file cannot hold. "
            f"Pass {instead} to load."
        )
    kind = _known(named["class"]) if isinstance(named.get("class"), str) else None
    options = named.get("options")
    if not isinstance(kind, type) or not isinstance(options, Mapping) or not set(options) <= set(_options(kind)):
        raise _damaged(path, where, spec, instead)
    given = {n: rebuild(v, path, where, instead) if isinstance(v, Mapping) else v for n, v in options.items()}
    try:
        return kind(**given)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _damaged(path, where, spec, instead) from error


def _damaged(path: PathLike, where: str, spec: object, instead: str) -> ValueError:
    return ValueError(
        f"checkpoint {path}: expected {where} in its header; got {spec!r:.200}. Pass {instead} to load, or train again."
    )


# -- a plan ----------------------------------------------------------------------------------------------------------


def describe_plan(plan: Plan) -> Spec:
    """Sites, estimators, reasons and what the reading found, as data."""
    rows = {}
    for name, row in plan.rows.items():
        spec = None if isinstance(row.estimator, Held) else describe(row.estimator)
        rows[name] = {"estimator": spec, "reason": row.reason, "variance": row.variance}
    return {
        "rows": rows,
        "num_particles": plan.num_particles,
        "notes": list(plan.notes),
        "sites": sites(plan.facts),
        "mixes": sorted([latent, role, term, plate] for latent, (role, term), plate in plan.facts.mixes),
    }


def sites(facts: Facts) -> list[list[Any]]:
    """What another reading of the same program finds again, whatever the data and their number."""
    return [
        [s.role, s.name, s.distribution, s.observed, sorted([p, dim] for p, dim in s.plates.items())]
        for s in facts.sites.values()
    ]


def signature(prepared: Prepared) -> str:
    """What a checkpoint must share with a run to be continued by it; particles and objective may be others."""
    shapes = {n: [int(d) for d in np.shape(v)] for n, v in sorted(prepared.program.params.items())}
    rows = {name: repr(row.estimator) for name, row in prepared.plan.rows.items()}
    return json.dumps([prepared.backend.name, shapes, rows])
