"""What every verb does first: notice the backend, make the batch, read the program, make the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ppl_gen import backends
from ppl_gen.backends import checks
from ppl_gen.backends.dreams import check_dreams
from ppl_gen.backends.held import numbers
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Estimator, Plan, make_plan
from ppl_gen.objectives import ELBO
from ppl_gen.program import PARAM, Batch, Facts
from ppl_gen.training.again import check_host
from ppl_gen.training.batches import plain_list
from ppl_gen.training.model import model_of


@dataclass
class Prepared:
    """A program that has been read.

    Attributes:
        backend: the backend module.
        program: model and guide as one object.
        plan: the estimators.
        start: (baseline weights, running averages) to begin with, NumPy trees.
        idle: parameters that nothing depends on.
    """

    backend: Any
    program: Any
    plan: Plan
    start: tuple[dict[str, Any], dict[str, Any]]
    idle: list[str]

    def tripwire(self) -> AbstractContextManager[None]:
        """Inside, a site of the other library raises."""
        return backends.tripwire(self.backend.name)

    @contextmanager
    def session(self, seed: int | None = None, *, train: bool = True) -> Iterator[None]:
        """Inside, the program may run; a site of the other library raises."""
        with ExitStack() as stack:
            stack.enter_context(backends.tripwire(self.backend.name))
            stack.enter_context(self.program.session(seed, train=train))
            yield


def no_guide(*args: Any, **kwargs: Any) -> None:
    """The guide of a model without latents."""


def choose_backend(model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], backend: str | None) -> Any:
    """The backend module, asked for or noticed."""
    return backends.get(backend or backends.detect(model, guide, args, kwargs))


def prepare(
    model: Any,
    guide: Any,
    batch: Batch,
    *,
    backend: Any,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
    seed: int = 0,
    device: str = "cpu",
    row_plates: Any = (),
    bad: tuple[str, str] | None = None,
    unsummed: str | None = None,
) -> Prepared:
    """Read the program on `batch` and plan.

    Raises:
        ProgramError: anything that would make training wrong or silent.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles: expected 1 or more; got {num_particles}.")
    program, before = backend.Program(model, guide, seed=seed, device=device), numbers(model, guide)
    program.row_plates = row_plates
    with backends.tripwire(backend.name), program.session(seed):
        try:
            facts = backend.read(program, batch)
        except Exception as error:
            where = plain_list([*enumerate(batch.args), *batch.kwargs.items()])
            told = isinstance(error, ProgramError) and error.__cause__ is None
            if where is not None and not told:
                raise ProgramError(
                    f"{where}: expected an array; got a list of numbers, which is passed on as it is, and the program could not "
                    f"take it ({type(error).__name__}: {error}). Pass numpy.array of it."
                ) from error
            if isinstance(error, ProgramError) or bad is None:
                raise
            raise _not_finite(bad) from error
        if bad is not None and not backend.is_finite(program, batch):  # what the program masks or replaces does no harm
            raise _not_finite(bad)
        facts = replace(facts, notes=(*facts.notes, *_said_of_counters(before, numbers(model, guide))))
        idle = checks.check_params(facts, program.statements, PARAM)
        plan = make_plan(replace(facts, unsummed=unsummed), estimators, num_particles)
    check_host(backend, program, plan, batch, seed)
    return Prepared(backend, program, plan, start_baselines(facts, plan, seed), idle)


def _said_of_counters(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    moved = [name for name, value in after.items() if before.get(name, value) != value]
    return [
        f"the program changes {name} from run to run: it was read as it is at first, and what it does with later values of that "
        "was not looked at"
        for name in moved
    ]


def _not_finite(bad: tuple[str, str]) -> ProgramError:
    return ProgramError(f"{bad[0]}: expected finite values; got {bad[1]}. Remove, impute or mask such rows.")


def own_objective(model: Any) -> Any:
    """The objective that a model is made for; the ELBO where it names none."""
    return model_of(model).objective or ELBO()


def under(prepared: Prepared, objective: Any, seed: int, batch: Batch) -> Prepared:
    """The same program with the plan that `objective` uses.

    Raises:
        TypeError: no objective.
        ProgramError: the objective would be wrong under the plan, or for the data in `batch`.
    """
    if isinstance(objective, type) or not hasattr(objective, "accept"):
        raise TypeError(
            f"objective: expected an instance such as ELBO(); got {objective!r}. Pass an instance from ppl_gen.objectives."
        )
    plan = accepted(prepared, prepared.plan, objective, seed, batch)
    return replace(prepared, plan=plan, start=start_baselines(plan.facts, plan, seed))


def accepted(prepared: Prepared, plan: Plan, objective: Any, seed: int, batch: Batch) -> Plan:
    """`plan` as `objective` uses it on batches of the kind of `batch`.

    Raises:
        ProgramError: the objective would be wrong under the plan, or for the data in `batch`.
    """
    plan = objective.accept(plan)
    if objective.dreams and len(plan):
        with prepared.session():
            check_dreams(partial(prepared.backend.dream, prepared.program), batch, seed)
    return plan


def start_baselines(facts: Facts, plan: Plan, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Initial weights and averages of every baseline."""
    rng = np.random.default_rng(seed)
    weights, averages = {}, {}
    for name, row in plan.rows.items():
        weights[name], averages[name] = row.estimator.start(facts.sites["guide", name], rng)
    return weights, averages
