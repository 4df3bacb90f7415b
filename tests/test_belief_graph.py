"""Claims about belief networks over graphs, and layers of several kinds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ppl_gen import infer, models
from ppl_gen.estimators import Pathwise, Score
from tests import reference
from tests.test_models import initial, terms

PARENTS = np.zeros((6, 6), dtype=bool)
for child, parent in ((2, 0), (2, 1), (3, 1), (4, 2), (4, 0), (5, 3), (5, 4)):
    PARENTS[child, parent] = True
GRAPH = models.BeliefGraph(PARENTS, observed=(4, 5, 0))
SHOWN = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
RNG = np.random.default_rng(0)


def by_hand(weights: dict[int, dict[int, float]], bias: Any, state: Any) -> float:
    """log p(state) by eq. 20.70, unit by unit."""
    total = 0.0
    for unit, value in enumerate(state):
        logit = bias[unit] + sum(weights.get(unit, {}).get(j, 0.0) * state[j] for j in range(len(state)))
        total += value * logit - np.log1p(np.exp(logit))
    return total


def parameters(graph: models.BeliefGraph, rng: Any) -> tuple[dict[str, Any], dict[int, dict[int, float]], Any]:
    """(the model's parameters, the same as weights by unit and parent, biases by unit)."""
    params, weights, bias, order = {}, dict[int, dict[int, float]](), np.zeros(len(graph.parents)), list[int]()
    for number, units in enumerate(graph.generations):
        params[f"generation.{number}.bias"] = start = rng.standard_normal(len(units))
        bias[list(units)] = start
        if order:
            table = rng.standard_normal((len(order), len(units)))
            params[f"generation.{number}.weight"] = table
            for column, unit in enumerate(units):
                weights[unit] = {j: table[row, column] for row, j in enumerate(order) if graph.parents[unit, j]}
        hidden = [u for u in units if u not in graph.observed]
        order += [*hidden, *(u for u in units if u in graph.observed)]
    return params, weights, bias


def test_the_log_joint_is_the_equations_unit_by_unit(backend: str) -> None:
    params, weights, bias = parameters(GRAPH, RNG)
    start = initial(backend, GRAPH, SHOWN)
    full = {**{n: v for n, v in start.items() if n.startswith("guide")}, **params}
    h0, h1 = (RNG.random((8, 1)) < 0.5) * 1.0, (RNG.random((8, 2)) < 0.5) * 1.0
    found = terms(backend, GRAPH, SHOWN.astype(np.float32), full, {"h0": h0.astype("f"), "h1": h1.astype("f")})
    states = np.column_stack([SHOWN[:, 2], h0[:, 0], h1[:, 0], h1[:, 1], SHOWN[:, 0], SHOWN[:, 1]])
    expected = sum(by_hand(weights, bias, state) for state in states)
    assert sum(v for (role, _), v in found.items() if role == "model") == pytest.approx(expected, rel=1e-5)
    judged = reference.log_joint(GRAPH, {"h0": h0, "h1": h1}, full, SHOWN)
    assert judged.total == pytest.approx(expected, rel=1e-9)


def test_the_bound_stays_below_the_exact_likelihood(backend: str) -> None:
    """Eight visible states, eight hidden ones: log p(x) by enumeration; training comes near and not above."""
    rows = SHOWN[RNG.integers(0, 8, 200)]
    fit = infer.fit(GRAPH, data=rows, steps=300, learning_rate=0.02, backend=backend)
    weights, bias, order = dict[int, dict[int, float]](), np.zeros(6), list[int]()
    for number, units in enumerate(GRAPH.generations):
        bias[list(units)] = fit.params[f"generation.{number}.bias"]
        if order:
            table = fit.params[f"generation.{number}.weight"]
            for column, unit in enumerate(units):
                weights[unit] = {j: table[r, column] for r, j in enumerate(order) if PARENTS[unit, j]}
        order += [*(u for u in units if u not in GRAPH.observed), *(u for u in units if u in GRAPH.observed)]
    exact = np.zeros(8)
    for row, (x4, x5, x0) in enumerate(SHOWN):
        states = [(x0, h[0], h[1], h[2], x4, x5) for h in itertools.product((0, 1), repeat=3)]
        exact[row] = np.log(sum(np.exp(by_hand(weights, bias, state)) for state in states))
    assert abs(np.exp(exact).sum() - 1) < 1e-5
    found = fit.log_prob(SHOWN, num_samples=2000)
    assert np.abs(found.value - exact).max() < 0.05  # an estimate from 2000 draws of 8 states
    assert (
        fit.losses[-50:].mean() / 200 > -exact @ np.bincount((rows @ [4, 2, 1]).astype(int), minlength=8) / 200 - 0.05
    )


def test_a_fully_visible_network_is_exact_and_sums_to_one(backend: str) -> None:
    graph, states = models.BeliefGraph.fully_visible(4), np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    fit = infer.fit(graph, data=states[[0, 3, 3, 9]], steps=50, learning_rate=0.05, backend=backend)
    found = fit.log_prob(states)
    assert found.kind == "exact" and abs(np.exp(found.value).sum() - 1) < 1e-5
    assert found.value[3] > np.log(1 / 16)


@pytest.mark.parametrize(
    ("parents", "observed", "message"),
    [
        (np.ones((2, 3)), (0,), "parents of shape"),
        (np.array([[0, 1], [1, 0]]), (0,), r"without cycles; got one through units \[0, 1\]"),
        (np.zeros((2, 2)), (), "each once"),
        (np.zeros((2, 2)), (0, 0), "each once"),
        (np.zeros((2, 2)), (2,), "among 0 .. 1"),
    ],
)
def test_a_wrong_graph_is_refused(parents: Any, observed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.BeliefGraph(parents, observed)


LAYERS = models.StochasticLayers(6, (models.Binary(4), models.Gaussian(3), models.Categories(2, 3)))
BITS = (RNG.random((5, 6)) < 0.4).astype(np.float32)


def test_layers_of_several_kinds_get_the_estimator_of_their_kind(backend: str) -> None:
    plan = infer.plan(LAYERS, LAYERS.guide, BITS, backend=backend)
    assert [type(plan[site].estimator) for site in ("h1", "h2", "h3")] == [Score, Pathwise, Score]
    fit = infer.fit(LAYERS, data=BITS, steps=40, backend=backend)
    assert np.isfinite(fit.losses).all() and fit.sample(3)["x"].shape[-1] == 6


def test_layers_of_several_kinds_agree_with_the_reference(backend: str) -> None:
    values = {
        "h1": (RNG.random((5, 4)) < 0.5).astype(np.float32),
        "h2": RNG.standard_normal((5, 3)).astype(np.float32),
        "h3": RNG.integers(0, 3, (5, 2)),
    }
    start = initial(backend, LAYERS, BITS)
    params = {n: v + 0.3 * RNG.standard_normal(v.shape).astype(np.float32) for n, v in start.items()}
    unconstrained = dict(params)
    judged = reference.log_joint(LAYERS, values, unconstrained, BITS.astype(float)).sites
    found = terms(backend, LAYERS, BITS, params, values)
    assert {n: v for (role, n), v in found.items() if role == "model"} == pytest.approx(judged, rel=1e-5)


def test_no_layers_and_unknown_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="one layer or more"):
        models.StochasticLayers(6, ())
    with pytest.raises(TypeError, match=r"Binary\(20\)"):
        models.StochasticLayers(6, (20,))  # type: ignore[arg-type]
