"""Plain NumPyro programs of the kinds people write. None knows ppl_gen; each call makes fresh networks.

`least_improvement` is how far (nats) the mean of the last 20 of 60 losses must fall below the mean of the
first 10: at most two thirds of what NumPyro's own SVI reached in its worst of three runs, and over three
standard deviations of the same difference without training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro import handlers
from numpyro.contrib.module import eqx_module, nnx_module
from numpyro.distributions import constraints
from numpyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)
from numpyro.infer.initialization import init_to_median, init_to_value
from numpyro.infer.reparam import LocScaleReparam


@dataclass(frozen=True)
class Program:
    """A model, its guide and data, and what a fit of them must show."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    least_improvement: float = 1.0
    learning_rate: float = 0.02

    @property
    def data(self) -> tuple[Any, ...] | dict[str, Any]:
        return dict(self.kwargs) or self.args


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def array(values) -> jax.Array:
    return jnp.asarray(np.asarray(values, dtype=np.float32))


def pictures() -> jax.Array:
    """40 binary rows of 16 pixels in two kinds."""
    kind = rng().integers(0, 2, 40)
    return array(rng().random((40, 16)) < np.where(np.arange(16) < 8, 0.9, 0.1)[None] ** np.where(kind, 1, 3)[:, None])


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(16, 8, rngs=rngs)
        self.loc, self.log_scale = nnx.Linear(8, 2, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        hidden = nnx.softplus(self.hidden(x))
        return self.loc(hidden), jnp.exp(self.log_scale(hidden))


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(2, 8, rngs=rngs), nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, z):
        return self.out(nnx.leaky_relu(self.hidden(z)))


def vae_with_flax_modules() -> Program:
    encoder, decoder = Encoder(nnx.Rngs(0)), Decoder(nnx.Rngs(1))

    def model(x):
        decode = nnx_module("decoder", decoder)
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x):
        encode = nnx_module("encoder", encoder)
        loc, scale = encode(x)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Program(model, guide, (pictures(),), expected={"z": "Pathwise"}, least_improvement=100.0)


def vae_with_equinox_modules() -> Program:
    encoder = eqx.nn.MLP(16, 4, 8, 1, activation=jax.nn.gelu, key=jax.random.key(0))
    decoder = eqx.nn.MLP(2, 16, 8, 1, activation=jax.nn.relu, key=jax.random.key(1))

    def model(x):
        decode = eqx_module("decoder", decoder)
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=jax.vmap(decode)(z)).to_event(1), obs=x)

    def guide(x):
        encode = eqx_module("encoder", encoder)
        loc, log_scale = jnp.split(jax.vmap(encode)(x), 2, axis=-1)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return Program(model, guide, (pictures(),), expected={"z": "Pathwise"}, least_improvement=100.0)


def hierarchical_regression() -> Program:
    county = rng().integers(0, 5, 50)
    floor = rng().integers(0, 2, 50)
    level = 3.0 + np.linspace(-1, 1, 5)[county] - floor + 0.3 * rng().standard_normal(50)

    def model(county, floor, level=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = numpyro.sample("spread", dist.HalfCauchy(2.0))
        slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
        noise = numpyro.sample("noise", dist.HalfNormal(1.0))
        with numpyro.plate("counties", 5):
            intercept = numpyro.sample("intercept", dist.Normal(mean, spread))
        with numpyro.plate("houses", len(county)):
            numpyro.sample("level", dist.Normal(intercept[county] + slope * floor, noise), obs=level)

    def guide(county, floor, level=None):
        for name in ("mean", "slope"):
            scale = numpyro.param(f"{name}_scale", 0.3, constraint=constraints.positive)
            numpyro.sample(name, dist.Normal(numpyro.param(f"{name}_loc", 0.0), scale))
        for name in ("spread", "noise"):
            numpyro.sample(name, dist.LogNormal(numpyro.param(f"{name}_loc", 0.0), 0.1))
        with numpyro.plate("counties", 5):
            numpyro.sample("intercept", dist.Normal(numpyro.param("intercept_loc", jnp.zeros(5)), 0.2))

    expected = dict.fromkeys(("mean", "slope", "spread", "noise", "intercept"), "Pathwise")
    # Arrays may come as NumPy: int64 and float64 here.
    kwargs = {"county": county, "floor": floor, "level": level}
    return Program(model, guide, kwargs=kwargs, expected=expected, least_improvement=45.0)


EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools_non_centred() -> Program:
    def model(error, effect=None):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("schools", 8):
            eta = numpyro.sample("eta", dist.Normal(0, 1))
            theta = numpyro.deterministic("theta", mu + tau * eta)
            numpyro.sample("effect", dist.Normal(theta, error), obs=effect)

    def guide(error, effect=None):
        numpyro.sample("mu", dist.Normal(numpyro.param("m", -15.0), 1.0))
        numpyro.sample("tau", dist.LogNormal(numpyro.param("t", 1.0), 0.3))
        with numpyro.plate("schools", 8):
            scale = numpyro.param("s", jnp.ones(8), constraint=constraints.positive)
            numpyro.sample("eta", dist.Normal(numpyro.param("e", jnp.zeros(8)), scale))

    expected = {"mu": "Pathwise", "tau": "Pathwise", "eta": "Pathwise"}
    kwargs = {"error": array(ERROR), "effect": array(EFFECT)}
    return Program(model, guide, kwargs=kwargs, expected=expected, least_improvement=4.0, learning_rate=0.1)


def eight_schools_reparametrized() -> Program:
    def centred(error, effect):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(5.0))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("effect", dist.Normal(theta, error), obs=effect)

    model = handlers.reparam(centred, config={"theta": LocScaleReparam(0)})
    values = {"mu": -15.0, "tau": 5.0, "theta_decentered": jnp.zeros(8)}
    guide = AutoNormal(model, init_loc_fn=init_to_value(values=values))
    expected = {"mu": "Pathwise", "tau": "Pathwise", "theta_decentered": "Pathwise"}
    return Program(model, guide, (array(ERROR), array(EFFECT)), expected=expected, least_improvement=8.0)


