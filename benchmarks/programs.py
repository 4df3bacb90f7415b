"""Programs with discrete latents, small and mid-sized, on which estimators are held against one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppl_gen import data, models, nn
from ppl_gen.language import dist, factor, param, plate, sample, xp


class Case(NamedTuple):
    """A model, its guide, its data."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: Any


def real(value: Any) -> Any:
    """A discrete value as a float."""
    return xp.astype(value, xp.float32)


def three_bits() -> Case:
    """A cost of three bits, no prior: the smallest case in which parameters differ in their best baseline."""
    table = np.random.default_rng(0).normal(4.0, 3.0, (2, 2, 2)).astype(np.float32)

    def model(x: Any) -> None:
        y = real(sample("y", dist.Bernoulli(0.5 * xp.ones(3)).to_event(1)))
        chosen = xp.asarray(table)
        for i in range(3):
            chosen = chosen[0] * (1 - y[i]) + chosen[1] * y[i]
        factor("cost", -chosen)

    def guide(x: Any) -> None:
        sample("y", dist.Bernoulli(logits=param("w", xp.asarray([0.3, -0.8, 1.1]))).to_event(1))

    return Case(model, guide, np.zeros(1))


def coin() -> Case:
    """One bit for each of eight rows."""
    x = np.random.default_rng(1).normal(0.5, 1.0, 8)

    def model(x: Any) -> None:
        with plate("data", len(x)):
            z = real(sample("z", dist.Bernoulli(0.3)))
            sample("x", dist.Normal(2.0 * z - 0.5, 0.9), obs=x)

    def guide(x: Any) -> None:
        with plate("data", len(x)):
            sample("z", dist.Bernoulli(logits=param("logit", xp.asarray(0.4)) + 0.5 * x))

    return Case(model, guide, x)


def category() -> Case:
    """One of five levels for each of eight rows."""
    x = np.random.default_rng(2).normal(0.5, 1.0, 8)

    def model(x: Any) -> None:
        locs = param("locs", xp.asarray([-2.0, -1.0, 0.0, 1.0, 2.0]))
        with plate("data", len(x)):
            z = sample("z", dist.Categorical(logits=xp.zeros(5)))
            sample("x", dist.Normal(xp.take(locs, z), 0.9), obs=x)

    def guide(x: Any) -> None:
        with plate("data", len(x)):
            sample("z", dist.Categorical(logits=nn.linear("q", x[:, None], 5)))

    return Case(model, guide, x)


def chain(length: int = 6) -> Case:
    """Binary steps, each on the one before; the last is seen."""

    def model(x: Any) -> None:
        z: Any = 1.0
        for step in range(length):
            z = real(sample(f"z{step}", dist.Bernoulli(logits=1.2 * z - 0.7)))
        sample("x", dist.Normal(2.0 * z - 1.0, 0.8), obs=x)

    def guide(x: Any) -> None:
        logit, z = param("logit", xp.asarray(np.linspace(-0.8, 0.9, length).astype(np.float32))), 0.0
        for step in range(length):
            z = real(sample(f"z{step}", dist.Bernoulli(logits=logit[step] + 0.9 * z)))

    return Case(model, guide, np.asarray(0.6))


def switch() -> Case:
    """A bit that moves a normal: two kinds of latents, one behind the other."""

    def model(x: Any) -> None:
        k = real(sample("k", dist.Bernoulli(0.4)))
        z = sample("z", dist.Normal(2.0 * k - 1.0, 0.8))
        sample("x", dist.Normal(z, 0.6), obs=x)

    def guide(x: Any) -> None:
        k = real(sample("k", dist.Bernoulli(logits=param("logit", xp.asarray(1.2)))))
        sample("z", dist.Normal(param("low", xp.asarray(-0.2)) + param("gap", xp.asarray(0.5)) * k, 0.7))

    return Case(model, guide, np.asarray(0.4))


def groups() -> Case:
    """A bit for each group and one for each member."""
    x = np.random.default_rng(3).normal(0.5, 1.0, (4, 5))

    def model(x: Any) -> None:
        with plate("groups", 4, dim=-2):
            g = real(sample("g", dist.Bernoulli(0.4)))
            with plate("members", 5, dim=-1):
                m = real(sample("m", dist.Bernoulli(logits=1.5 * g - 0.5)))
                sample("x", dist.Normal(g + m, 0.8), obs=x)

    def guide(x: Any) -> None:
        with plate("groups", 4, dim=-2):
            g = real(
                sample("g", dist.Bernoulli(logits=param("g.logit", xp.zeros(())) + xp.mean(x, axis=1, keepdims=True)))
            )
            with plate("members", 5, dim=-1):
                sample("m", dist.Bernoulli(logits=param("m.logit", xp.zeros(())) + 0.5 * x - 0.3 * g))

    return Case(model, guide, x)


def step() -> Case:
    """Bits behind a threshold: the cost cannot be relaxed."""

    def model(x: Any) -> None:
        z = real(sample("z", dist.Bernoulli(0.5 * xp.ones(5)).to_event(1)))
        many = xp.where(xp.sum(z) > 2.5, xp.asarray(1.5), xp.asarray(-1.0))
        sample("x", dist.Normal(many, 0.8), obs=x)

    def guide(x: Any) -> None:
        sample("z", dist.Bernoulli(logits=param("logits", xp.asarray([0.2, -0.4, 0.6, 0.0, -0.9]))).to_event(1))

    return Case(model, guide, np.asarray(1.0))


def counts() -> Case:
    """A count: neither finite nor reparametrized."""

    def model(x: Any) -> None:
        n = real(sample("n", dist.Poisson(3.0)))
        sample("x", dist.Normal(n, 1.5), obs=x)

    def guide(x: Any) -> None:
        sample("n", dist.Poisson(param("rate", xp.asarray(2.0), dist.constraints.positive)))

    return Case(model, guide, np.asarray(4.0))


def digits(rows: int = 24) -> Any:
    """Binarized digits, 64 pixels."""
    images = data.load("digits").train.reshape(-1, 64)
    return (images[:rows] > 8).astype(float)


def built_in(model: Any) -> Case:
    """A built-in model on a batch of digits."""
    return Case(model, model.guide, digits())


def graph() -> Case:
    """Sixteen hidden units in two generations above twenty of the pixels."""
    parents = np.zeros((36, 36), dtype=bool)
    parents[6:16, :6] = True
    parents[16:, 4:16] = True
    model = models.BeliefGraph(parents, range(16, 36))
    return Case(model, model.guide, digits()[:, 20:40])


PROGRAMS: dict[str, Callable[[], Case]] = {
    "three bits": three_bits,
    "a bit per row": coin,
    "a category per row": category,
    "chain of six bits": chain,
    "bit moves normal": switch,
    "nested plates": groups,
    "threshold of bits": step,
    "count": counts,
    "linear belief net 64-50": lambda: built_in(models.SigmoidBeliefNet(64, (50,))),
    "two-layer belief net 64-30-30": lambda: built_in(models.SigmoidBeliefNet(64, (30, 30))),
    "bits, normals, categories": lambda: built_in(
        models.StochasticLayers(64, (models.Binary(20), models.Gaussian(5), models.Categories(3, 4)))
    ),
    "belief graph 20-10-6": graph,
}
