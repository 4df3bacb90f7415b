"""Enumeration in the guide: exact means from few runs, against the judge, which tries every joint value."""

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
from ppl_gen.estimators import Enumerate, Score
from ppl_gen.language import dist, param, plate, sample, xp
from ppl_gen.objectives import ELBO
from tests import reference

X = np.array([0.3, -1.2, 0.8, 0.1, 1.4])
Programs = tuple[Callable[[Any], None], Callable[[Any], None]]


def real(value: Any) -> Any:
    return xp.astype(value, xp.float32)


def observe(x: Any, loc: Any, name: str = "x") -> None:
    sample(name, dist.Normal(loc, param("scale", xp.asarray(0.9))), obs=x)


def chain() -> Programs:
    """Five bits, each drawn from the one before, in model and guide: 32 joint values, 4 runs."""

    def walk(x: Any, free: Any, role: str) -> None:
        z = None
        for t in range(len(X)):
            logits = free[t] if z is None else free[t] + 1.1 * real(z)
            z = sample(f"z{t}", dist.Bernoulli(logits=logits))
            if role == "model":
                observe(x[t], 2.0 * real(z) - 1.0, f"x{t}")

    def model(x: Any) -> None:
        walk(x, param("p", xp.asarray([0.2, -0.1, 0.3, 0.0, -0.4])), "model")

    def guide(x: Any) -> None:
        walk(x, param("q", xp.asarray([-0.3, 0.5, 0.1, 0.4, -0.2])), "guide")

    return model, guide


def tree() -> Programs:
    """A root of three levels outside the plate, two bits per element below it, one observation that reads both bits."""

    def walk(free: Any) -> tuple[Any, Any, Any]:
        root = sample("root", dist.Categorical(logits=free[:3]))
        with plate("rows", 2):
            left = sample("left", dist.Bernoulli(logits=free[3] + 0.7 * real(root) + xp.zeros(2)))
            right = sample("right", dist.Bernoulli(logits=free[4] - 0.4 * real(root) + xp.zeros(2)))
        return root, left, right

    def model(x: Any) -> None:
        _, left, right = walk(param("p", xp.asarray([0.1, -0.3, 0.2, 0.4, -0.2])))
        with plate("rows", 2):
            observe(x[:2], real(left) - 1.5 * real(right) + 0.3 * real(left) * real(right))

    def guide(x: Any) -> None:
        walk(param("q", xp.asarray([-0.2, 0.3, 0.5, -0.1, 0.6])))

    return model, guide


def apart() -> Programs:
    """Five bits that the guide draws by themselves and the model strings together: pairs are read, never all five."""

    def model(x: Any) -> None:
        z = None
        for t in range(len(X)):
            z = sample(f"z{t}", dist.Bernoulli(logits=xp.zeros(()) if z is None else 1.5 * real(z) - 0.5))
            observe(x[t], 2.0 * real(z) - 1.0, f"x{t}")

    def guide(x: Any) -> None:
        free = param("q", xp.asarray([-0.3, 0.5, 0.1, 0.4, -0.2]))
        for t in range(len(X)):
            sample(f"z{t}", dist.Bernoulli(logits=free[t]))

    return model, guide


def moving() -> Programs:
    """A bit that moves a drawn one is tried by itself; the chain of two that follows both is eliminated."""

    def walk(free: Any) -> Any:
        a = sample("a", dist.Bernoulli(logits=free[0]))
        b = sample("b", dist.Bernoulli(logits=free[1] + real(a)))
        c = sample("c", dist.Bernoulli(logits=free[2] - 0.8 * real(b) + 0.5 * real(a)))
        return real(a) + real(b) - 1.2 * real(c) + 0.7 * real(sample("d", dist.Categorical(logits=free[3:] * real(c))))

    def model(x: Any) -> None:
        observe(x[0], walk(param("p", xp.asarray([0.1, -0.2, 0.3, 0.5, -0.5, 0.2]))))

    def guide(x: Any) -> None:
        walk(param("q", xp.asarray([-0.1, 0.4, 0.2, -0.6, 0.3, 0.4])))

    return model, guide


EVERYWHERE: dict[str, tuple[Callable[[], Programs], int]] = {
    "chain": (chain, 4),
    "tree": (tree, 12),
    "apart": (apart, 4),
}


@pytest.mark.parametrize("name", list(EVERYWHERE))
def test_enumeration_is_exact_in_few_runs(name: str, backend: str) -> None:
    program, runs = EVERYWHERE[name]
    model, guide = program()
    truth = reference.gradient(model, guide, (X,), reference.initial_params(model, guide, (X,)))
    asked = {"*": Enumerate()}
    assert infer.plan(model, guide, X, estimators=asked, backend=backend).enumeration.runs == runs
    found = infer.gradient(model, guide, X, estimators=asked, num_samples=2, backend=backend)
    for key, value in truth.items():
        np.testing.assert_allclose(found[key], np.broadcast_to(value, found[key].shape), atol=2e-5)


