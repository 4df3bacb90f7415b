"""Finite latents that stand in the model only are summed out: against closed forms, Pyro's and NumPyro's own sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
import pyro
import pytest
import torch

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Constant, DisArm, Enumerate, Score
from ppl_gen.language import dist, factor, param, plate, sample, xp
from ppl_gen.objectives import ELBO, Warmup

RNG = np.random.default_rng(0)
X = RNG.normal(size=5)
WORDS = RNG.normal(size=(3, 4))
LOCS, MOVES, TABLE = (
    np.array([-1.0, 0.2, 1.5]),
    np.array([[0.5, -0.2], [0.1, 1.0]]),
    np.array([[-1.0, 1.0], [0.5, 2.0]]),
)


def no_guide(x: Any) -> None:
    """Nothing is left to propose."""


def normal(x: Any, loc: Any) -> Any:
    return np.exp(-0.5 * (x - loc) ** 2) / np.sqrt(2 * np.pi)


def mixture(x: Any) -> None:
    logits, locs = param("logits", xp.asarray([0.1, 0.4, -0.3])), param("locs", xp.asarray(LOCS.tolist()))
    with plate("data", len(x)):
        k = sample("k", dist.Categorical(logits=logits))
        sample("x", dist.Normal(xp.take(locs, k), 1.0), obs=x)


def mixture_exact(x: Any, logits: Any, locs: Any) -> Any:
    weights = np.exp(logits) / np.exp(logits).sum()
    return np.log((weights * normal(x[:, None], locs)).sum(1))


def hidden_markov(x: Any) -> None:
    """Five steps: 32 paths, 4 runs."""
    moves, z = param("moves", xp.asarray(MOVES.tolist())), None
    for t in range(len(x)):
        z = sample(f"z{t}", dist.Categorical(logits=moves[z] if t else xp.zeros(2)))
        sample(f"x{t}", dist.Normal(2.0 * xp.astype(z, xp.float32) - 1.0, 1.0), obs=x[t])


def hidden_markov_exact(x: Any, moves: Any) -> Any:
    forward = 0.5 * normal(x[0], np.array([-1.0, 1.0]))
    for value in x[1:]:
        forward = (forward @ (np.exp(moves) / np.exp(moves).sum(1, keepdims=True))) * normal(
            value, np.array([-1.0, 1.0])
        )
    return np.log(forward.sum())


def topics(x: Any) -> None:
    """One choice for each document, one for each of its words."""
    table = param("table", xp.asarray(TABLE.tolist()))
    with plate("documents", 3, dim=-2):
        z = xp.astype(sample("z", dist.Bernoulli(0.3)), xp.int64)
        with plate("words", 4, dim=-1):
            w = xp.astype(sample("w", dist.Bernoulli(0.25 + 0.4 * xp.astype(z, xp.float32))), xp.int64)
            sample("x", dist.Normal(table[z, w], 1.0), obs=x)


def topics_exact(x: Any, table: Any) -> Any:
    total = 0.0
    for words in x:
        of_topic = [
            np.prod([sum(p * normal(v, table[z, w]) for w, p in enumerate((1 - q, q))) for v in words])
            for z, q in enumerate((0.25, 0.65))
        ]
        total += np.log(0.7 * of_topic[0] + 0.3 * of_topic[1])
    return total


CLOSED: dict[str, tuple[Any, Any, Callable[..., Any], dict[str, Any]]] = {
    "mixture": (mixture, X, mixture_exact, {"logits": np.array([0.1, 0.4, -0.3]), "locs": LOCS}),
    "hidden markov": (hidden_markov, X, hidden_markov_exact, {"moves": MOVES}),
    "topics": (topics, WORDS, topics_exact, {"table": TABLE}),
}


@pytest.mark.parametrize("name", CLOSED)
def test_value_and_gradient_are_those_of_the_closed_form(name: str, backend: str) -> None:
    model, data, exact, params = CLOSED[name]
    assert "summed out exactly" in str(infer.plan(model, no_guide, data, backend=backend))
    fit = infer.fit(model, no_guide, data, steps=1, backend=backend, compile=False)
    assert abs(fit.losses[0] + np.sum(exact(data, **params))) < 1e-4
    found = infer.gradient(model, no_guide, data, backend=backend)
    for key, value in params.items():
        for index in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[index] = 1e-5
            up, down = (np.sum(exact(data, **{**params, key: value + s * step})) for s in (1, -1))
            assert abs(found[key][0][index] + (up - down) / 2e-5) < 2e-4


def test_a_chain_takes_as_many_runs_as_its_neighbours_have_values(backend: str) -> None:
    plan = infer.plan(hidden_markov, no_guide, RNG.normal(size=12), backend=backend)
    assert "by 4 runs of the model" in plan.notes[0] and "z11 (Categorical, 2 levels)" in plan.notes[0]


def test_log_prob_and_minibatches_are_those_of_the_sum(backend: str) -> None:
    """The scale of a minibatch stands outside the logarithm: a pass over the batches adds up to the whole."""
    fit = infer.fit(mixture, no_guide, X[:4], steps=2, batch_size=2, learning_rate=1e-8, backend=backend)
    rows = mixture_exact(X[:4], np.array([0.1, 0.4, -0.3]), LOCS)
    assert abs(fit.losses.sum() / 2 + rows.sum()) < 1e-4
    np.testing.assert_allclose(fit.log_prob(X[:4]).value, rows, atol=1e-4)


def test_latents_of_the_guide_see_the_sum(backend: str) -> None:
    """A coin of the guide moves the mixture's weights; gradients against both joint values, |z| < 4.5."""

    def model(x: Any) -> None:
        coin = xp.astype(sample("coin", dist.Bernoulli(0.4)), xp.float32)
        with plate("data", 5):
            k = xp.astype(sample("k", dist.Bernoulli(logits=2.0 * coin - 1.0)), xp.float32)
            sample("x", dist.Normal(2.0 * k - 0.5, 1.0), obs=x)

    def guide(x: Any) -> None:
        sample("coin", dist.Bernoulli(logits=param("logit", xp.asarray(0.7))))

    def bound(logit: float) -> float:
        q = 1 / (1 + np.exp(-logit))
        total = 0.0
        for coin, weight, prior in ((0.0, 1 - q, 0.6), (1.0, q, 0.4)):
            p = 1 / (1 + np.exp(1.0 - 2.0 * coin))
            likelihood = np.log((1 - p) * normal(X, -0.5) + p * normal(X, 1.5)).sum()
            total += weight * (likelihood + np.log(prior) - np.log(weight))
        return total

    truth = -(bound(0.7 + 1e-5) - bound(0.7 - 1e-5)) / 2e-5
    draws = infer.gradient(model, guide, X, backend=backend, num_samples=2000)["logit"]
    assert abs(draws.mean() - truth) < 4.5 * draws.std() / np.sqrt(len(draws))
    assert draws.std() / np.sqrt(len(draws)) < abs(truth) / 5
    report = infer.check(model, guide, X, backend=backend, num_samples=200, max_samples=200, others=False)
    assert report.exact and report.ok is not False


