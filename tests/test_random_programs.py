"""Estimators and objectives on programs that nobody wrote: random graphs of sites, against enumeration and quadrature.

Each program has up to four latents (binary, categorical, vectors of bits, at most one normal) in and out of a plate,
with random parents in model and guide, an observation, an objective drawn at random, and at each latent an estimator
drawn from those that are right there under that objective. |z| of every gradient component stays below 5: with about
10 components in each of 40 programs a false alarm has probability 2.3e-4 (200 programs, with PPL_GEN_NIGHTLY=1:
1.1e-3). Examples are derandomized: the same each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ppl_gen import estimators as es
from ppl_gen import infer
from ppl_gen.backends import reference
from ppl_gen.estimators import Estimator, make_plan
from ppl_gen.language import dist, factor, param, plate, sample, xp
from ppl_gen.objectives import ELBO, Bound, ImportanceWeighted, Renyi
from tests.small_programs import Case
from tests.test_objectives import Spec, exact_bound, log_mean, power, slopes

EXAMPLES = 200 if os.environ.get("PPL_GEN_NIGHTLY") == "1" else 40
SIZE = 2  # elements of the plate
BOUND = 5.0


@dataclass(frozen=True)
class Node:
    """One latent: its kind, whether it is in the plate, its parents in the model and in the guide."""

    kind: str
    inside: bool
    model_parents: tuple[int, ...]
    guide_parents: tuple[int, ...]
    weights: tuple[float, ...]


def wide(value: Any, node: Node) -> Any:
    """A value as one float per plate element (or one in all): categories and vectors of bits weighed together."""
    value = xp.astype(value, xp.float32)
    return value[..., 0] - 1.5 * value[..., 1] if node.kind == "bits" else value


def push(nodes: tuple[Node, ...], parents: tuple[int, ...], values: list[Any], inside: bool, weights: Any) -> Any:
    """The parents' influence, shaped like what they influence; a plate's elements are summed on the way out."""
    total: Any = 0.0
    for weight, parent in zip(weights, parents, strict=False):
        value = values[parent]
        total = total + weight * (xp.sum(value) if nodes[parent].inside and not inside else value)
    return total


def distribution(node: Node, shift: Any, free: Any) -> Any:
    """The node's distribution; `free` is its own parameter, a number or an array of logits."""
    if node.kind == "normal":
        return dist.Normal(0.5 * shift + free, 0.8)
    if node.kind == "category":
        steps = xp.asarray([0.4, -0.3, 0.1])
        return dist.Categorical(
            logits=free + steps * (shift[..., None] if hasattr(shift, "ndim") and shift.ndim else shift)
        )
    if node.kind == "bits":
        return dist.Bernoulli(logits=free + xp.stack([shift + xp.zeros(()), -shift + xp.zeros(())], axis=-1)).to_event(
            1
        )
    return dist.Bernoulli(logits=free + shift)


SHAPES = {"bit": (), "normal": (), "category": (3,), "bits": (2,)}


def programs(nodes: tuple[Node, ...]) -> tuple[Callable[..., None], Callable[..., None]]:
    """(model, guide) of a graph."""

    def walk(role: str) -> list[Any]:
        values: list[Any] = []
        for i, node in enumerate(nodes):
            shape = ((SIZE,) if node.inside else ()) + SHAPES[node.kind]
            start = 0.3 * np.cos(np.arange(np.prod(shape, dtype=int)) + i + 1).reshape(shape)
            free: Any = xp.asarray(start.astype(np.float32))
            if role == "guide":
                free = param(f"q{i}", free)
            parents = node.guide_parents if role == "guide" else node.model_parents
            shift = push(nodes, parents, values, node.inside, node.weights)
            if node.inside:
                with plate("rows", SIZE):
                    value = sample(f"z{i}", distribution(node, shift + xp.zeros(SIZE), free))
            else:
                value = sample(f"z{i}", distribution(node, shift, free))
            values.append(wide(value, node))
        return values

    def model(x: Any) -> None:
        values = walk("model")
        everyone = tuple(range(len(nodes)))
        loc = push(nodes, everyone, values, True, (0.9, -0.7, 0.6, 0.8)) + param("shift", xp.asarray(0.2))
        with plate("rows", SIZE):
            sample("x", dist.Normal(loc + xp.zeros(SIZE), 0.9), obs=x)

    def guide(x: Any) -> None:
        walk("guide")

    return model, guide


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    """One to four nodes; small enough that all branches can be run through."""
    nodes: list[Node] = []
    values = 1.0
    for i in range(draw(st.integers(1, 4))):
        kinds = ["bit", "category", "bits"] + ["normal"] * all(node.kind != "normal" for node in nodes)
        kind, inside = draw(st.sampled_from(kinds)), draw(st.booleans())
        levels = {"bit": 2, "category": 3, "bits": 4, "normal": 24}[kind] ** (SIZE if inside else 1)
        if values * levels > 300:
            break
        values *= levels
        some = st.lists(st.integers(0, i - 1), unique=True, max_size=2).map(tuple) if i else st.just(())
        weights = draw(st.tuples(*[st.sampled_from([-1.1, 0.7, 1.3])] * 2))
        nodes.append(Node(kind, inside, draw(some), draw(some), weights))
    return tuple(nodes) if nodes else (Node("bit", False, (), (), (1.0, 1.0)),)


