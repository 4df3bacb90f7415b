"""A quotient or a logarithm is followed only where its pole is proved to be far; wherever it may jump it is scored."""

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
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Estimator, Pathwise, Score
from ppl_gen.language import dist, param, plate, sample, xp

QUOTIENTS: dict[str, tuple[Callable[[Any], Any], type]] = {
    "over its size": (lambda z: z / xp.abs(z), Score),
    "over the root of its square": (lambda z: z / xp.sqrt(z * z), Score),
    "over its size, kept from zero": (lambda z: z / xp.maximum(xp.abs(z), xp.asarray(1e-6)), Score),
    "soft sign": (lambda z: z / (1 + xp.abs(z)), Pathwise),
    "over the norm of all": (
        lambda z: z / xp.sqrt(xp.sum(z * z)),
        Estimator,
    ),  # zero at one point: torch's reading sees it
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
    assert isinstance(row.estimator, Pathwise) or "the cost jumps with its value at test_jumps.py" in row.reason


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
