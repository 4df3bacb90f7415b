"""Plain Pyro programs of the kinds people write. None knows ppl_gen; each call makes fresh networks.

`least_improvement` is how far (nats) the mean of the last 20 of 60 losses must fall below the mean of the
first 10: at most two thirds of what Pyro's own SVI reached in its worst of three runs, and over three
standard deviations of the same difference without training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.infer.autoguide.initialization import init_to_value
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn


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
    networks: tuple[nn.Module, ...] = ()

    @property
    def data(self) -> tuple[Any, ...] | dict[str, Any]:
        return dict(self.kwargs) or self.args


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tensor(values) -> torch.Tensor:
    return torch.tensor(np.asarray(values, dtype=np.float32))


def pictures() -> torch.Tensor:
    """40 binary rows of 16 pixels in two kinds."""
    kind = rng().integers(0, 2, 40)
    return tensor(rng().random((40, 16)) < np.where(np.arange(16) < 8, 0.9, 0.1)[None] ** np.where(kind, 1, 3)[:, None])


def vae_with_pyro_module() -> Program:
    encoder = nn.Sequential(nn.Linear(16, 8), nn.Softplus(), nn.Linear(8, 4))
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 16))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Program(
        model,
        guide,
        (pictures(),),
        expected={"z": "Pathwise"},
        least_improvement=100.0,
        networks=(encoder, decoder),
    )


class Decoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.hidden = PyroModule[nn.Linear](2, 8)  # type: ignore[call-arg, arg-type]
        self.out = PyroModule[nn.Linear](8, 16)  # type: ignore[call-arg, arg-type]

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), x.new_ones(2)).to_event(1))
            logits = self.out(nn.functional.leaky_relu(self.hidden(z)))
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class Encoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.LeakyReLU())
        self.loc, self.log_scale = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        hidden = self.net(x)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(self.loc(hidden), self.log_scale(hidden).exp()).to_event(1))


def vae_of_pyro_modules() -> Program:
    model, guide = Decoder(), Encoder()
    return Program(
        model,
        guide,
        (pictures(),),
        expected={"z": "Pathwise"},
        least_improvement=100.0,
        networks=(model, guide),
    )


def hierarchical_regression() -> Program:
    county = torch.as_tensor(rng().integers(0, 5, 50))
    floor = tensor(rng().integers(0, 2, 50))
    level = 3.0 + tensor(np.linspace(-1, 1, 5))[county] - floor + tensor(0.3 * rng().standard_normal(50))

    def model(county, floor, level):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = pyro.sample("spread", dist.HalfCauchy(2.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("counties", 5):
            intercept = pyro.sample("intercept", dist.Normal(mean, spread))
        with pyro.plate("houses", len(county)):
            pyro.sample("level", dist.Normal(intercept[county] + slope * floor, noise), obs=level)

    def guide(county, floor, level):
        for name in ("mean", "slope"):
            loc = pyro.param(f"{name}_loc", torch.tensor(0.0))
            pyro.sample(name, dist.Normal(loc, pyro.param(f"{name}_scale", torch.tensor(0.3), constraints.positive)))
        for name in ("spread", "noise"):
            pyro.sample(name, dist.LogNormal(pyro.param(f"{name}_loc", torch.tensor(0.0)), 0.1))
        with pyro.plate("counties", 5):
            pyro.sample("intercept", dist.Normal(pyro.param("intercept_loc", torch.zeros(5)), 0.2))

    sites = ("mean", "slope", "spread", "noise", "intercept")
    return Program(
        model,
        guide,
        (county, floor, level),
        expected=dict.fromkeys(sites, "Pathwise"),
        least_improvement=45.0,
    )


EFFECT = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERROR = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def eight_schools_non_centred() -> Program:
    def model(error, effect=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * eta)
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)

    def guide(error, effect=None):
        pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(-15.0)), 1.0))
        pyro.sample("tau", dist.LogNormal(pyro.param("t", torch.tensor(1.0)), 0.3))
        with pyro.plate("schools", 8):
            scale = pyro.param("s", torch.ones(8), constraint=constraints.positive)
            pyro.sample("eta", dist.Normal(pyro.param("e", torch.zeros(8)), scale))

    expected = {"mu": "Pathwise", "tau": "Pathwise", "eta": "Pathwise"}
    kwargs = {"error": tensor(ERROR), "effect": tensor(EFFECT)}
    return Program(model, guide, kwargs=kwargs, expected=expected, least_improvement=4.0, learning_rate=0.1)


def eight_schools_reparametrized() -> Program:
    @poutine.reparam(config={"theta": LocScaleReparam(0.0)})
    def model(error, effect):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfNormal(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)

    values = {"mu": torch.tensor(-15.0), "tau": torch.tensor(5.0), "theta_decentered": torch.zeros(8)}
    guide = AutoNormal(model, init_loc_fn=init_to_value(values=values))
    return Program(model, guide, (tensor(ERROR), tensor(EFFECT)), least_improvement=8.0)


def clusters() -> torch.Tensor:
    """45 points in three clusters, around -3, 0 and 3."""
    return tensor(np.repeat([-3.0, 0.0, 3.0], 15) + 0.4 * rng().standard_normal(45))


def gaussian_mixture() -> Program:
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("components", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(x)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[assignment], 1.0), obs=x)

    def guide(x):
        pyro.sample("weights", dist.Dirichlet(pyro.param("a", 5 * torch.ones(3), constraint=constraints.positive)))
        with pyro.plate("components", 3):
            start = torch.tensor([-2.0, 0.0, 2.0])
            pyro.sample("loc", dist.Normal(pyro.param("l", start), 0.1))
        with pyro.plate("data", len(x)):
            # Starts out mostly wrong, so that the assignments themselves must be learned.
            start = tensor(0.2 + 0.4 * np.roll(np.eye(3).repeat(15, axis=0), 1, axis=1))
            probs = pyro.param("p", start, constraint=constraints.simplex)
            pyro.sample("assignment", dist.Categorical(probs))

    expected = {"weights": "Pathwise", "loc": "Pathwise", "assignment": "Score"}
    return Program(model, guide, (clusters(),), expected=expected, least_improvement=45.0, learning_rate=0.1)


def hidden_markov_model() -> Program:
    stay = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    x = tensor(np.repeat([-4.0, 4.0], 4) + 0.3 * rng().standard_normal(8))

    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        state: Any = 0
        for t in pyro.markov(range(len(x))):
            state = pyro.sample(f"state_{t}", dist.Categorical(stay[state]))
            pyro.sample(f"x_{t}", dist.Normal(loc[state], 1.0), obs=x[t])

    def guide(x):
        pyro.sample("loc", dist.Normal(pyro.param("l", torch.tensor([-3.0, 3.0])), 0.1).to_event(1))
        wrong = tensor(np.eye(2)[[1, 0]].repeat(4, axis=0))[:, None].repeat(1, 2, 1)
        logits = pyro.param("logits", wrong)
        state: Any = 0
        for t in range(len(x)):
            state = pyro.sample(f"state_{t}", dist.Categorical(logits=logits[t, state]))

    expected = {"loc": "Pathwise"} | {f"state_{t}": "Score" for t in range(8)}
    return Program(model, guide, (x,), expected=expected, least_improvement=33.0, learning_rate=0.1)


def gamma_poisson_factors() -> Program:
    counts = tensor(rng().poisson(rng().gamma(1.0, 2.0, (20, 3)) @ rng().gamma(1.0, 1.0, (3, 6))))

    def model(counts):
        rows, columns = counts.shape
        with pyro.plate("factors", 3):
            loading = pyro.sample("loading", dist.Gamma(torch.ones(columns), 1.0).to_event(1))
        with pyro.plate("rows", rows):
            score = pyro.sample("score", dist.Gamma(torch.ones(3), 0.5).to_event(1))
            pyro.sample("counts", dist.Poisson(score @ loading).to_event(1), obs=counts)

    def guide(counts):
        rows, columns = counts.shape

        def gamma(name, *shape):
            concentration = pyro.param(f"{name}_concentration", 3 * torch.ones(shape), constraint=constraints.positive)
            rate = pyro.param(f"{name}_rate", 6 * torch.ones(shape), constraint=constraints.positive)
            return dist.Gamma(concentration, rate).to_event(1)

        with pyro.plate("factors", 3):
            pyro.sample("loading", gamma("loading", 3, columns))
        with pyro.plate("rows", rows):
            pyro.sample("score", gamma("score", rows, 3))

    expected = {"loading": "Pathwise", "score": "Pathwise"}
    return Program(model, guide, (counts,), expected=expected, least_improvement=600.0)


def topic_model() -> Program:
    """Latent Dirichlet allocation; words lie in rows, documents in columns."""
    topic = np.arange(12) % 3
    words = torch.as_tensor(4 * topic[None, :] + rng().integers(0, 4, (10, 12)))

    def model(words):
        length, documents = words.shape
        with pyro.plate("topics", 3):
            phi = pyro.sample("phi", dist.Dirichlet(0.5 * torch.ones(12)))
        with pyro.plate("documents", documents):
            theta = pyro.sample("theta", dist.Dirichlet(0.5 * torch.ones(3)))
            with pyro.plate("words", length):
                z = pyro.sample("z", dist.Categorical(theta))
                pyro.sample("word", dist.Categorical(phi[z]), obs=words)

    def guide(words):
        length, documents = words.shape
        with pyro.plate("topics", 3):
            start = 0.5 + 8 * torch.eye(3).repeat_interleave(4, dim=-1)
            pyro.sample("phi", dist.Dirichlet(pyro.param("phi_q", start, constraint=constraints.positive)))
        with pyro.plate("documents", documents):
            weights = pyro.param("theta_q", 2 * torch.ones(documents, 3), constraint=constraints.positive)
            pyro.sample("theta", dist.Dirichlet(weights))
            with pyro.plate("words", length):
                wrong = tensor(np.eye(3)[(topic + 1) % 3]).repeat(length, 1, 1)
                pyro.sample("z", dist.Categorical(logits=pyro.param("z_q", wrong)))

    expected = {"phi": "Pathwise", "theta": "Pathwise", "z": "Score"}
    return Program(model, guide, (words,), expected=expected, least_improvement=85.0, learning_rate=0.1)


def semi_supervised() -> Program:
    """A class that is known for every third row only, through `obs_mask`."""
    label = rng().integers(0, 2, 48)
    x = tensor(np.where(label, 2.0, -2.0)[:, None] + rng().standard_normal((48, 2)))
    known = torch.as_tensor(np.arange(48) % 3 == 0)
    classifier = nn.Linear(2, 2)

    def model(x, label, known):
        loc = pyro.param("loc", torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)), obs=label, obs_mask=known)
            pyro.sample("x", dist.Normal(loc[y], 1.0).to_event(1), obs=x)

    def guide(x, label, known):
        pyro.module("classifier", classifier)
        with pyro.plate("data", len(x)), poutine.mask(mask=~known):
            pyro.sample("y_unobserved", dist.Categorical(logits=classifier(x)))

    args = (x, torch.as_tensor(label), known)
    expected = {"y_unobserved": "Score"}
    return Program(model, guide, args, {}, expected, least_improvement=60.0, learning_rate=0.1, networks=(classifier,))


class BayesianNetwork(PyroModule):
    def __init__(self, hidden=6):
        super().__init__()
        self.first = PyroModule[nn.Linear](1, hidden)  # type: ignore[call-arg, arg-type]
        self.first.weight = PyroSample(dist.Normal(0.0, 2.0).expand([hidden, 1]).to_event(2))
        self.first.bias = PyroSample(dist.Normal(0.0, 2.0).expand([hidden]).to_event(1))
        self.second = PyroModule[nn.Linear](hidden, 1)  # type: ignore[call-arg]
        self.second.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, hidden]).to_event(2))
        self.second.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        mean = self.second(torch.tanh(self.first(x))).squeeze(-1)
        sigma = pyro.sample("sigma", dist.Uniform(0.05, 2.0))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def bayesian_neural_network() -> Program:
    x = np.linspace(-2, 2, 40)[:, None]
    y = tensor(3 * np.sin(2 * x[:, 0]) + 0.1 * rng().standard_normal(40))
    model = BayesianNetwork()
    guide = AutoDiagonalNormal(model, init_scale=0.05)
    expected = {"_AutoDiagonalNormal_latent": "Pathwise"}
    return Program(model, guide, (tensor(x), y), expected=expected, least_improvement=20.0)


def logistic_regression_auto_normal() -> Program:
    x = rng().standard_normal((60, 3))
    y = rng().random(60) < 1 / (1 + np.exp(-(x @ [4.0, -4.0, 0.0])))

    def model(x, y):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ weight), obs=y)

    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"weight": torch.zeros(3)}))
    # Arrays may come as NumPy: float64 here.
    return Program(model, guide, (x, y.astype(float)), least_improvement=8.0)


def coin_auto_delta() -> Program:
    def model(flips):
        fairness = pyro.sample("fairness", dist.Beta(2.0, 2.0))
        with pyro.plate("flips", len(flips)):
            pyro.sample("flip", dist.Bernoulli(fairness), obs=flips)

    guide = AutoDelta(model, init_loc_fn=init_to_value(values={"fairness": torch.tensor(0.2)}))
    return Program(model, guide, (tensor([1.0] * 24 + [0.0] * 6),), least_improvement=8.0)


def regression_auto_multivariate() -> Program:
    x = rng().standard_normal((50, 2))
    y = tensor(x @ [1.0, -2.0] + 1.0 + 0.5 * rng().standard_normal(50))

    def model(x, y):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 3.0))
        sigma = pyro.sample("sigma", dist.Exponential(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ weight + bias, sigma), obs=y)

    values = {"weight": torch.zeros(2), "bias": torch.tensor(0.0), "sigma": torch.tensor(1.0)}
    guide = AutoMultivariateNormal(model, init_loc_fn=init_to_value(values=values))
    expected = {"_AutoMultivariateNormal_latent": "Pathwise"}
    return Program(model, guide, (tensor(x), y), expected=expected, least_improvement=30.0)


def masked_scaled_conditioned_blocked() -> Program:
    """Conditioning, masked rows, a scaled likelihood, and a guide of parts for blocked models."""
    x = tensor(np.append(4.0 + 0.5 * rng().standard_normal(29), 1e4))

    def prior_and_data(count):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        usable = torch.arange(count) < count - 1
        with pyro.plate("data", count), poutine.mask(mask=usable), poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(mu, sigma))

    model = poutine.condition(prior_and_data, data={"x": x})
    start = init_to_value(values={"mu": torch.tensor(1.0), "sigma": torch.tensor(1.0)})
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["mu"]), init_loc_fn=start))
    guide.append(AutoDelta(poutine.block(model, expose=["sigma"]), init_loc_fn=start))
    return Program(model, guide, (30,), least_improvement=20.0)


def subsampled_regression() -> Program:
    """The plate draws its own minibatch at each step."""
    x = np.linspace(-1, 1, 60)
    y = tensor(3 * x + 0.2 * rng().standard_normal(60))

    def model(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(x), subsample_size=20) as rows:
            pyro.sample("y", dist.Normal(slope * x[rows], 0.5), obs=y[rows])

    def guide(x, y):
        scale = pyro.param("scale", lambda: torch.tensor(0.1), constraint=constraints.positive)
        pyro.sample("slope", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))

    return Program(model, guide, (tensor(x), y), expected={"slope": "Pathwise"}, least_improvement=110.0)


PROGRAMS: tuple[Callable[[], Program], ...] = (
    vae_with_pyro_module,
    vae_of_pyro_modules,
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