OBSERVED = np.array([0.4, -0.9])


AIMS: dict[str, tuple[Bound, int]] = {
    "ELBO": (ELBO(), 1),
    "ELBO, two particles": (ELBO(), 2),
    "closed divergence": (ELBO(analytic_kl=True), 1),
    "importance-weighted": (ImportanceWeighted(), 2),
    "Renyi": (Renyi(0.5), 2),
}


def exact(nodes: tuple[Node, ...], params: Any, aim: str) -> dict[str, np.ndarray]:
    """The gradient of minus the bound, by enumeration and quadrature."""
    model, guide = programs(nodes)
    objective, particles = AIMS[aim]
    if isinstance(objective, ELBO):
        return reference.gradient(model, guide, (OBSERVED,), params)
    combine = power(objective.alpha) if isinstance(objective, Renyi) else log_mean
    # the plate's elements have weights of their own where all latents stand in it
    spec = Spec("random", (-1,) if all(node.inside for node in nodes) else ())
    case = Case("random", model, guide, (OBSERVED,), "")
    return slopes(lambda p: -exact_bound(case, spec, p, particles, combine), params)


def mixture(nodes: tuple[Node, ...], picks: tuple[int, ...], aim: str) -> dict[str, Estimator]:
    """An estimator for each latent, of those that are right there; those that the objective refuses are left out."""
    model, guide = programs(nodes)
    objective, particles = AIMS[aim]
    plan = infer.plan(model, guide, OBSERVED, backend="jax", num_particles=particles)
    asked: dict[str, Estimator] = {}
    for site, pick in zip(plan.facts.latents(), picks, strict=False):
        right = [e for e in UNBIASED if e.refusal(site, plan.facts, particles) is None]
        more = {**asked, site.name: right[pick % len(right)]}
        if objective.refusal(make_plan(plan.facts, more, particles)) is None:
            asked = more
    return asked


KINDS = [getattr(es, name) for name in es.__all__]
UNBIASED = [
    k() for k in KINDS if isinstance(k, type) and issubclass(k, Estimator) and k is not Estimator and k.unbiased
]


def z_scores(nodes: tuple[Node, ...], asked: dict[str, Estimator] | None, aim: str, backend: str) -> tuple[float, str]:
    """(largest |z|, what was at work)."""
    model, guide = programs(nodes)
    objective, particles = AIMS[aim]
    params = reference.initial_params(model, guide, (OBSERVED,))
    truth = exact(nodes, params, aim)
    draws = infer.gradient(
        model, guide, OBSERVED, estimators=asked, num_samples=400 if backend == "torch" else 1500, params=params,
        num_particles=particles, objective=objective, backend=backend, seed=3,
    )  # fmt: skip
    worst = 0.0
    for key, value in truth.items():
        found = draws[key].reshape(len(draws[key]), -1).astype(float)
        error = np.maximum(found.std(0, ddof=1) / np.sqrt(len(found)), 2e-4 * (1 + np.abs(value.ravel())))
        worst = max(worst, float((np.abs(found.mean(0) - value.ravel()) / error).max()))
    return worst, f"{asked} under {aim} on {backend}"


SETTINGS = settings(
    max_examples=EXAMPLES // 2,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@SETTINGS
@given(
    nodes=graphs(),
    picks=st.tuples(*[st.integers(0, 10**6)] * 4),
    aim=st.sampled_from(list(AIMS)),
    torch=st.sampled_from([False] * 3 + [True]),
)
def test_any_estimators_together_are_unbiased_on_any_program(nodes: Any, picks: Any, aim: str, torch: bool) -> None:
    worst, how = z_scores(nodes, mixture(nodes, picks, aim), aim, "torch" if torch else "jax")
    assert worst < BOUND, how


@SETTINGS
@given(nodes=graphs(), aim=st.sampled_from(list(AIMS)), torch=st.booleans())
def test_the_automatic_choice_is_unbiased_on_any_program(nodes: Any, aim: str, torch: bool) -> None:
    worst, how = z_scores(nodes, None, aim, "torch" if torch else "jax")
    assert worst < BOUND, how


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
