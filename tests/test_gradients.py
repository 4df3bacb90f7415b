"""Gradients of small programs against exact enumeration and quadrature, per parameter.

Each component's z = (mean - exact) / standard error of the mean. Bound 5: for a normal z a false alarm has probability
5.7e-7 per component; the table holds about 400 components x estimators x backends, so 2.3e-4 for a whole run (seeds are
fixed, so it either happens or never does). A component counts as powerful where the exact value is more than 60 standard
errors away from zero: a 10 % bias, or a zero gradient, would then show as |z| > 6.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Constant, Enumerate, Estimator, LeaveOneOut, MovingAverage, Score
from ppl_gen.language import dist, param, plate, sample, xp
from ppl_gen.testing import BOUND, z_scores
from tests import reference
from tests.small_programs import CASES

NUM_SAMPLES = {"torch": 400, "jax": 2000}
ESTIMATORS: dict[str, tuple[Estimator | None, int]] = {
    "score": (Score(Constant(0.3)), 1),
    "leave_one_out": (LeaveOneOut(), 3),
    "enumerate": (Enumerate(), 1),
}


@cache
def exact(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, gradient of minus the ELBO there)."""
    case = CASES[name]
    params = reference.initial_params(case.model, case.guide, case.data)
    return params, reference.gradient(case.model, case.guide, case.data, params, case.breaks)


def estimate(
    name: str, backend: str, estimator: Estimator | None, particles: int, num_samples: int, seed: int = 1
) -> Any:
    """Independent estimates of the same gradient: name -> (num_samples, *shape)."""
    case = CASES[name]
    return infer.gradient(
        case.model,
        case.guide,
        case.data,
        estimators=None if estimator is None else {"*": estimator},
        num_samples=num_samples,
        num_particles=particles,
        backend=backend,
        params=exact(name)[0],
        seed=seed,
    )


DISCRETE = [
    "bernoulli", "categorical", "bernoulli_chain", "discrete_to_continuous", "continuous_to_discrete", "auxiliary_bernoulli",
    "gaussian_mixture", "discrete_through_mlp", "global_and_local", "nested_plates", "sibling_plates", "crossed_plates",
    "subsampled_plate", "sum_over_plate", "latent_index", "masked_latents", "masked_elements", "bernoulli_factor",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_unbiased(name: str, backend: str) -> None:
    draws = estimate(name, backend, None, 1, NUM_SAMPLES[backend])
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", DISCRETE)
def test_every_estimator_is_unbiased(name: str, estimator: str) -> None:
    # the objective and the estimators are one text for both backends, and the automatic choice runs on both above
    asked, particles = ESTIMATORS[estimator]
    draws = estimate(name, "torch", asked, particles, 50 if estimator == "enumerate" else 300)
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize("estimator", ["leave_one_out", "enumerate"])
def test_other_estimators_run_on_jax_too(estimator: str) -> None:
    asked, particles = ESTIMATORS[estimator]
    assert z_scores(estimate("nested_plates", "jax", asked, particles, 2000), exact("nested_plates")[1]).max() < BOUND


@pytest.mark.parametrize(
    "name", ["bernoulli", "bernoulli_chain", "nested_plates", "gaussian_mixture", "step_cost", "lognormal"]
)
def test_a_ten_percent_bias_would_show(name: str) -> None:
    """Power: the same test, with enough draws, rejects 0.9 of the gradient and a zero gradient."""
    draws = estimate(name, "jax", None, 1, 40_000)
    truth = exact(name)[1]
    assert z_scores(draws, truth).max() < BOUND
    assert z_scores({k: 0.9 * v for k, v in draws.items()}, truth).max() > BOUND
    assert z_scores({k: 0.0 * v for k, v in draws.items()}, truth).max() > BOUND


@pytest.mark.parametrize("name", ["bernoulli", "nested_plates", "gaussian_mixture"])
def test_a_moving_average_does_not_bias(name: str) -> None:
    draws = estimate(name, "jax", Score(MovingAverage()), 1, 2000)
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "bernoulli_chain"])
def test_enumerated_gradient_has_no_variance(name: str, backend: str) -> None:
    draws = estimate(name, backend, Enumerate(), 1, 4)
    for key, value in exact(name)[1].items():
        np.testing.assert_allclose(draws[key].reshape(4, -1), np.tile(np.ravel(value), (4, 1)), rtol=1e-4, atol=1e-5)


def test_leave_one_out_has_less_variance_than_no_baseline() -> None:
    plain = estimate("bernoulli_chain", "torch", Score(Constant(0.0)), 3, 300)
    better = estimate("bernoulli_chain", "torch", LeaveOneOut(), 3, 300)
    assert all(better[k].var() < 0.8 * plain[k].var() for k in plain)


def test_enumerate_refuses_elements_that_meet(backend: str) -> None:
    case = CASES["sum_over_plate"]
    site = next(iter(infer.plan(case.model, case.guide, case.data, backend=backend)))
    with pytest.raises(ProgramError, match="side by side"):
        infer.plan(case.model, case.guide, case.data, backend=backend, estimators={site: Enumerate()})


def test_same_seed_gives_the_same_gradients(backend: str) -> None:
    first, second = (estimate("global_and_local", backend, None, 1, 5) for _ in range(2))
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_measured_variance_is_that_of_the_gradients(backend: str) -> None:
    """One site that all parameters reach: 200 draws against 200 others, each variance known to about 15 %."""
    case = CASES["bernoulli"]
    options: dict[str, Any] = {"backend": backend, "estimators": {"*": Score(Constant(0.5))}}
    plan = infer.plan(case.model, case.guide, case.data, measure=True, seed=3, **options)
    draws = infer.gradient(case.model, case.guide, case.data, num_samples=200, seed=4, **options)
    site = next(iter(plan))
    reached = [n for n in draws if "param:" + n in plan.facts.sites["guide", site].reach]
    expected = sum(draws[n].var(0, ddof=1).sum() for n in reached)
    assert 0.5 < plan[site].variance / expected < 2.0
    assert infer.plan(case.model, case.guide, case.data, **options)[site].variance is None


def test_a_parameter_without_elements_has_a_gradient_without_elements(backend: str) -> None:
    def model(x: Any) -> None:
        shift = param("shift", xp.asarray(0.5)) + xp.sum(param("empty", xp.zeros((0, 3))))
        with plate("rows", 3):
            z = xp.astype(sample("z", dist.Bernoulli(0.5)), xp.float32)
            sample("x", dist.Normal(shift + z, 1.0), obs=x)

    def guide(x: Any) -> None:
        with plate("rows", 3):
            sample("z", dist.Bernoulli(logits=param("at", xp.zeros(3))))

    draws = infer.gradient(model, guide, np.ones(3), backend=backend, num_samples=1003)
    assert draws["empty"].shape == (1003, 0, 3) and draws["shift"].shape == (1003,) and draws["shift"].std() > 0