def test_a_plain_pyro_mixture_is_worth_what_trace_enum_says() -> None:
    data = torch.tensor(X, dtype=torch.float32)

    @pyro.infer.config_enumerate
    def model(x: torch.Tensor) -> None:
        weights = pyro.param(
            "weights", torch.tensor([0.2, 0.5, 0.3]), constraint=torch.distributions.constraints.simplex
        )
        locs = pyro.param("locs", torch.tensor(LOCS, dtype=torch.float32))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", pyro.distributions.Categorical(weights))
            pyro.sample("x", pyro.distributions.Normal(locs[k], 1.0), obs=x)

    def guide(x: torch.Tensor) -> None:
        pass

    fit = infer.fit(model, guide, data, steps=3, learning_rate=1e-8)
    pyro.clear_param_store()
    theirs = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, data)
    pyro.clear_param_store()
    np.testing.assert_allclose(fit.losses, theirs, rtol=1e-5)


def test_a_plain_numpyro_chain_is_worth_what_trace_enum_says() -> None:
    pytest.importorskip("funsor")
    from numpyro.contrib.funsor import config_enumerate

    @config_enumerate
    def model(x: Any) -> None:
        moves = numpyro.param("moves", MOVES)
        z: Any = 0
        for t in range(3):
            z = numpyro.sample(f"z{t}", numpyro.distributions.Categorical(logits=moves[z]))
            numpyro.sample(f"x{t}", numpyro.distributions.Normal(2.0 * z - 1.0, 1.0), obs=x[t])

    import jax

    fit = infer.fit(model, no_guide, X[:3], steps=2, learning_rate=1e-8, backend="jax")
    theirs = numpyro.infer.TraceEnum_ELBO().loss(
        jax.random.key(0), {"moves": jax.numpy.asarray(MOVES)}, model, no_guide, X[:3]
    )
    np.testing.assert_allclose(fit.losses, float(theirs), rtol=1e-5)