def clusters() -> jax.Array:
    """45 points in three clusters, around -3, 0 and 3."""
    return array(np.repeat([-3.0, 0.0, 3.0], 15) + 0.4 * rng().standard_normal(45))


def gaussian_mixture() -> Program:
    def model(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("components", 3):
            loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
        with numpyro.plate("data", len(x)):
            assignment = numpyro.sample("assignment", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(loc[assignment], 1.0), obs=x)

    def guide(x):
        numpyro.sample("weights", dist.Dirichlet(numpyro.param("a", 5 * jnp.ones(3), constraint=constraints.positive)))
        with numpyro.plate("components", 3):
            numpyro.sample("loc", dist.Normal(numpyro.param("l", jnp.array([-2.0, 0.0, 2.0])), 0.1))
        with numpyro.plate("data", len(x)):
            # Starts out mostly wrong, so that the assignments themselves must be learned.
            start = array(0.2 + 0.4 * np.roll(np.eye(3).repeat(15, axis=0), 1, axis=1))
            probs = numpyro.param("p", start, constraint=constraints.simplex)
            numpyro.sample("assignment", dist.Categorical(probs))

    expected = {"weights": "Pathwise", "loc": "Pathwise", "assignment": "Score"}
    return Program(model, guide, (clusters(),), expected=expected, least_improvement=45.0, learning_rate=0.1)


def hidden_markov_model() -> Program:
    stay = jnp.array([[0.9, 0.1], [0.2, 0.8]])
    x = array(np.repeat([-4.0, 4.0], 4) + 0.3 * rng().standard_normal(8))

    def model(x):
        loc = numpyro.sample("loc", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        state = 0
        for t in range(len(x)):
            state = numpyro.sample(f"state_{t}", dist.Categorical(stay[state]))
            numpyro.sample(f"x_{t}", dist.Normal(loc[state], 1.0), obs=x[t])

    def guide(x):
        numpyro.sample("loc", dist.Normal(numpyro.param("l", jnp.array([-3.0, 3.0])), 0.1).to_event(1))
        wrong = array(np.eye(2)[[1, 0]].repeat(4, axis=0)[:, None].repeat(2, axis=1))
        logits = numpyro.param("logits", wrong)
        state = 0
        for t in range(len(x)):
            state = numpyro.sample(f"state_{t}", dist.Categorical(logits=logits[t, state]))

    expected = {"loc": "Pathwise"} | {f"state_{t}": "Score" for t in range(8)}
    return Program(model, guide, (x,), expected=expected, least_improvement=33.0, learning_rate=0.1)


def gamma_poisson_factors() -> Program:
    counts = array(rng().poisson(rng().gamma(1.0, 2.0, (20, 3)) @ rng().gamma(1.0, 1.0, (3, 6))))

    def model(counts):
        rows, columns = counts.shape
        with numpyro.plate("factors", 3):
            loading = numpyro.sample("loading", dist.Gamma(jnp.ones(columns), 1.0).to_event(1))
        with numpyro.plate("rows", rows):
            score = numpyro.sample("score", dist.Gamma(jnp.ones(3), 0.5).to_event(1))
            numpyro.sample("counts", dist.Poisson(score @ loading).to_event(1), obs=counts)

    def guide(counts):
        rows, columns = counts.shape

        def gamma(name, *shape):
            concentration = numpyro.param(f"{name}_conc", 3 * jnp.ones(shape), constraint=constraints.positive)
            rate = numpyro.param(f"{name}_rate", 6 * jnp.ones(shape), constraint=constraints.positive)
            return dist.Gamma(concentration, rate).to_event(1)

        with numpyro.plate("factors", 3):
            numpyro.sample("loading", gamma("loading", 3, columns))
        with numpyro.plate("rows", rows):
            numpyro.sample("score", gamma("score", rows, 3))

    expected = {"loading": "Pathwise", "score": "Pathwise"}
    return Program(model, guide, (counts,), expected=expected, least_improvement=600.0)


def topic_model() -> Program:
    """Latent Dirichlet allocation; words lie in rows, documents in columns."""
    topic = np.arange(12) % 3
    words = jnp.asarray(4 * topic[None, :] + rng().integers(0, 4, (10, 12)))

    def model(words):
        length, documents = words.shape
        with numpyro.plate("topics", 3):
            phi = numpyro.sample("phi", dist.Dirichlet(0.5 * jnp.ones(12)))
        with numpyro.plate("documents", documents, dim=-1):
            theta = numpyro.sample("theta", dist.Dirichlet(0.5 * jnp.ones(3)))
            with numpyro.plate("words", length, dim=-2):
                z = numpyro.sample("z", dist.Categorical(theta))
                numpyro.sample("word", dist.Categorical(phi[z]), obs=words)

    def guide(words):
        length, documents = words.shape
        with numpyro.plate("topics", 3):
            start = 0.5 + 8 * jnp.repeat(jnp.eye(3), 4, axis=-1)
            numpyro.sample("phi", dist.Dirichlet(numpyro.param("phi_q", start, constraint=constraints.positive)))
        with numpyro.plate("documents", documents, dim=-1):
            weights = numpyro.param("theta_q", 2 * jnp.ones((documents, 3)), constraint=constraints.positive)
            numpyro.sample("theta", dist.Dirichlet(weights))
            with numpyro.plate("words", length, dim=-2):
                wrong = array(np.tile(np.eye(3)[(topic + 1) % 3], (length, 1, 1)))
                numpyro.sample("z", dist.Categorical(logits=numpyro.param("z_q", wrong)))

    expected = {"phi": "Pathwise", "theta": "Pathwise", "z": "Score"}
    return Program(model, guide, (words,), expected=expected, least_improvement=85.0, learning_rate=0.1)


def semi_supervised() -> Program:
    """A class that is known for every third row only, through `obs_mask`."""
    label = rng().integers(0, 2, 48)
    x = array(np.where(label, 2.0, -2.0)[:, None] + rng().standard_normal((48, 2)))
    known = jnp.arange(48) % 3 == 0
    classifier = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    def model(x, label, known):
        loc = numpyro.param("loc", jnp.array([[-1.0, -1.0], [1.0, 1.0]]))
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", dist.Categorical(logits=jnp.zeros(2)), obs=label, obs_mask=known)
            numpyro.sample("x", dist.Normal(loc[y], 1.0).to_event(1), obs=x)

    def guide(x, label, known):
        classify = nnx_module("classifier", classifier)
        with numpyro.plate("data", len(x)), handlers.mask(mask=~known):
            numpyro.sample("y_unobserved", dist.Categorical(logits=classify(x)))

    args = (x, jnp.asarray(label), known)
    expected = {"y_unobserved": "Score"}
    return Program(model, guide, args, expected=expected, least_improvement=60.0, learning_rate=0.1)


def bayesian_neural_network() -> Program:
    x = np.linspace(-2, 2, 40)[:, None]
    y = array(3 * np.sin(2 * x[:, 0]) + 0.1 * rng().standard_normal(40))

    def model(x, y=None):
        first = numpyro.sample("first", dist.Normal(0, 2).expand([1, 6]).to_event(2))
        bias = numpyro.sample("bias", dist.Normal(0, 2).expand([6]).to_event(1))
        second = numpyro.sample("second", dist.Normal(0, 1).expand([6, 1]).to_event(2))
        mean = numpyro.deterministic("mean", (jnp.tanh(x @ first + bias) @ second).squeeze(-1))
        sigma = numpyro.sample("sigma", dist.Uniform(0.05, 2.0))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("obs", dist.Normal(mean, sigma), obs=y)

    guide = AutoDiagonalNormal(model, init_scale=0.05, init_loc_fn=init_to_median)
    return Program(model, guide, (array(x), y), expected={"_auto_latent": "Pathwise"}, least_improvement=20.0)


def logistic_regression_auto_normal() -> Program:
    x = rng().standard_normal((60, 3))
    y = rng().random(60) < 1 / (1 + np.exp(-(x @ [4.0, -4.0, 0.0])))

    def model(x, y):
        weight = numpyro.sample("weight", dist.Normal(jnp.zeros(3), 3.0).to_event(1))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ weight), obs=y)

    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"weight": jnp.zeros(3)}))
    # Arrays may come as NumPy: float64 and int64 here.
    data = (x, y.astype(int))
    return Program(model, guide, data, expected={"weight": "Pathwise"}, least_improvement=8.0)


