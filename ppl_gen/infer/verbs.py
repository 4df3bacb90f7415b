"""`infer.plan` and `infer.gradient`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ppl_gen.backends.checks import check_gradients
from ppl_gen.backends.interface import Callback, Data, Seed
from ppl_gen.backends.seeds import as_seed
from ppl_gen.estimators import Estimator, Plan
from ppl_gen.evaluate.measure import measure as run_measure
from ppl_gen.evaluate.selection import best_plan
from ppl_gen.infer.reading import read
from ppl_gen.objectives import Bound
from ppl_gen.training.prepare import own_objective, under, with_plan
from ppl_gen.training.step import Objective
from ppl_gen.training.trainer import sample_gradients


def plan(
    model: Callback,
    guide: Callback | None = None,
    data: Data = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_particles: int = 1,
    objective: Bound | None = None,
    backend: str | None = None,
    device: str = "auto",
    seed: Seed = 0,
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
        device: "auto" takes a GPU where the backend sees one and the program can run there; or a name, such as "cpu" or
            "cuda:1", which is used or refused.
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
        ValueError: there is no such device.
    """
    seed = as_seed(seed)
    choices: dict[str, Any] = {"device": device, "estimators": estimators, "num_particles": num_particles, "seed": seed}
    prepared, batch = read(model, guide, data, backend, None, **choices)
    objective = own_objective(model) if objective is None else objective
    prepared = under(prepared, objective, seed, batch)
    if measure:
        best = objective.accept(best_plan(prepared, batch, estimators or {}, seed, objective))
        found = run_measure(with_plan(prepared, best, seed), batch, 200, seed, objective)
        for name, row in best.rows.items():
            best.rows[name] = replace(row, variance=found.of_site(name))
        return best
    return prepared.plan


def gradient(
    model: Callback,
    guide: Callback | None = None,
    data: Data = None,
    *,
    estimators: Mapping[str, Estimator] | None = None,
    num_samples: int = 1,
    num_particles: int = 1,
    objective: Objective | None = None,
    backend: str | None = None,
    device: str = "auto",
    params: Mapping[str, Any] | None = None,
    seed: Seed = 0,
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
        device: "auto" takes a GPU where the backend sees one and the program can run there; or a name, such as "cpu" or
            "cuda:1", which is used or refused.
        params: parameter name -> array in unconstrained space; None means the program's own initial values.
        seed: of the draws.

    Returns:
        Parameter name -> array (num_samples, *shape in unconstrained space), nats per unit.

    Raises:
        ProgramError: the program or the data cannot be trained with; the message names the site.
        NonFinite: an estimate is NaN or infinite; the message names the parameter.
        ValueError: there is no such device.
    """
    seed = as_seed(seed)
    choices: dict[str, Any] = {"device": device, "estimators": estimators, "num_particles": num_particles, "seed": seed}
    prepared, batch = read(model, guide, data, backend, params, **choices)
    objective = own_objective(model) if objective is None else objective
    prepared = under(prepared, objective, seed, batch)
    found = sample_gradients(prepared, objective, batch, num_samples, seed)
    check_gradients(found)
    return found