def test_sites_that_move_a_drawn_one_are_tried_jointly(backend: str) -> None:
    """|z| < 5 for 13 components: by luck 7e-6; `b` is drawn, and nothing else is noise."""
    model, guide = moving()
    params = reference.initial_params(model, guide, (X,))
    truth = reference.gradient(model, guide, (X,), params)
    asked = {"b": Score(), "*": Enumerate()}
    found = infer.plan(model, guide, X, estimators=asked, backend=backend).enumeration
    assert dict(found.joint) == {"a": 2} and set(found.trials.sizes) == {"c", "d"}
    number = 4000 if backend == "jax" else 600
    draws = infer.gradient(model, guide, X, estimators=asked, num_samples=number, backend=backend, params=params)
    spread = []
    for key, value in truth.items():
        error = np.maximum(draws[key].std(0, ddof=1) / np.sqrt(number), 1e-4)
        assert np.all(np.abs(draws[key].mean(0) - value) < 5 * error), key
        spread.append(float(np.max(draws[key].std(0))))
    assert max(spread) > 0.05  # there is something to be wrong about


@pytest.mark.parametrize("objective", [ELBO(kl_weight=0.4), ELBO(analytic_kl=True)])
def test_other_forms_of_the_bound_are_enumerated_too(objective: ELBO) -> None:
    """A weight on the divergence, and its closed form, which is that of the drawn one on average."""
    model, guide = apart()
    options: dict[str, Any] = {"num_samples": 1, "backend": "torch", "objective": objective}
    found = infer.gradient(model, guide, X, estimators={"*": Enumerate()}, **options)
    drawn = infer.gradient(model, guide, X, **{**options, "num_samples": 600})
    for key, value in found.items():
        error = drawn[key].std(0, ddof=1) / np.sqrt(600)
        assert np.all(np.abs(drawn[key].mean(0) - value[0]) < 5 * error + 1e-4)


def test_a_long_chain_takes_four_runs_on_torch() -> None:
    """Sixty bits have 10^18 joint values."""

    def walk(free: Any) -> None:
        z = torch.tensor(0.0)
        for t in range(60):
            z = pyro.sample(f"z{t}", pyro.distributions.Bernoulli(logits=free[t] + z))

    def model() -> None:
        walk(torch.linspace(-1, 1, 60))

    @pyro.infer.config_enumerate
    def guide() -> None:
        walk(pyro.param("q", torch.zeros(60)))

    plan = infer.plan(model, guide, ())
    assert plan.enumeration.runs == 4 and all(isinstance(plan[site].estimator, Enumerate) for site in plan)
    draws = infer.gradient(model, guide, (), num_samples=2)["q"]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_allclose(draws[0], minus_divergence_slope(np.linspace(-1, 1, 60)), atol=1e-4)


def minus_divergence_slope(prior: np.ndarray) -> np.ndarray:
    """Derivative of KL(q || p) of the chain above at q = 0, by a forward pass and central differences."""

    def divergence(free: np.ndarray) -> float:
        total, state = 0.0, np.array([1.0, 0.0])  # probabilities of the bit before; the first follows a zero
        for t in range(60):
            ups = [1 / (1 + np.exp(-(logits[t] + np.arange(2)))) for logits in (free, prior)]
            q, p = (np.stack([1 - up, up], axis=1) for up in ups)
            total += float((state[:, None] * q * (np.log(q) - np.log(p))).sum())
            state = state @ q
        return total

    steps = 1e-5 * np.eye(60)
    return np.array([(divergence(step) - divergence(-step)) / 2e-5 for step in steps])


def test_marked_sites_of_a_numpyro_guide_are_enumerated() -> None:
    def model(x: Any) -> None:
        numpyro.sample("z", numpyro.distributions.Bernoulli(0.4))

    def guide(x: Any) -> None:
        q = numpyro.param("q", 0.3)
        numpyro.sample("z", numpyro.distributions.Bernoulli(logits=q), infer={"enumerate": "parallel"})

    plan = infer.plan(model, guide, X)
    assert isinstance(plan["z"].estimator, Enumerate) and "marked" in plan["z"].reason


def test_too_many_values_are_refused_before_they_are_tried() -> None:
    """Twelve bits that one observation reads together."""

    def walk() -> Any:
        return sum(real(sample(f"z{i}", dist.Bernoulli(logits=param(f"q{i}", xp.asarray(0.1))))) for i in range(12))

    def model(x: Any) -> None:
        observe(x[0], sum(real(sample(f"z{i}", dist.Bernoulli(0.4))) for i in range(12)))

    def guide(x: Any) -> None:
        walk()

    with pytest.raises(ProgramError, match=r"site 'z0' \(Bernoulli\): .*12 sites that take 4096 runs"):
        infer.plan(model, guide, X, backend="torch", estimators={"*": Enumerate()})
    plan = infer.plan(model, guide, X, backend="torch", estimators={"z0": Enumerate(), "z1": Enumerate()})
    assert plan.enumeration.runs == 4