def coin_auto_delta() -> Program:
    def model(flips):
        fairness = numpyro.sample("fairness", dist.Beta(2.0, 2.0))
        with numpyro.plate("flips", len(flips)):
            numpyro.sample("flip", dist.Bernoulli(fairness), obs=flips)

    guide = AutoDelta(model, init_loc_fn=init_to_value(values={"fairness": 0.2}))
    return Program(model, guide, (array([1.0] * 24 + [0.0] * 6),), least_improvement=8.0)


def regression_auto_multivariate() -> Program:
    x = rng().standard_normal((50, 2))
    y = array(x @ [1.0, -2.0] + 1.0 + 0.5 * rng().standard_normal(50))

    def model(x, y):
        weight = numpyro.sample("weight", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        bias = numpyro.sample("bias", dist.Normal(0.0, 3.0))
        sigma = numpyro.sample("sigma", dist.Exponential(1.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Normal(x @ weight + bias, sigma), obs=y)

    values = {"weight": jnp.zeros(2), "bias": 0.0, "sigma": 1.0}
    guide = AutoMultivariateNormal(model, init_loc_fn=init_to_value(values=values))
    return Program(model, guide, (array(x), y), expected={"_auto_latent": "Pathwise"}, least_improvement=30.0)


def masked_scaled_conditioned_blocked() -> Program:
    """Conditioning, masked rows, a scaled likelihood, and a guide of parts for blocked models."""
    x = array(np.append(4.0 + 0.5 * rng().standard_normal(29), 1e4))

    def prior_and_data(count):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        usable = jnp.arange(count) < count - 1
        with numpyro.plate("data", count), handlers.mask(mask=usable), handlers.scale(scale=0.5):
            numpyro.sample("x", dist.Normal(mu, sigma))

    model = handlers.condition(prior_and_data, data={"x": x})
    start = init_to_value(values={"mu": 1.0, "sigma": 1.0})
    guide = AutoGuideList(model)
    guide.append(AutoNormal(handlers.block(model, hide=["sigma"]), init_loc_fn=start))
    guide.append(AutoDelta(handlers.block(model, hide=["mu"]), init_loc_fn=start))
    return Program(model, guide, (30,), expected={"mu": "Pathwise"}, least_improvement=20.0)


def subsampled_regression() -> Program:
    """The plate draws its own minibatch at each step."""
    x = np.linspace(-1, 1, 60)
    y = array(3 * x + 0.2 * rng().standard_normal(60))

    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
        with numpyro.plate("data", len(x), subsample_size=20) as rows:
            numpyro.sample("y", dist.Normal(slope * x[rows], 0.5), obs=y[rows])

    def guide(x, y):
        scale = numpyro.param("scale", 0.1, constraint=constraints.positive)
        numpyro.sample("slope", dist.Normal(numpyro.param("loc", 0.0), scale))

    return Program(model, guide, (array(x), y), expected={"slope": "Pathwise"}, least_improvement=110.0)


PROGRAMS: tuple[Callable[[], Program], ...] = (
    vae_with_flax_modules,
    vae_with_equinox_modules,
    hierarchical_regression,
    eight_schools_non_centred,
    eight_schools_reparametrized,
    gaussian_mixture,
    hidden_markov_model,
    gamma_poisson_factors,
    topic_model,
    semi_supervised,
    bayesian_neural_network,
    logistic_regression_auto_normal,
    coin_auto_delta,
    regression_auto_multivariate,
    masked_scaled_conditioned_blocked,
    subsampled_regression,
)
