"""`infer.plan` and `infer.gradient`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_gen.backends.checks import check_gradients
from ppl_gen.backends.seeds import as_seed
from ppl_gen.estimators import Estimator, Plan
from ppl_gen.evaluate.measure import best_plan, with_plan
from ppl_gen.evaluate.measure import measure as run_measure
from ppl_gen.infer.arguments import check_choices, check_program
from ppl_gen.infer.automatic import automatic, converter, prepare_any, resized
from ppl_gen.program import Batch
from ppl_gen.training.batches import Table, as_arguments, check_data
from ppl_gen.training.model import model_of
from ppl_gen.training.prepare import Prepared, choose_backend, own_objective, under
from ppl_gen.training.trainer import sample_gradients


def read(
    model: Any, guide: Any, data: Any, backend: str | None, params: Mapping[str, Any] | None, **options: Any
) -> tuple[Prepared, Batch]:
    """The program, read on the whole data as one batch."""
    check_program(model, guide, data, backend)
    check_choices(options.get("estimators"), options.get("num_particles", 1))
    args, kwargs = as_arguments(data)
    parts = model_of(model)
    bad = None if parts.encode else check_data(args, kwargs)
    guide = parts.guide if guide is None else guide
    module = choose_backend(model, guide, args, kwargs, backend)
    source = Table(parts.encoded(data), None, 0, converter(module, "cpu"))
    batch = source.first()
    makers = [lambda: guide]
    if guide is None:
        makers = automatic(model, module, source.num_rows, batch, resized(source), options.get("seed", 0), "cpu")
    prepared = prepare_any(model, makers, batch, backend=module, bad=bad, **options)
    if params is not None:
        module.set_params(prepared.program, params)
    return prepared, batch


def plan(
    model: Any,
    guide: Any = None,
    data: Any = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
    objective: Any = None,
    backend: str | None = None,
    seed: Any = 0,
    measure: bool = False,
) -> Plan:
    """Which gradient estimator each latent site gets, and why, without training.

    Args:
        model: a Pyro, NumPyro or portable program.
        guide: the program that proposes its latents; None takes the model's own, else a mean-field one, with
            finite latents left out where they can be summed out.
        data: one argument, a tuple of positional or a dict of keyword arguments.
        estimators: site name or ``"*"`` -> estimator instance, to overrule the choice.
        num_particles: draws per step.
        objective: what will be trained on, which may rule estimators out; None means the model's own, else the ELBO.
        backend: "torch" or "jax"; None notices it.
        seed: of the first run.
        measure: try every unbiased estimator wherever it suits a discrete site, and each site's best together, at the
            initial parameters with baselines trained for 200 steps, and keep the plan with the least variance times
            runs of the whole step. The column `variance` is then filled: over 200 single-step gradients, the sum over
            the components of all parameters that reach the site's distribution in the guide.

    Returns:
        The plan; `print` shows it as a table.

    Raises:
        ProgramError: the program or the data cannot be trained with; the message names the site.
        TypeError: `objective` is none.
    """
    seed = as_seed(seed)
    prepared, batch = read(
        model, guide, data, backend, None, estimators=estimators, num_particles=num_particles, seed=seed
    )
    objective = own_objective(model) if objective is None else objective
    prepared = under(prepared, objective, seed, batch)
    if measure:
        best: Plan = objective.accept(best_plan(prepared, batch, estimators or {}, seed, objective))
        found = run_measure(with_plan(prepared, best, seed), batch, 200, seed, objective)
        for name, row in best.rows.items():
            best.rows[name] = replace(row, variance=found.of_site(name))
        return best
    return prepared.plan


def gradient(
    model: Any,
    guide: Any = None,
    data: Any = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_samples: int = 1,
    num_particles: int = 1,
    objective: Any = None,
    backend: str | None = None,
    params: Mapping[str, Any] | None = None,
    seed: Any = 0,
) -> dict[str, np.ndarray]:
    """Independent single-step estimates of the gradient of the loss (for the ELBO: of minus the ELBO).

    Args:
        model: a Pyro, NumPyro or portable program.
        guide: the program that proposes its latents; None takes the model's own, else a mean-field one, with
            finite latents left out where they can be summed out.
        data: one argument, a tuple of positional or a dict of keyword arguments.
        estimators: site name or ``"*"`` -> estimator instance, to overrule the choice.
        num_samples: how many estimates.
        num_particles: draws per estimate.
        objective: None means the model's own, else the ELBO.
        backend: "torch" or "jax"; None notices it.
        params: parameter name -> array in unconstrained space; None means the program's own initial values.
        seed: of the draws.

    Returns:
        Parameter name -> array (num_samples, *shape in unconstrained space), nats per unit.

    Raises:
        ProgramError: the program or the data cannot be trained with; the message names the site.
        NonFinite: an estimate is NaN or infinite; the message names the parameter.
    """
    seed = as_seed(seed)
    prepared, batch = read(
        model, guide, data, backend, params, estimators=estimators, num_particles=num_particles, seed=seed
    )
    objective = own_objective(model) if objective is None else objective
    prepared = under(prepared, objective, seed, batch)
    found = sample_gradients(prepared, objective, batch, num_samples, seed)
    check_gradients(found)
    return found
