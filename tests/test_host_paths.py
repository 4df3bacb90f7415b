"""What a Pyro program reads on the host is read with every outcome; what cannot be is assumed to reach everything after."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Enumerate, Pathwise, Score

X = torch.tensor(1.8)
SEEDS = range(6)
LOGITS = {"w": 0.3, "z": 0.0, "v": -0.4}


def guide(x: Tensor) -> None:
    for name, start in LOGITS.items():
        pyro.sample(name, dist.Bernoulli(logits=pyro.param(f"l{name}", torch.tensor(start))))


def model_of(mean: Callable[..., Any]) -> Callable[[Tensor], None]:
    """Three coins, and an observation around what is made of them."""

    def model(x: Tensor) -> None:
        coins = {name: pyro.sample(name, dist.Bernoulli(0.4)) for name in LOGITS}
        pyro.sample("x", dist.Normal(torch.as_tensor(mean(**coins), dtype=torch.float32), 0.6), obs=x)

    return model


def exact(mean: Callable[..., Any]) -> dict[str, float]:
    """The gradient of minus the ELBO by enumeration, in double precision."""
    logits = {name: torch.tensor(start, dtype=torch.float64, requires_grad=True) for name, start in LOGITS.items()}
    total = torch.zeros((), dtype=torch.float64)
    for values in itertools.product((0.0, 1.0), repeat=len(LOGITS)):
        coins = {name: torch.tensor(value) for name, value in zip(LOGITS, values, strict=True)}
        log_q = sum(dist.Bernoulli(logits=logits[name]).log_prob(coins[name].double()) for name in LOGITS)
        log_p = sum(dist.Bernoulli(0.4).log_prob(coin).double() for coin in coins.values())
        log_p = log_p + dist.Normal(torch.as_tensor(mean(**coins), dtype=torch.float64), 0.6).log_prob(X.double())
        total = total + log_q.exp() * (log_q - log_p)
    total.backward()
    return {f"l{name}": float(leaf.grad) for name, leaf in logits.items() if leaf.grad is not None}


def _nested(w: Tensor, z: Tensor, v: Tensor) -> Any:
    if z > 0.5:
        return 0.3 if v > 0.5 else w
    return 2 * w


def _repeated(w: Tensor, z: Tensor, v: Tensor) -> Any:
    total = torch.zeros(())
    for _ in range(int(z + v)):
        total = total + w
    return total


def _counted_down(w: Tensor, z: Tensor, v: Tensor) -> Any:
    left, total = z + v, torch.tensor(0.2)
    while left > 0:
        left, total = left - 1, total + w
    return total


def _raises_never(w: Tensor, z: Tensor, v: Tensor) -> Any:
    if torch.isnan(z):
        raise ValueError("not a number")
    assert v < 2
    return z * w


BRANCHES: dict[str, Callable[..., Any]] = {
    "a branch": lambda w, z, v: 0.3 if z > 0.5 else 2 * w,
    "nested branches": _nested,
    "a list": lambda w, z, v: 2 * [w, v][int(z)],
    "a list by index": lambda w, z, v: 2 * [w, v][z.long()],
    "a dictionary": lambda w, z, v: {0: w, 1: 0.4 * v}[int(z.item())],
    "a dictionary of floats": lambda w, z, v: {0.0: w, 1.0: 0.4 * v}[z.item()],
    "so many times": _repeated,
    "while there are any left": _counted_down,
    "and": lambda w, z, v: w if z > 0.5 and v > 0.5 else 0.7,
    "the larger": lambda w, z, v: max(z, v) * w,
    "a list of values": lambda w, z, v: w if sum(torch.stack([z, v]).tolist()) == 1 else 0.1,
    "equality": lambda w, z, v: w if torch.equal(z, v) else 0.1,
    "a slice": lambda w, z, v: torch.stack([w, v, w])[: int(z) + 1].sum(),
    "what would raise": _raises_never,
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_gives_the_exact_gradient(name: str) -> None:
    """Enumeration is exact: no false alarm. The signal of every latent is complete, whichever way the first run went."""
    expected = exact(BRANCHES[name])
    found = infer.gradient(model_of(BRANCHES[name]), guide, X, estimators=dict.fromkeys(LOGITS, Enumerate()))
    for parameter, value in expected.items():
        assert found[parameter][0] == pytest.approx(value, abs=2e-4)


@pytest.mark.parametrize("name", ["a branch", "a list", "nested branches"])
def test_no_seed_hides_a_branch(name: str) -> None:
    plans = [infer.plan(model_of(BRANCHES[name]), guide, X, seed=seed) for seed in SEEDS]
    assert all("x" in plan["w"].depends for plan in plans)
    assert all("every outcome was followed" in str(plan) for plan in plans)


def test_a_step_on_one_side_of_a_branch_is_scored_whatever_the_seed() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(w if z > 0.5 else torch.floor(w), 0.6), obs=x)

    def both(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))
        pyro.sample("z", dist.Bernoulli(logits=pyro.param("l", torch.tensor(0.0))))

    for seed in SEEDS:
        assert isinstance(infer.plan(model, both, X, seed=seed)["w"].estimator, Score)


def _gaussians(mean: Callable[[Tensor, Tensor], Any]) -> tuple[Callable[..., None], Callable[..., None]]:
    def model(x: Tensor) -> None:
        w, z = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("w", "z"))
        pyro.sample("x", dist.Normal(torch.as_tensor(mean(w, z)), 0.6), obs=x)

    def proposal(x: Tensor) -> None:
        for name in ("w", "z"):
            pyro.sample(name, dist.Normal(pyro.param(f"m{name}", torch.tensor(0.3)), 1.0))

    return model, proposal


def _until(w: Tensor, z: Tensor) -> Any:
    while z.abs() > 0.1:
        z = z / 2
        w = torch.tanh(w)
    return w


def _in_a_thread(w: Tensor, z: Tensor) -> Any:
    made: list[Tensor] = []
    worker = threading.Thread(target=lambda: made.append(w + z.sign()))
    worker.start()
    worker.join()
    return made[0]


def _in_a_pool(w: Tensor, z: Tensor) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: w + z.sign()).result()


UNKNOWN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a real number": lambda w, z: w if z.item() > 3 else torch.tensor(0.1),
    "by way of NumPy": lambda w, z: w if np.sign(z.detach().numpy()) > 0 else torch.tensor(0.1),
    "a whole number of any size": lambda w, z: [w, w.floor()][int(z.exp()) % 2],
    "without end": _until,
    "another thread": _in_a_thread,
    "a pool of threads": _in_a_pool,
    "a shape": lambda w, z: w if len(torch.stack([z, z])[torch.stack([z, z]) > 0]) else torch.tensor(0.1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_be_anything_reaches_all_that_comes_after(name: str) -> None:
    for seed in range(2):
        plan = infer.plan(*_gaussians(UNKNOWN[name]), X, seed=seed)
        for site in ("w", "z"):
            assert isinstance(plan[site].estimator, Score)
            assert "x" in plan[site].depends
        assert "not every outcome was followed" in str(plan)


def test_text_of_a_latent_is_said_and_costs_nothing() -> None:
    plan = infer.plan(*_gaussians(lambda w, z: (print(w), z)[1]), X)
    assert isinstance(plan["w"].estimator, Pathwise)
    assert any("made into text at test_host_paths.py" in note for note in plan.notes)
    assert "text" not in str(infer.plan(*_gaussians(lambda w, z: (print(X), z)[1]), X))


def test_many_outcomes_are_not_all_followed() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", 8):
            z = pyro.sample("z", dist.Bernoulli(0.4))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(sum((w if one > 0.5 else torch.tensor(0.0)) for one in z), 0.6), obs=x)

    def proposal(x: Tensor) -> None:
        with pyro.plate("rows", 8):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("l", torch.zeros(8))))
        pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    plan = infer.plan(model, proposal, X)
    assert "more than 32" in str(plan)
    assert isinstance(plan["w"].estimator, Score)
    assert plan["z"].summed_plates == {"rows"}


def test_a_site_on_some_paths_only_is_refused_whatever_the_seed() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Bernoulli(0.01))
        mean = pyro.sample("extra", dist.Normal(0.0, 1.0)) if w > 0.5 else torch.tensor(0.0)
        pyro.sample("x", dist.Normal(mean, 0.6), obs=x)

    def proposal(x: Tensor) -> None:
        w = pyro.sample("w", dist.Bernoulli(probs=pyro.param("p", torch.tensor(0.01))))
        if w > 0.5:
            pyro.sample("extra", dist.Normal(0.0, 1.0))

    for seed in range(3):
        with pytest.raises(ProgramError, match=r"site 'extra'.*in every run"):
            infer.plan(model, proposal, X, seed=seed)


def _asserted(w: Tensor, z: Tensor) -> Tensor:
    assert not torch.isnan(w).any()
    if not torch.isfinite(z):
        raise ValueError("z")
    return w + z


def test_an_outcome_that_the_program_refuses_itself_costs_nothing() -> None:
    plan = infer.plan(*_gaussians(_asserted), X)
    assert all(isinstance(plan[site].estimator, Pathwise) for site in ("w", "z")), plan
    assert "outcome" not in str(plan)


def test_what_depends_on_data_alone_costs_nothing() -> None:
    def mean(w: Tensor, z: Tensor) -> Any:
        return w if X > 1 else torch.floor(z)

    plan = infer.plan(*_gaussians(mean), X)
    assert all(isinstance(plan[site].estimator, Pathwise) for site in ("w", "z"))
    assert "outcome" not in str(plan)


def test_reading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    infer.plan(model_of(_nested), guide, X)
    drawn = float(torch.rand(())), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    assert drawn == (float(torch.rand(())), np.random.rand())
