"""A density that jumps along a line is told from one that is only kinked, steep or far from straight."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

from ppl_gen import infer
from ppl_gen.backends.jumps import find_jumps
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Pathwise, Score
from ppl_gen.language import dist, param, plate, sample, xp

Function = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
TERM = ("model", "x")

SMOOTH: dict[str, Function] = {  # value and slope
    "square": lambda z: (z**2, 2 * z),
    "kink": lambda z: (np.abs(z), np.sign(z)),
    "steep": lambda z: (np.tanh(500 * z), 500 / np.cosh(np.minimum(np.abs(500 * z), 300)) ** 2),
    "waves": lambda z: (np.sin(40 * z), 40 * np.cos(40 * z)),
    "soft sign": lambda z: (z / (1 + np.abs(z)), 1 / (1 + np.abs(z)) ** 2),
}
JUMPS: dict[str, Function] = {
    "step": lambda z: (np.sign(z), 0 * z),
    "small step on a slope": lambda z: (10 * z + 0.3 * (z > 0.2), 10 + 0 * z),
    "pole": lambda z: (1 / z, -1 / z**2),
}


def along(function: Function) -> list[Any]:
    """What is found of a function of three elements of a latent."""

    def slopes(start: np.ndarray, end: np.ndarray, t: float) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
        value, slope = function(start + t * (end - start))
        return {TERM: (value, slope * (end - start)), ("guide", "z"): (0 * value, 0 * value)}

    return find_jumps([np.array([0.31, -0.7, 1.1]), np.array([0.9, 0.52, -0.4])], slopes)


@pytest.mark.parametrize("name", SMOOTH)
def test_no_jump_is_found_where_there_is_none(name: str) -> None:
    assert along(SMOOTH[name]) == []


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_is_found(name: str) -> None:
    assert along(JUMPS[name]) == [TERM]


def test_a_function_without_a_forward_derivative_is_let_be() -> None:
    def slopes(start: Any, end: Any, t: float) -> Any:
        raise NotImplementedError("no forward derivative")

    assert find_jumps([np.zeros(1), np.ones(1)], slopes) == []


QUOTIENTS: dict[str, tuple[Callable[[Any], Any], type]] = {
    "over its size": (lambda z: z / xp.abs(z), Score),
    "over the root of its square": (lambda z: z / xp.sqrt(z * z), Score),
    "over its size, kept from zero": (lambda z: z / xp.maximum(xp.abs(z), xp.asarray(1e-6)), Score),
    "soft sign": (lambda z: z / (1 + xp.abs(z)), Pathwise),
    "over the norm of all": (lambda z: z / xp.sqrt(xp.sum(z * z)), Pathwise),
    "logarithm of a sum": (lambda z: xp.log(0.1 + z * z), Pathwise),
    "logarithm of its size": (lambda z: xp.log(xp.abs(z)), Score),  # no pathwise gradient has a mean there
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_is_a_jump_only_where_it_jumps(name: str, backend: str) -> None:
    function, expected = QUOTIENTS[name]

    def model(x: Any) -> None:
        with plate("data", len(x)):
            z = sample("z", dist.Normal(xp.zeros(len(x)), 1.0))
            sample("x", dist.Normal(2 * function(z), 1.0), obs=x)

    def guide(x: Any) -> None:
        loc = param("loc", lambda: xp.asarray(0.3))
        with plate("data", len(x)):
            sample("z", dist.Normal(loc + 0 * x, 1.0))

    row = infer.plan(model, guide, np.array([0.7, 1.2, -0.3], dtype=np.float32), backend=backend)["z"]
    assert isinstance(row.estimator, expected), row.reason
    assert expected is Pathwise or "the cost jumps with its value at test_jumps.py" in row.reason


def test_a_quotient_that_jumps_is_scored_right(backend: str) -> None:
    """The derivative that the quotient claims leaves out 1.07; the standard error is below 0.08, a false alarm 6e-5."""

    def model(x: Any) -> None:
        z = sample("z", dist.Normal(xp.asarray(0.0), 1.0))
        sample("x", dist.Normal(2 * z / xp.abs(z), 1.0), obs=x)

    def guide(x: Any) -> None:
        sample("z", dist.Normal(param("loc", lambda: xp.asarray(0.3)), 1.0))

    data = np.float32(0.7)
    report = infer.check(model, guide, data, backend=backend, max_samples=1000, others=False)
    assert report.ok is not False
    with pytest.raises(ProgramError, match=r"site 'z'.*jumps with its value"):
        infer.gradient(model, guide, data, backend=backend, estimators={"z": Pathwise()})
    draws = infer.gradient(model, guide, data, backend=backend, num_samples=4000)["loc"]
    gap = draws.mean() - (
        0.3 - 4 * 0.7 * NormalDist().pdf(0.3)
    )  # that of the loss: KL, and the step's height at its density
    assert abs(gap) < 4 * draws.std() / np.sqrt(len(draws)) < 0.3 * 1.07


def test_rounding_is_no_step() -> None:
    """A density that is a matter of luck from one point to the next, as far out on a line."""

    def slopes(start: np.ndarray, end: np.ndarray, t: float) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
        z = start + t * (end - start)
        return {TERM: (1e3 * np.sin(1e9 * z), 0 * z)}

    assert find_jumps([np.array([0.31, -0.7, 1.1]), np.array([0.9, 0.52, -0.4])], slopes) == []


@pytest.mark.parametrize("levels", [5, 30])
def test_a_simplex_has_no_pole(levels: int, backend: str) -> None:
    """Its categorical divides by the sum, which is one."""

    def model(x: Any) -> None:
        w = sample("w", dist.Dirichlet(xp.ones(levels)))
        with plate("data", len(x)):
            sample("x", dist.Categorical(w), obs=x)

    row = infer.plan(model, None, np.arange(60) % 5, backend=backend)["w"]
    assert isinstance(row.estimator, Pathwise), row.reason


@pytest.mark.parametrize("automatic", [AutoNormal, AutoDelta])
def test_a_point_mass_is_moved_inside_the_priors_support(automatic: Any) -> None:
    def model(x: Any) -> None:
        w = pyro.sample("w", pyro.distributions.Dirichlet(torch.ones(5)))
        t = pyro.sample("t", pyro.distributions.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Categorical(logits=w.log() / t), obs=x)

    plan = infer.plan(model, automatic(model), torch.arange(60) % 5)
    assert all(isinstance(row.estimator, Pathwise) for row in plan.rows.values()), plan
