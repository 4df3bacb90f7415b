"""Ten programs as short as people write them, in the words that Pyro and NumPyro share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Library(NamedTuple):
    """What differs in name between a plain Pyro and a plain NumPyro text as short as these."""

    sample: Callable[..., Any]
    param: Callable[..., Any]
    plate: Callable[..., Any]
    dist: Any
    positive: Any
    array: Callable[[Any], Any]
    xp: Any
    sigmoid: Callable[[Any], Any]


class Program(NamedTuple):
    """A model, its guide and the arguments of both."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: tuple[Any, ...]


def library(backend: str) -> Library:
    """Pyro's words, or NumPyro's."""
    if backend == "torch":
        import pyro
        import torch
        from pyro import distributions
        from pyro.distributions import constraints

        array = lambda values: torch.as_tensor(np.asarray(values, np.float32))  # noqa: E731
        return Library(
            pyro.sample, pyro.param, pyro.plate, distributions, constraints.positive, array, torch, torch.sigmoid
        )
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as nd

    array = lambda values: jnp.asarray(np.asarray(values, np.float32))  # noqa: E731
    return Library(
        numpyro.sample, numpyro.param, numpyro.plate, nd, nd.constraints.positive, array, jnp, jax.nn.sigmoid
    )


def draws(*shape: int) -> Any:
    """Standard normal numbers, the same each time."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def bits(*shape: int) -> Any:
    """Even bits, the same each time."""
    return (np.random.default_rng(1).random(shape) < 0.5).astype(np.float32)


def vae(lib: Library) -> Program:
    """Two normal latents a row, a hidden layer each way."""

    def layer(name: str, x: Any, width: int) -> Any:
        return x @ lib.param(name, lib.array(0.3 * draws(x.shape[-1], width)))

    def model(x: Any) -> None:
        with lib.plate("data", len(x)):
            z = lib.sample("z", lib.dist.Normal(lib.xp.zeros(2), 1.0).to_event(1))
            logits = layer("out", lib.xp.tanh(layer("in", z, 16)), 30)
            lib.sample("x", lib.dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        h = lib.xp.tanh(layer("encoder", x, 16))
        with lib.plate("data", len(x)):
            scale = lib.xp.exp(layer("scale", h, 2))
            lib.sample("z", lib.dist.Normal(layer("loc", h, 2), scale).to_event(1))

    return Program(model, guide, (lib.array(bits(40, 30)),))


def belief_net(lib: Library) -> Program:
    """Two layers of bits a row."""

    def weights(name: str, *shape: int) -> Any:
        return lib.param(name, lib.array(0.3 * draws(*shape)))

    def layer(name: str, logits: Any, **options: Any) -> Any:
        return 1.0 * lib.sample(name, lib.dist.Bernoulli(logits=logits).to_event(1), **options)

    def model(x: Any) -> None:
        with lib.plate("data", len(x)):
            top = layer("h2", lib.param("top", lib.xp.zeros(5)) + lib.xp.zeros((len(x), 5)))
            layer("x", layer("h1", top @ weights("w2", 5, 8)) @ weights("w1", 8, 30), obs=x)

    def guide(x: Any) -> None:
        with lib.plate("data", len(x)):
            layer("h2", layer("h1", x @ weights("v1", 30, 8)) @ weights("v2", 8, 5))

    return Program(model, guide, (lib.array(bits(40, 30)),))


def mean_field(lib: Library, name: str, shape: tuple[int, ...] = (), above: bool = False) -> Any:
    """A normal latent of the guide, or its exponential."""
    loc, scale = (
        lib.param(f"{name}.loc", lib.xp.zeros(shape)),
        lib.param(f"{name}.scale", 0.2 * lib.xp.ones(shape), constraint=lib.positive),
    )
    return lib.sample(name, (lib.dist.LogNormal if above else lib.dist.Normal)(loc, scale))


def hierarchical_regression(lib: Library) -> Program:
    """A slope and an intercept for each of six groups."""
    groups = np.arange(30) % 6

    def model(x: Any, y: Any) -> None:
        mean = lib.sample("mean", lib.dist.Normal(0.0, 2.0))
        spread = lib.sample("spread", lib.dist.HalfNormal(1.0))
        noise = lib.sample("noise", lib.dist.HalfNormal(1.0))
        with lib.plate("groups", 6):
            intercept = lib.sample("intercept", lib.dist.Normal(mean, spread))
            slope = lib.sample("slope", lib.dist.Normal(0.0, 1.0))
        with lib.plate("data", len(x)):
            lib.sample("y", lib.dist.Normal(intercept[groups] + slope[groups] * x, noise), obs=y)

    def guide(x: Any, y: Any) -> None:
        mean_field(lib, "mean")
        mean_field(lib, "spread", above=True)
        mean_field(lib, "noise", above=True)
        with lib.plate("groups", 6):
            mean_field(lib, "intercept", (6,))
            mean_field(lib, "slope", (6,))

    return Program(model, guide, (lib.array(draws(30)), lib.array(draws(30) + groups)))


def eight_schools(lib: Library) -> Program:
    """Not centred."""

    def model(error: Any, effect: Any) -> None:
        mu = lib.sample("mu", lib.dist.Normal(0.0, 5.0))
        tau = lib.sample("tau", lib.dist.HalfCauchy(5.0))
        with lib.plate("schools", 8):
            eta = lib.sample("eta", lib.dist.Normal(0.0, 1.0))
            lib.sample("effect", lib.dist.Normal(mu + tau * eta, error), obs=effect)

    def guide(error: Any, effect: Any) -> None:
        mean_field(lib, "mu")
        mean_field(lib, "tau", above=True)
        with lib.plate("schools", 8):
            mean_field(lib, "eta", (8,))

    return Program(model, guide, (lib.array(np.full(8, 10.0)), lib.array(10 * draws(8))))


def logistic_regression(lib: Library) -> Program:
    """Four coefficients."""

    def model(x: Any, y: Any) -> None:
        w = lib.sample("w", lib.dist.Normal(lib.xp.zeros(4), 1.0).to_event(1))
        with lib.plate("data", len(x)):
            lib.sample("y", lib.dist.Bernoulli(logits=x @ w), obs=y)

    def guide(x: Any, y: Any) -> None:
        loc, scale = lib.param("loc", lib.xp.zeros(4)), lib.param("scale", lib.xp.ones(4), constraint=lib.positive)
        lib.sample("w", lib.dist.Normal(loc, scale).to_event(1))

    return Program(model, guide, (lib.array(draws(50, 4)), lib.array(bits(50))))


def gaussian_mixture(lib: Library) -> Program:
    """A choice of three for each point, made by the guide."""

    def model(x: Any) -> None:
        loc = lib.param("locs", lib.array([-1.0, 0.0, 1.5]))
        with lib.plate("data", len(x)):
            k = lib.sample("k", lib.dist.Categorical(logits=lib.xp.zeros(3)))
            lib.sample("x", lib.dist.Normal(loc[k], 0.7), obs=x)

    def guide(x: Any) -> None:
        with lib.plate("data", len(x)):
            lib.sample("k", lib.dist.Categorical(logits=lib.param("logits", lib.xp.zeros((len(x), 3)))))

    return Program(model, guide, (lib.array(draws(30)),))


def gamma_poisson(lib: Library) -> Program:
    """A rate for each of ten counts."""

    def model(x: Any) -> None:
        with lib.plate("data", len(x)):
            lib.sample("x", lib.dist.Poisson(lib.sample("rate", lib.dist.Gamma(2.0, 1.0))), obs=x)

    def guide(x: Any) -> None:
        shape = lib.param("shape", 2 * lib.xp.ones(len(x)), constraint=lib.positive)
        with lib.plate("data", len(x)):
            lib.sample("rate", lib.dist.Gamma(shape, 1.0))

    return Program(model, guide, (lib.array(np.arange(10) % 4),))


def chain(lib: Library) -> Program:
    """Twelve bits, each on the one before."""

    def bit(name: str, logit: Any) -> Any:
        return 1.0 * lib.sample(name, lib.dist.Bernoulli(logits=logit))

    def model(x: Any) -> None:
        z: Any = lib.array(0.0)
        for t in range(12):
            z = bit(f"z{t}", 1.2 * z - 0.5)
        lib.sample("x", lib.dist.Normal(2 * z - 1, 0.8), obs=x)

    def guide(x: Any) -> None:
        logits, z = lib.param("logits", lib.xp.zeros(12)), 0.0
        for t in range(12):
            z = bit(f"z{t}", logits[t] + 0.5 * z)

    return Program(model, guide, (lib.array(0.7),))


def robust_regression(lib: Library) -> Program:
    """Heavy tails, their weight learned."""

    def model(x: Any, y: Any) -> None:
        slope = lib.sample("slope", lib.dist.Normal(0.0, 2.0))
        freedom = lib.sample("freedom", lib.dist.LogNormal(1.0, 0.5))
        noise = lib.sample("noise", lib.dist.HalfNormal(1.0))
        with lib.plate("data", len(x)):
            lib.sample("y", lib.dist.StudentT(1 + freedom, slope * x, noise), obs=y)

    def guide(x: Any, y: Any) -> None:
        mean_field(lib, "slope")
        mean_field(lib, "freedom", above=True)
        mean_field(lib, "noise", above=True)

    x = draws(40)
    return Program(model, guide, (lib.array(x), lib.array(1.5 * x + 0.3 * draws(40)[::-1])))


def topics(lib: Library) -> Program:
    """Weights of three topics per document, words as counts."""

    def model(counts: Any) -> None:
        words = lib.param("words", lib.array(draws(3, 12)))
        with lib.plate("data", len(counts)):
            z = lib.sample("z", lib.dist.Normal(lib.xp.zeros(3), 1.0).to_event(1))
            lib.sample("counts", lib.dist.Poisson(lib.xp.exp(z @ words)).to_event(1), obs=counts)

    def guide(counts: Any) -> None:
        loc = counts @ lib.param("v", lib.array(0.1 * draws(12, 3)))
        with lib.plate("data", len(counts)):
            lib.sample("z", lib.dist.Normal(loc, 0.3).to_event(1))

    return Program(model, guide, (lib.array(np.arange(120).reshape(10, 12) % 3),))


PROGRAMS: dict[str, Callable[[Library], Program]] = {
    "VAE": vae,
    "belief net": belief_net,
    "hierarchical regression": hierarchical_regression,
    "eight schools": eight_schools,
    "logistic regression": logistic_regression,
    "Gaussian mixture": gaussian_mixture,
    "gamma-Poisson": gamma_poisson,
    "chain of bits": chain,
    "robust regression": robust_regression,
    "topic counts": topics,
}
