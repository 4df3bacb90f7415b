"""Densities that a program states as functions, and loops over an axis: the same on both backends."""

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import dist, infer
from ppl_gen.estimators import Enumerate, Score

BACKENDS = ("torch", "jax")
X = np.array([0.3, 1.2, 0.7, 2.1], dtype=np.float32)


def exponential(x):
    rate = pg.param("rate", pg.xp.ones(()), dist.constraints.positive)
    with pg.plate("data", len(x)):
        pg.density(
            "x",
            lambda value: pg.xp.log(rate) - rate * value,
            lambda: -pg.xp.log(pg.xp.random.uniform((len(x),))) / rate,
            obs=x,
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_observed_density_learns_the_maximum_of_its_likelihood(backend):
    fit = infer.fit(exponential, data=X, steps=400, learning_rate=0.05, backend=backend, progress=False)
    assert fit.params["rate"] == pytest.approx(1 / X.mean(), rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_observed_density_is_drawn_where_data_are_to_be_made(backend):
    fit = infer.fit(exponential, data=X, steps=400, learning_rate=0.05, backend=backend, progress=False)
    drawn = np.asarray(fit.sample(1000)["x"])
    # 4000 exponential draws: the mean's standard error is its own size / sqrt(4000); 5 of them are met by chance once in 2e6
    assert abs(drawn.mean() / X.mean() - 1) < 5 / np.sqrt(drawn.size)


def coin(x):
    """A latent coin, as a density of functions; its mean is a parameter of the guide."""
    with pg.plate("data", len(x)):
        z = pg.sample("z", dist.Bernoulli(logits=pg.xp.zeros(len(x))))
        pg.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


def guide_of(stated):
    def guide(x):
        logits = pg.param("logits", pg.xp.zeros(4) + 0.3)
        with pg.plate("data", len(x)):
            if stated:
                pg.density(
                    "z",
                    lambda z: z * pg.xp.log_sigmoid(logits) + (1 - z) * pg.xp.log_sigmoid(-logits),
                    lambda: pg.sample("inside", dist.Bernoulli(logits=logits)),
                )
            else:
                pg.sample("z", dist.Bernoulli(logits=logits))

    return guide


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_latent_density_has_the_gradient_of_the_same_distribution(backend):
    exact = infer.gradient(coin, guide_of(False), X, estimators={"z": Enumerate()}, backend=backend)["logits"][0]
    drawn = infer.gradient(coin, guide_of(True), X, estimators={"z": Score()}, num_samples=4000, backend=backend)
    found = drawn["logits"]
    error = found.std(0) / np.sqrt(len(found))
    # five standard errors on four numbers: a false alarm once in 4e5 runs; a tenth of the gradient is many more
    assert (np.abs(found.mean(0) - exact) < 5 * error).all()
    assert (0.1 * np.abs(exact) > error).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parameter_stated_in_the_draw_is_the_learned_one(backend):
    def model(x):
        pg.sample("x", dist.Normal(pg.sample("z", dist.Normal(0.0, 1.0)), 0.5), obs=x)

    def guide(x):
        mean = pg.param("mean", pg.xp.zeros(()))

        def draw():
            return pg.sample("inside", dist.Normal(pg.param("mean", pg.xp.zeros(())), 0.5))

        pg.density("z", lambda value: dist.Normal(mean, 0.5).log_prob(value), draw)

    fit = infer.fit(model, guide, np.float32(2.0), steps=1500, learning_rate=0.02, backend=backend, progress=False)
    assert fit.params["mean"] == pytest.approx(
        1.6, abs=0.15
    )  # the posterior's; a draw that did not follow it gives 1.97


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scan_over_an_axis_is_a_loop(backend):
    def model(x):
        weight = pg.param("weight", 0.5 * pg.xp.ones(()))
        last, means = pg.xp.scan(lambda h, v: (weight * h + v, weight * h), pg.xp.zeros(()), x)
        with pg.plate("steps", len(x)):
            pg.sample("x", dist.Normal(means + 0.0 * last, 1.0), obs=x)

    found = infer.gradient(model, None, X, backend=backend)["weight"][0]

    def loss(weight):
        state, total = 0.0, 0.0
        for value in X:
            total += 0.5 * (value - weight * state) ** 2
            state = weight * state + value
        return total

    assert found == pytest.approx((loss(0.5 + 1e-4) - loss(0.5 - 1e-4)) / 2e-4, rel=1e-3)