def test_a_guide_site_marked_for_enumeration_is_enumerated(backend: str) -> None:
    def model(x: Any) -> None:
        z = sample("z", dist.Bernoulli(0.3))
        sample("x", dist.Normal(2.0 * xp.astype(z, xp.float32), 1.0), obs=x)

    def guide(x: Any) -> None:
        sample("z", dist.Bernoulli(logits=param("logit", xp.zeros(()))), infer={"enumerate": "parallel"})

    row = infer.plan(model, guide, np.asarray(0.5), backend=backend)["z"]
    assert type(row.estimator).__name__ == "Enumerate" and "marked" in row.reason


def meeting(x: Any) -> None:
    with plate("data", 5):
        k = xp.astype(sample("k", dist.Bernoulli(0.3)), xp.float32)
    sample("x", dist.Normal(xp.sum(k), 1.0), obs=x[0])


def mixed(x: Any) -> None:
    with plate("data", 5):
        k = xp.astype(sample("k", dist.Bernoulli(0.3)), xp.float32)
        sample("x", dist.Normal(k - xp.mean(k), 1.0), obs=x)


def crowded(x: Any) -> None:
    found = [xp.astype(sample(f"k{i}", dist.Categorical(logits=xp.zeros(7))), xp.float32) for i in range(3)]
    sample("x", dist.Normal(sum(found), 1.0), obs=x[0])


def loose(x: Any) -> None:
    k = xp.astype(sample("k", dist.Bernoulli(logits=xp.zeros(3))), xp.float32)
    sample("x", dist.Normal(xp.sum(k), 1.0), obs=x[0])


def endless(x: Any) -> None:
    k = sample("k", dist.Poisson(1.0))
    sample("x", dist.Normal(xp.astype(k, xp.float32), 1.0), obs=x[0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (meeting, "site 'k' .*side by side; they meet at site 'x'"),
        (mixed, "site 'k' .*side by side; they meet at site 'x'"),
        (loose, "site 'k' .Bernoulli.: expected elements that stand in a plate or an event"),
        (crowded, "256 runs can sum out; got 343"),
        (endless, "site 'k' .Poisson.: expected a discrete latent to be in the guide too"),
    ],
)
def test_what_cannot_be_summed_is_refused(model: Any, message: str, backend: str) -> None:
    with pytest.raises(ProgramError, match=message):
        infer.plan(model, no_guide, X, backend=backend)


def test_a_scale_within_the_sum_is_refused() -> None:
    def scaled(x: Any) -> None:
        with pyro.plate("data", 5), pyro.poutine.scale(scale=0.5):
            k = pyro.sample("k", pyro.distributions.Bernoulli(0.3))
            pyro.sample("x", pyro.distributions.Normal(k, 1.0), obs=x)

    with pytest.raises(ProgramError, match="expected no scale but its plates'"):
        infer.plan(scaled, no_guide, torch.tensor(X, dtype=torch.float32))


def test_what_is_masked_leaves_nothing_behind(backend: str) -> None:
    """Chains of different lengths, padded: each has the likelihood of its own steps, and their gradient."""
    lengths, x = np.array([5, 3, 1]), RNG.normal(size=(3, 5)).astype(np.float32)
    lib: Any = pyro if backend == "torch" else numpyro
    mask: Any = pyro.poutine.mask if backend == "torch" else numpyro.handlers.mask

    def model(x: Any, seen: Any) -> None:
        moves, z = param("moves", xp.asarray(MOVES.tolist())), 0
        with plate("data", len(x)):
            for t in range(5):
                with mask(mask=seen[:, t]):
                    z = lib.sample(f"z{t}", lib.distributions.Categorical(logits=moves[z] if t else xp.zeros(2)))
                    lib.sample(f"x{t}", lib.distributions.Normal(2.0 * z - 1.0, 1.0), obs=x[:, t])

    data = x, np.arange(5) < lengths[:, None]
    fit = infer.fit(model, lambda x, seen: None, data, steps=1, learning_rate=1e-9, backend=backend, compile=False)
    exact = [hidden_markov_exact(row[:length].astype(float), MOVES) for row, length in zip(x, lengths, strict=True)]
    np.testing.assert_allclose(fit.log_prob(data).value, exact, atol=1e-5)
    assert abs(fit.losses[0] + sum(exact)) < 1e-4


