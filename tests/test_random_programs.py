"""Estimators and objectives on programs that nobody wrote (`random_programs`), against enumeration and quadrature.

An objective is drawn at random, and at each latent an estimator of those that are right there under that objective. Where
something is hidden the plan is made at one place and used at another, as a fit does: other data, and parameters that
have moved. |z| of every gradient component stays below 5: with about 10 components in each of 60 programs a false alarm has
probability 3.4e-4 (400 programs, with PPL_GEN_NIGHTLY=1: 2.3e-3). Examples are derandomized: the same each time.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ppl_gen import estimators as es
from ppl_gen import infer
from ppl_gen.estimators import Estimator, make_plan
from ppl_gen.infer.automatic import converter
from ppl_gen.infer.reading import read
from ppl_gen.language import dist, factor, param, sample, xp
from ppl_gen.objectives import ELBO, Bound, ImportanceWeighted, Renyi
from ppl_gen.training.batches import Table
from ppl_gen.training.prepare import under
from ppl_gen.training.trainer import sample_gradients
from tests import reference
from tests.random_programs import MIXING, ON_TORCH, PLAIN, POLES, Node, graphs, programs, twisted_graphs
from tests.small_programs import Case
from tests.test_objectives import Spec, exact_bound, log_mean, power, slopes

EXAMPLES = 400 if os.environ.get("PPL_GEN_NIGHTLY") == "1" else 60
BOUND = 5.0
Nodes = tuple[Node, ...]


FIRST = (np.array([0.4, -0.9]), np.float32(0.0))  # the batch that the program is read on
LATER = (np.array([-0.7, 1.2]), np.float32(1.0))  # and the one it is trained on
OBSERVED = FIRST[0]


AIMS: dict[str, tuple[Bound, int]] = {
    "ELBO": (ELBO(), 1),
    "ELBO, two particles": (ELBO(), 2),
    "closed divergence": (ELBO(analytic_kl=True), 1),
    "importance-weighted": (ImportanceWeighted(), 2),
    "Renyi": (Renyi(0.5), 2),
}


def breaks(nodes: Nodes) -> dict[str, tuple[float, ...]]:
    """Normal site -> where the cost may jump in its value."""
    return {f"z{i}": node.breaks for i, node in enumerate(nodes) if node.breaks}


def exact(nodes: Nodes, params: Any, aim: str) -> dict[str, np.ndarray]:
    """The gradient of minus the bound on the later batch, by enumeration and quadrature."""
    model, guide = programs(nodes)
    objective, particles = AIMS[aim]
    if isinstance(objective, ELBO):
        return reference.gradient(model, guide, LATER, params, breaks(nodes))
    combine = power(objective.alpha) if isinstance(objective, Renyi) else log_mean
    # the plate's elements have weights of their own where all latents stand in it and none reaches another's cost
    apart = all(node.inside and node.twist == PLAIN for node in nodes)
    case = Case("random", model, guide, LATER, "", breaks(nodes))
    return slopes(lambda p: -exact_bound(case, Spec("random", (-1,) if apart else ()), p, particles, combine), params)


def mixture(nodes: Nodes, picks: tuple[int, ...], aim: str, backend: str, seed: int) -> dict[str, Estimator]:
    """An estimator for each latent, of those that are right there; those that the objective refuses are left out."""
    model, guide = programs(nodes)
    objective, particles = AIMS[aim]
    plan = infer.plan(model, guide, FIRST, backend=backend, num_particles=particles, seed=seed)
    asked: dict[str, Estimator] = {}
    for site, pick in zip(plan.facts.latents(), picks, strict=False):
        right = [e for e in UNBIASED if e.refusal(site, plan.facts, particles) is None]
        more = {**asked, site.name: right[pick % len(right)]}
        if objective.refusal(make_plan(plan.facts, more, particles)) is None:
            asked = more
    return asked


def moved(nodes: Nodes) -> dict[str, np.ndarray]:
    """Parameters some steps after their start."""
    params = reference.initial_params(*programs(nodes), FIRST)
    shift = {"a": 0.9}
    return {name: np.asarray(value + shift.get(name, -0.2)) for name, value in params.items()}


def later_draws(
    nodes: Nodes, asked: dict[str, Estimator] | None, aim: str, backend: str, seed: int, params: Any
) -> dict[str, np.ndarray]:
    """Single-step gradients on the later batch, at these parameters, by the plan that was made on the first."""
    objective, particles = AIMS[aim]
    prepared, batch = read(
        *programs(nodes), FIRST, backend, params, estimators=asked, num_particles=particles, seed=seed
    )
    prepared, module = under(prepared, objective, seed, batch), prepared.backend
    later, count = Table(LATER, None, 0, converter(module, "cpu")).first(), 400 if backend == "torch" else 1500
    if all(isinstance(row.estimator, es.Enumerate) for row in prepared.plan.rows.values()):
        count = 2  # there is no noise
    return sample_gradients(prepared, objective, later, count, seed)


KINDS = [getattr(es, name) for name in es.__all__]
UNBIASED = [
    k() for k in KINDS if isinstance(k, type) and issubclass(k, Estimator) and k is not Estimator and k.unbiased
]


def z_scores(
    nodes: Nodes, asked: dict[str, Estimator] | None, aim: str, backend: str, seed: int, params: Any
) -> tuple[float, str]:
    """(largest |z|, what was at work)."""
    truth, worst = exact(nodes, params, aim), 0.0
    draws = later_draws(nodes, asked, aim, backend, seed, params)
    for key, value in truth.items():
        found = draws[key].reshape(len(draws[key]), -1).astype(float)
        assert np.isfinite(found).all(), key
        error = np.maximum(found.std(0, ddof=1) / np.sqrt(len(found)), 2e-4 * (1 + np.abs(value.ravel())))
        worst = max(worst, float((np.abs(found.mean(0) - value.ravel()) / error).max()))
    return worst, f"{asked or 'the automatic choice'} under {aim} on {backend}, seed {seed}"


def check(nodes: Nodes, how: Any, aim: str, backend: str, seed: int, start: bool) -> None:
    """`how` is "automatic", "enumerated" or picks of estimators; `start` keeps the parameters where they begin."""
    params = reference.initial_params(*programs(nodes), FIRST) if start else moved(nodes)
    asked: Any = {"automatic": None, "enumerated": {"*": es.Enumerate()}}.get(how) if isinstance(how, str) else None
    if not isinstance(how, str):
        asked = mixture(nodes, how, aim, backend, seed)
    worst, label = z_scores(nodes, asked, aim, backend, seed, params)
    assert worst < BOUND, f"|z| = {worst:.1f}: {label}"


def claims(share: float) -> Any:
    """That many of the examples, the same each time."""
    return settings(
        max_examples=round(EXAMPLES * share),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )


ANY_PICKS = st.tuples(*[st.integers(0, 10**6)] * 4)
ANY_AIM = st.sampled_from(list(AIMS))
SEEDS = st.integers(0, 3)
# JAX compiles each program; estimators and objectives are one text for both
MOSTLY_TORCH = st.sampled_from(["torch"] * (5 if EXAMPLES == 400 else 11) + ["jax"])


@claims(1 / 6)
@given(graphs(), ANY_PICKS, ANY_AIM, MOSTLY_TORCH, SEEDS, st.booleans())
def test_any_estimators_together_are_unbiased_on_any_program(
    nodes: Any, picks: Any, aim: str, backend: str, seed: int, start: bool
) -> None:
    check(nodes, picks, aim, backend, seed, start)


@claims(1 / 6)
@given(graphs(), ANY_AIM, MOSTLY_TORCH, SEEDS, st.booleans())
def test_the_automatic_choice_is_unbiased_on_any_program(
    nodes: Any, aim: str, backend: str, seed: int, start: bool
) -> None:
    check(nodes, "automatic", aim, backend, seed, start)


@claims(1 / 6)
@given(twisted_graphs(host=False), ANY_PICKS, ANY_AIM, MOSTLY_TORCH, SEEDS, st.booleans())
def test_any_estimators_together_are_unbiased_where_a_run_hides_what_later_ones_do(
    nodes: Any, picks: Any, aim: str, backend: str, seed: int, start: bool
) -> None:
    check(nodes, picks, aim, backend, seed, start)


@claims(1 / 6)
@given(twisted_graphs(host=False), ANY_AIM, MOSTLY_TORCH, SEEDS, st.booleans())
def test_the_automatic_choice_is_unbiased_where_a_run_hides_what_later_ones_do(
    nodes: Any, aim: str, backend: str, seed: int, start: bool
) -> None:
    check(nodes, "automatic", aim, backend, seed, start)


@claims(1 / 6)
@given(twisted_graphs(host=False), MOSTLY_TORCH, SEEDS, st.booleans())
def test_enumeration_leaves_nothing_out_where_a_run_hides_what_later_ones_do(
    nodes: Any, backend: str, seed: int, start: bool
) -> None:
    """Finite latents leave no noise, so that any term that is missing shows."""
    check(nodes, "enumerated", "ELBO", backend, seed, start)


@claims(1 / 6)
@given(twisted_graphs(host=True), st.sampled_from(["automatic", "enumerated"]) | ANY_PICKS, SEEDS)
def test_a_program_that_branches_on_a_latent_has_unbiased_gradients(nodes: Any, how: Any, seed: int) -> None:
    check(nodes, how, "ELBO", "torch", seed, False)


@pytest.mark.parametrize("twist", [*MIXING, *POLES, *ON_TORCH])
def test_every_twist_matters(twist: str) -> None:
    """What the reference of a twisted program says is not what it says of the program without the twist."""
    kind = "normal" if twist in (*POLES, "branch to floor") else "bit"
    inside = twist == "gather"
    nodes = (Node("bit", inside, (), (), (0.7, 0.7)), Node(kind, kind == "bit", (0,), (), (0.7, 0.7), twist))
    params = moved(nodes)
    plain = tuple(replace(node, twist=PLAIN) for node in nodes)
    truth, other = exact(nodes, params, "ELBO"), exact(plain, {k: v for k, v in params.items() if k != "a"}, "ELBO")
    assert max(np.abs(truth[key] - other[key]).max() for key in other) > 0.02


def test_the_same_test_rejects_a_ten_percent_bias_and_a_zero_gradient() -> None:
    """Power, on one of these programs with enough draws."""
    nodes = (Node("bit", True, (), (), (1.3, 0.7)), Node("category", False, (0,), (0,), (0.7, 0.7)))
    model, guide = programs(nodes)
    params = reference.initial_params(model, guide, (OBSERVED,))
    truth = reference.gradient(model, guide, (OBSERVED,), params)
    draws = infer.gradient(model, guide, OBSERVED, num_samples=60_000, params=params, backend="jax")
    for scale, right in ((1.0, True), (0.9, False), (0.0, False)):
        z = [
            np.abs(scale * d.mean(0) - truth[k]) / np.maximum(scale * d.std(0) / np.sqrt(len(d)), 2e-4)
            for k, d in draws.items()
        ]
        assert (max(float(np.max(v)) for v in z) < BOUND) == right


@pytest.mark.parametrize("constant", [25.0])
def test_a_constant_in_the_cost_changes_nothing_in_the_mean(constant: float, backend: str) -> None:
    """A factor of 25 nats: the gradient's mean is that without it, and so is the variance with a baseline that knows it."""
    nodes = (Node("bit", True, (), (), (1.3, 0.7)),)
    model, guide = programs(nodes)

    def shifted(x: Any) -> None:
        model(x)
        factor("constant", xp.asarray(constant))

    params = reference.initial_params(model, guide, (OBSERVED,))
    truth = reference.gradient(model, guide, (OBSERVED,), params)
    draws = infer.gradient(shifted, guide, OBSERVED, num_samples=500, params=params, backend=backend)
    for key, value in truth.items():
        error = np.maximum(draws[key].std(0, ddof=1) / np.sqrt(500), 2e-4)
        assert np.all(np.abs(draws[key].mean(0) - value) < BOUND * error)
        assert np.all(error < 0.2)  # the constant moves no latent's cost: it is in no signal


def test_a_branch_and_a_where_are_one_program(backend: str) -> None:
    """Written with `if` the program runs eagerly; the same draws give the same gradients."""

    def guide(x: Any) -> None:
        sample("z", dist.Bernoulli(logits=param("logit", xp.asarray(0.4))))

    def with_where(x: Any) -> None:
        z = xp.astype(sample("z", dist.Bernoulli(0.3)), xp.float32)
        sample("x", dist.Normal(xp.where(z > 0.5, xp.asarray(1.5), xp.asarray(-1.0)), 1.0), obs=x)

    def with_if(x: Any) -> None:
        z = sample("z", dist.Bernoulli(0.3))
        sample("x", dist.Normal(1.5 if z > 0.5 else -1.0, 1.0), obs=x)

    one, other = (
        infer.gradient(m, guide, np.asarray(0.5), num_samples=40, backend=backend)["logit"]
        for m in (with_where, with_if)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert one.std() > 0.1
