"""A NaN is named wherever it appears: in a gradient that is asked for, in what a baseline learns."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from ppl_gen import infer
from ppl_gen.errors import NonFinite
from ppl_gen.estimators import Baseline, MeasureValued, Score
from ppl_gen.language import dist, factor, param, sample, xp

ROOTS: dict[str, Any] = {
    "torch": lambda z: torch.nan_to_num(torch.sqrt(z - 0.2)),
    "jax": lambda z: jnp.nan_to_num(jnp.sqrt(z - 0.2)),
}


def test_a_gradient_behind_a_value_made_finite_is_named(backend: str) -> None:
    """The root is made a number where it is none, its slope is not: half of the draws."""

    def model(x: Any) -> None:
        shift, z = param("m", lambda: xp.asarray(0.2)), sample("z", dist.Normal(0.0, 1.0))
        sample("x", dist.Normal(ROOTS[backend](shift + z), 1.0), obs=x)

    def guide(x: Any) -> None:
        sample("z", dist.Normal(0.0, 1.0))

    options: dict[str, Any] = {"backend": backend, "num_samples": 20}
    with pytest.raises(NonFinite, match=r"^param 'm': expected a finite gradient; got nan in \d+ of 20 draws"):
        infer.gradient(model, guide, np.float32(0.7), **options)


def test_a_latent_behind_a_value_made_finite_is_scored(backend: str) -> None:
    """No slope of the root is asked for. Bound: five standard errors, a false alarm of one in a million."""

    def model(x: Any) -> None:
        sample("x", dist.Normal(ROOTS[backend](sample("z", dist.Normal(0.0, 1.0))), 1.0), obs=x)

    def guide(x: Any) -> None:
        sample("z", dist.Normal(param("m", lambda: xp.asarray(0.2)), 1.0))

    draws = infer.gradient(model, guide, np.float32(0.7), backend=backend, num_samples=2000)["m"]
    assert (
        abs(draws.mean() - 0.149) < 5 * draws.std() / 2000**0.5
    )  # 0.1490 by quadrature; half of the slopes would be NaN


def test_a_measure_valued_derivative_beside_a_probability_of_zero_is_named(backend: str) -> None:
    def model(x: Any) -> None:
        z = sample("z", dist.Categorical(logits=xp.zeros(3)))
        factor("never", xp.log(1.0 - xp.one_hot(z, 3)[2]))  # minus infinity where the guide's probability is zero
        sample("x", dist.Normal(1.0 * z, 1.0), obs=x)

    def guide(x: Any) -> None:
        logits = xp.concat([param("w", lambda: xp.asarray([0.1, 0.3])), xp.asarray([-200.0])])
        sample("z", dist.Categorical(logits=logits))

    options: dict[str, Any] = {"backend": backend, "estimators": {"z": MeasureValued()}}
    with pytest.raises(NonFinite, match="^param 'w': expected a finite gradient"):
        infer.gradient(model, guide, np.float32(0.7), **options)


class Breaks(Baseline):
    """A baseline of zero, whatever it learns; after three steps its loss, or its average, is no number."""

    def __init__(self, part: str) -> None:
        self.part = part

    def start(self, site: Any, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"w": np.zeros((), np.float32)}, {"steps": np.zeros((), np.float32)}

    def judge(self, xp: Any, signal: Any, inputs: Any, weights: Any, averages: Any) -> tuple[Any, Any]:
        bad = xp.where(averages["steps"] > 2.5, xp.asarray(float("nan")), xp.asarray(1.0))
        return 0.0, (bad if self.part == "weights" else 1.0) * weights["w"]

    def update(self, xp: Any, signals: Any, averages: Any) -> dict[str, Any]:
        steps = averages["steps"] + 1.0
        return {"steps": steps if self.part == "weights" else xp.where(steps > 3.5, float("nan") * steps, steps)}


def coin(x: Any) -> None:
    z = sample("z", dist.Bernoulli(0.3))
    sample("x", dist.Normal(param("m", lambda: xp.asarray(0.5)) * z, 1.0), obs=x)


def flipped(x: Any) -> None:
    sample("z", dist.Bernoulli(logits=param("l", lambda: xp.asarray(0.1))))


@pytest.mark.parametrize(("part", "optimizer"), [("weights", "adam"), ("averages", "sgd")])
def test_a_baseline_that_breaks_stops_the_run_by_name_on_both(part: str, optimizer: str, backend: str) -> None:
    """Before it can spoil a step, though this one's baseline never counts; the last good state is kept."""
    sgd = functools.partial(torch.optim.SGD, lr=0.1) if backend == "torch" else optax.sgd(0.1)
    options: dict[str, Any] = {"optimizer": sgd if optimizer == "sgd" else None, "backend": backend}
    with pytest.raises(NonFinite, match=r"^step 3: site 'z': expected what Score\(.*\) learns for itself") as caught:
        infer.fit(
            coin, flipped, np.float32(0.4), steps=8, estimators={"z": Score(Breaks(part))}, progress=False, **options
        )
    assert len(caught.value.losses) == len(caught.value.fit.losses) == 3
    assert all(np.isfinite(value).all() for value in caught.value.fit.params.values())


class Forgets(Breaks):
    """A baseline of zero with an average that is no number after the fourth step, and one again after the fifth."""

    def __init__(self) -> None:
        super().__init__("averages")

    def update(self, xp: Any, signals: Any, averages: Any) -> dict[str, Any]:
        steps = averages["steps"] + 1.0
        now = xp.where(xp.isfinite(steps), steps, xp.asarray(9.0))
        return {"steps": xp.where(now == 4.0, float("nan") * now, now)}


def test_an_average_that_is_no_number_for_one_step_stops_the_run_on_both(backend: str) -> None:
    """Under Adam too, with which JAX looks at gradients only once in a while."""
    with pytest.raises(NonFinite, match=r"^step 3: site 'z': expected what Score\(.*\) learns for itself") as caught:
        infer.fit(
            coin, flipped, np.float32(0.4), steps=8, estimators={"z": Score(Forgets())}, progress=False, backend=backend
        )
    assert len(caught.value.losses) == 3


def test_the_site_is_named_for_the_draws_that_the_step_had(backend: str) -> None:
    """One draw in ten gives the second site an infinite density, and names it every time."""

    def model(x: Any) -> None:
        z = sample("z", dist.Bernoulli(0.1))
        sample("x", dist.Normal(param("m", lambda: xp.asarray(0.5)), 1.0), obs=x)
        factor("rare", xp.where(z > 0.5, xp.asarray(float("inf")), xp.asarray(0.0)))

    def guide(x: Any) -> None:
        sample("z", dist.Bernoulli(0.1))

    for seed in range(4):
        with pytest.raises(NonFinite, match=r"site 'rare' \(model\): expected the .* to be finite; got inf"):
            infer.fit(model, guide, np.float32(0.4), steps=400, seed=seed, progress=False, backend=backend)