def test_factors_take_part(backend: str) -> None:
    """A factor that reads the summed site, by hand."""

    def model(x: Any) -> None:
        with plate("data", 5):
            k = xp.astype(sample("k", dist.Bernoulli(0.3)), xp.float32)
            factor("push", 1.5 * k * param("strength", xp.asarray(0.4)))
            sample("x", dist.Normal(k, 1.0), obs=x)

    fit = infer.fit(model, no_guide, X, steps=1, backend=backend, compile=False)
    by_hand = np.log(0.7 * normal(X, 0.0) + 0.3 * np.exp(0.6) * normal(X, 1.0)).sum()
    assert abs(fit.losses[0] + by_hand) < 1e-4


def behind(x: Any) -> None:
    """The summed choice decides the prior of one that is proposed."""
    c = sample("c", dist.Bernoulli(xp.asarray(0.3)))
    z = sample("z", dist.Bernoulli(0.05 + 0.9 * xp.astype(c, xp.float32)))
    sample("x", dist.Normal(xp.astype(z, xp.float32), 1.0), obs=x)


def ahead(x: Any) -> None:
    sample("z", dist.Bernoulli(logits=param("w", xp.asarray(0.4))))


@pytest.mark.parametrize("estimator", [Enumerate(), Score(Constant(0.0)), DisArm()])
def test_a_prior_that_reads_what_is_summed_out_is_part_of_the_signal(estimator: Any, backend: str) -> None:
    """The gradient is written out; 4000 draws have a standard error below 0.01, so that 0.05, without the prior, is far off."""
    prior = np.array([0.7 * 0.95 + 0.3 * 0.05, 0.7 * 0.05 + 0.3 * 0.95])
    q = 1 / (1 + np.exp(-0.4))
    gain = np.log(prior[1] / prior[0]) - (0.3**2 - 0.7**2) / 2 - np.log(q / (1 - q))
    draws = infer.gradient(
        behind, ahead, np.float32(0.7), backend=backend, estimators={"z": estimator}, num_samples=4000
    )["w"]
    error = draws.std() / np.sqrt(len(draws))
    assert error < 0.01 and abs(draws.mean() + q * (1 - q) * gain) < 4 * error + 1e-5


@pytest.mark.parametrize("weight", [0.25, Warmup(10)])
def test_a_weight_on_a_divergence_inside_a_sum_is_refused(weight: Any, backend: str) -> None:
    with pytest.raises(ProgramError, match="site 'z' has a prior that depends on 'c', which is summed out"):
        infer.plan(behind, ahead, np.float32(0.7), backend=backend, objective=ELBO(kl_weight=weight))


def test_plates_that_cross_are_refused(backend: str) -> None:
    """What is left of a row's sum would hold one value of the columns' choices for all columns."""

    def model(x: Any) -> None:
        with plate("rows", 2, dim=-1):
            a = xp.astype(sample("a", dist.Bernoulli(xp.full((2,), 0.3))), xp.float32)
        with plate("columns", 2, dim=-2):
            b = xp.astype(sample("b", dist.Bernoulli(xp.full((2, 1), 0.6))), xp.float32)
        with plate("columns", 2, dim=-2), plate("rows", 2, dim=-1):
            sample("x", dist.Normal(a + 2 * b, 1.0), obs=x)

    with pytest.raises(ProgramError, match="site 'a' .*plates that nest.*'b' in plate 'columns'"):
        infer.plan(model, no_guide, np.ones((2, 2), np.float32), backend=backend)


def test_a_sum_over_a_subsample_is_refused(backend: str) -> None:
    lib: Any = pyro if backend == "torch" else numpyro

    def model(x: Any) -> None:
        c = lib.sample("c", lib.distributions.Bernoulli(0.5)) * 1.0
        with lib.plate("data", len(x), subsample_size=2) as rows:
            lib.sample("x", lib.distributions.Normal(c, 1.0), obs=x[rows])

    with pytest.raises(ProgramError, match="site 'c' .*all elements of plate 'data' at once"):
        infer.plan(model, no_guide, np.float32(X), backend=backend)
