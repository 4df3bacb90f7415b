"""Continuous latents behind partial functions and hand-written kinks on JAX: scored where the cost may jump, pathwise elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.experimental.ode import odeint

from ppl_gen import infer
from ppl_gen.estimators import Pathwise, Score

X, LOC = np.float32(0.7), 0.2
Y = np.float32(1.8)
TIMES = jnp.array([0.0, 1.0])
KNOTS = jnp.array([-1.0, 0.0, 1.0])


def normal(mean: Callable[[Any], Any], scale: float = 1.0) -> tuple[Any, Any]:
    """z ~ N(0, 1); x | z ~ N(mean(z), scale); guide z ~ N(m, 1), m = 0.2."""

    def model(x: Any) -> None:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(mean(z), scale), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("z", dist.Normal(numpyro.param("m", jnp.array(LOC)), 1.0))

    return model, guide


def estimator(mean: Callable[[Any], Any], seed: int = 0) -> Any:
    return infer.plan(*normal(mean), X, backend="jax", seed=seed)["z"].estimator


@jax.custom_vjp
def rounded(x: Any) -> Any:
    """A step that pretends to be the identity."""
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,))


SMOOTH: dict[str, Callable[[Any], Any]] = {
    "pieces that meet": lambda z: jnp.where(z > 0, z, 0 * z),
    "times an indicator": lambda z: z * (z > 0),
    "interpolation": lambda z: jnp.interp(z, KNOTS, KNOTS**2),
    "quantile": lambda z: jnp.quantile(z * KNOTS, 0.3),
    "a differential equation": lambda z: odeint(lambda y, t: -z * y, jnp.array(1.0), TIMES)[-1],
    "soft sign": lambda z: z / (1 + jnp.abs(z)),
    "its own argsort": lambda z: (z * KNOTS)[jnp.argsort(z * KNOTS)][0],
    "a part of its own argsort": lambda z: (z * KNOTS)[jnp.argsort(-(z * KNOTS))[:2]].sum(),
    "one place of its own argsort": lambda z: (z * KNOTS)[jnp.argsort(z * KNOTS)[1]],
    "its own argmax": lambda z: (z * KNOTS)[jnp.argmax(z * KNOTS)],
    "its own argmin, taken": lambda z: jnp.take(z * KNOTS, jnp.argmin(z * KNOTS)),
}
JUMPS: dict[str, Callable[[Any], Any]] = {
    "another's argmax": lambda z: (z * KNOTS)[jnp.argmax(z**2 - KNOTS)],
    "its square's argmax": lambda z: (z - KNOTS)[jnp.argmax((z - KNOTS) ** 2)],
    "from its own argmax on": lambda z: jax.lax.dynamic_slice(z * KNOTS, (jnp.argmax(z * KNOTS),), (2,)).sum(),
    "inverse": lambda z: jnp.tanh(jnp.linalg.inv(jnp.eye(2) * z)).sum(),
    "digamma": lambda z: jnp.tanh(special.digamma(z)),
    "gamma": lambda z: jnp.nan_to_num(special.gamma(z)),
    "entropy": lambda z: jnp.nan_to_num(special.entr(z)),
    "xlogy": lambda z: jnp.nan_to_num(special.xlogy(1.0, z)),
    "logit": lambda z: jnp.nan_to_num(special.logit(z)),
    "eight bits": lambda z: z.astype(jnp.float8_e4m3fn).astype(jnp.float32),
    "reduced precision": lambda z: jax.lax.reduce_precision(z, 5, 2),
    "over its size": lambda z: z / jnp.abs(z),
    "a function of the user's with a derivative of their own": rounded,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_continuous_is_pathwise(name: str) -> None:
    assert isinstance(estimator(SMOOTH[name]), Pathwise)


@pytest.mark.parametrize("name", JUMPS)
def test_what_may_jump_is_scored(name: str) -> None:
    assert isinstance(estimator(JUMPS[name]), Score)


@pytest.mark.parametrize("seed", range(10))
def test_a_quotient_behind_a_gate_is_scored_for_every_seed(seed: int) -> None:
    assert isinstance(infer.plan(*gated(), Y, backend="jax", seed=seed)["z"].estimator, Score)


def gated() -> tuple[Any, Any]:
    """A step in z for one value of a coin, and z itself for the other."""

    def model(x: Any) -> None:
        s = numpyro.sample("s", dist.Bernoulli(0.5))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(s * z / jnp.abs(z) + (1 - s) * z, 0.6), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("s", dist.Bernoulli(logits=numpyro.param("ls", jnp.array(0.1))))
        numpyro.sample("z", dist.Normal(numpyro.param("m", jnp.array(LOC)), 1.0))

    return model, guide


def slope(cost: Callable[[Any], Any]) -> float:
    """Derivative in m of E[cost(z) + log q(z)], z ~ N(m, 1), on a grid in float64: E[cost(z) (z - m)], as the entropy is fixed."""
    grid = np.linspace(-9, 9, 900_001)
    density = np.exp(-0.5 * (grid - LOC) ** 2) / np.sqrt(2 * np.pi)
    return float((density * cost(grid) * (grid - LOC)).sum() * (grid[1] - grid[0]))


def assert_mean(draws: np.ndarray[Any, Any], value: float, wrong: float) -> None:
    """Within 4.5 standard errors (a false alarm: 7e-6), from where the known wrong value is not."""
    error = draws.std(ddof=1) / np.sqrt(len(draws))
    assert abs(draws.mean() - value) < 4.5 * error
    assert abs(wrong - value) > 9 * error


def test_a_quotient_behind_a_gate_biases_nothing() -> None:
    p = 1 / (1 + np.exp(-0.1))

    def cost(z: Any) -> Any:
        sign = np.where(z > 0, 1.0, -1.0)
        return 0.5 * z**2 + 0.5 * (p * (Y - sign) ** 2 + (1 - p) * (Y - z) ** 2) / 0.36

    draws = infer.gradient(*gated(), Y, backend="jax", num_samples=8000)["m"]
    assert_mean(draws, slope(cost), wrong=-0.652)


def test_an_inverse_that_may_be_singular_biases_nothing() -> None:
    """Pathwise gives 1.16."""
    first, second = np.array([[1, 0.5], [0.5, 1]]), np.array([[0, 0.3], [0.3, 0]])

    def mean(z: Any) -> Any:
        return jnp.tanh(jnp.linalg.inv(jnp.asarray(first) * z + jnp.asarray(second))).sum()

    def cost(z: Any) -> Any:
        matrices = first * z[:, None, None] + second
        return 0.5 * z**2 + 0.5 * (0.7 - np.tanh(np.linalg.inv(matrices)).sum((1, 2))) ** 2

    value = slope(cost)
    assert value == pytest.approx(-0.857, abs=5e-3)
    assert_mean(infer.gradient(*normal(mean), X, backend="jax", num_samples=8000)["m"], value, wrong=1.16)


POSITIVE: dict[str, Callable[[Any], Any]] = {
    "logarithm": jnp.log,
    "root": jnp.sqrt,
    "reciprocal": lambda t: 1 / t,
    "log gamma": special.gammaln,
    "digamma": special.digamma,
    "power": lambda t: t**-1.5,
    "product with a parameter": lambda t: 1 / (t * numpyro.param("a", jnp.array(2.0))),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_the_support_of_a_latent_keeps_it_from_poles(name: str) -> None:
    def model(x: Any) -> None:
        t = numpyro.sample("t", dist.Gamma(2.0, 1.0))
        numpyro.sample("x", dist.Normal(POSITIVE[name](t), 1.0), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("t", dist.LogNormal(numpyro.param("m", jnp.array(0.0)), 1.0))

    assert isinstance(infer.plan(model, guide, X, backend="jax")["t"].estimator, Pathwise)


@pytest.mark.parametrize("low", [0.5, -0.5])
def test_ends_of_a_support_that_are_arrays_are_followed(low: float) -> None:
    def model(x: Any) -> None:
        u = numpyro.sample("u", dist.Uniform(jnp.array(low), jnp.array(2.0)))
        numpyro.sample("x", dist.Normal(1 / u, 1.0), obs=x)

    def guide(x: Any) -> None:
        shape = numpyro.param("shape", jnp.array(1.0), constraint=dist.constraints.positive)
        scaled = dist.transforms.AffineTransform(jnp.array(low), 2.0 - low, domain=dist.constraints.unit_interval)
        numpyro.sample("u", dist.TransformedDistribution(dist.Beta(shape, 1.0), scaled))

    expected = Pathwise if low > 0 else Score
    assert isinstance(infer.plan(model, guide, X, backend="jax")["u"].estimator, expected)


def test_a_mixture_whose_components_end_inside_its_support_is_no_smooth_prior() -> None:
    def model(x: Any, components: Any) -> None:
        z = numpyro.sample(
            "z", dist.MixtureGeneral(dist.Categorical(jnp.ones(2) / 2), components, support=dist.constraints.real)
        )
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Any, components: Any) -> None:
        numpyro.sample("z", dist.Normal(numpyro.param("m", jnp.array(LOC)), 1.0))

    def found(*components: Any) -> Any:
        return infer.plan(lambda x: model(x, components), lambda x: guide(x, components), X, backend="jax")[
            "z"
        ].estimator

    assert isinstance(found(dist.Normal(0.0, 1.0), dist.Laplace(0.0, 2.0)), Pathwise)
    assert isinstance(found(dist.Normal(0.0, 1.0), dist.Uniform(-1.0, 2.0)), Score)


def test_sorted_cut_points_are_pathwise() -> None:
    def model(x: Any) -> None:
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        ordered = dist.TransformedDistribution(
            dist.Normal(jnp.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
        )
        cuts = numpyro.sample("cuts", ordered)
        with numpyro.plate("rows", 4):
            numpyro.sample("x", dist.OrderedLogistic(z, cuts), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("z", dist.Normal(numpyro.param("m", jnp.array(LOC)), 1.0))
        free = dist.Normal(numpyro.param("c", jnp.array([-1.0, 0.0, 0.0])), 1.0).to_event(1)
        numpyro.sample("cuts", dist.TransformedDistribution(free, dist.transforms.OrderedTransform()))

    plan = infer.plan(model, guide, np.arange(4), backend="jax")
    assert isinstance(plan["z"].estimator, Pathwise), plan
    assert isinstance(plan["cuts"].estimator, Pathwise), plan


HOST: dict[str, Callable[[Any, Any], Any]] = {
    "a branch": lambda w, z: 0.3 if z > 0.5 else 2.0 * w,
    "a float": lambda w, z: 0.3 if float(z) > 0.5 else 2.0 * w,
    "an index": lambda w, z: [0.3, 2.0 * w][z],
    "an int": lambda w, z: [0.3, 2.0 * w][int(z)],
    "a length": lambda w, z: sum((1.0 * w for _ in range(z)), 0.0),
    "NumPy": lambda w, z: jnp.asarray(np.asarray(z)) * w,
}


@pytest.mark.parametrize("name", HOST)
def test_a_latent_that_leaves_jax_moves_all_that_follows(name: str) -> None:
    """Whatever the branch that the first run took holds: w, drawn before, may decide the other."""

    def model(x: Any) -> None:
        w = numpyro.sample("w", dist.Bernoulli(0.5))
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        with numpyro.plate("rows", 2):
            numpyro.sample("x", dist.Normal(HOST[name](w, z), 0.6), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("w", dist.Bernoulli(logits=numpyro.param("lw", jnp.array(0.3))))
        numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("lz", jnp.array(0.0))))

    plan = infer.plan(model, guide, np.ones(2, np.float32), backend="jax", seed=3)
    assert plan.facts.eager is not None
    assert {("model", "x"), ("model", "z"), ("guide", "z")} <= set(plan["w"].terms)
    assert any("more runs" in note for note in plan.notes)


def test_a_continuous_latent_before_a_branch_is_scored() -> None:
    def model(x: Any) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(w if z > 0.5 else jnp.floor(w), 0.6), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("w", dist.Normal(numpyro.param("m", jnp.array(0.3)), 1.0))
        numpyro.sample("z", dist.Bernoulli(logits=numpyro.param("lz", jnp.array(0.0))))

    for seed in range(3):
        assert isinstance(infer.plan(model, guide, X, backend="jax", seed=seed)["w"].estimator, Score)


@pytest.mark.parametrize(
    ("discrete", "automatic"),
    [(True, False), (False, False), (False, True)],
    ids=["discrete", "continuous", "automatic guide"],
)
def test_an_ordinary_program_runs_a_dozen_times_before_its_first_step(discrete: bool, automatic: bool) -> None:
    runs: Counter[str] = Counter()

    def prior(shift: Any) -> Any:
        return (dist.Bernoulli(logits=shift) if discrete else dist.Normal(shift, 1.0)).to_event(1)

    def model(x: Any) -> None:
        runs["model"] += 1
        weights = numpyro.param("w", jnp.ones((4, 6)))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", prior(jnp.zeros(4)))
            numpyro.sample("x", dist.Bernoulli(logits=(z * 1.0) @ weights).to_event(1), obs=x)

    def guide(x: Any) -> None:
        weights = numpyro.param("v", jnp.ones((6, 4)))
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", prior(x @ weights))

    data = np.ones((20, 6), np.float32)
    infer.fit(model, None if automatic else guide, data, steps=1, batch_size=None if automatic else 10, progress=False)
    assert runs["model"] <= 12
