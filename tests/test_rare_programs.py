"""Programs in which a fault stays unseen unless one looks for it: right, or refused with the site's name.

Comparisons as in `tests/test_soundness.py`: |z| < 4.5 per entry (false alarm 7e-6), against an exact value, with a
wrong one that would fail.
"""

from __future__ import annotations

import itertools
import random
import warnings
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from numpyro.contrib.control_flow import cond, scan

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Pathwise, Score
from ppl_gen.objectives import WakeSleep
from tests.plan_table import floats, library
from tests.test_soundness import assert_unbiased, gradient, log_bernoulli, log_normal, sigmoid, slope

# -- which elements move which ---------------------------------------------------------------------------------------

ROWS = np.array([-1.5, 2.0, -2.5, 1.7, -2.0], dtype=np.float32)
LOGITS = np.linspace(-0.6, 0.8, 5).astype(np.float32)


def exchanged(z: Any) -> Any:
    """The first and last elements keep their places."""
    return 2.0 * z[np.array([0, 2, 1, 3, 4])]


def product(z: Any) -> Any:
    """An element is moved by another only where it is one itself."""
    return z * 2.0 * z[np.array([0, 3, 2, 1, 4])]


@pytest.mark.parametrize("mean", [exchanged, product])
def test_any_two_elements_of_a_plate_may_mix(mean: Any, backend: str) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        with lib.plate("rows", 5):
            z = floats(lib.sample("z", lib.dist.Bernoulli(lib.array(np.full(5, 0.3)))))
            lib.sample("x", lib.dist.Normal(mean(z), 1.0), obs=x)

    def guide(x: Any) -> None:
        with lib.plate("rows", 5):
            lib.sample("z", lib.dist.Bernoulli(logits=lib.param("q", lib.array(LOGITS))))

    def loss(logits: np.ndarray, whole: bool = True) -> float:
        q, total = sigmoid(logits), 0.0
        for values in itertools.product((0, 1), repeat=5):
            z = np.array(values, dtype=float)
            weight = np.prod(np.where(z == 1, q, 1 - q))
            cost = log_normal(ROWS, mean(z)) * whole + log_bernoulli(z, 0.3) - log_bernoulli(z, q)
            total -= weight * cost.sum()
        return float(total)

    exact = slope(loss, LOGITS)
    program = (model, guide, lib.array(ROWS))
    assert infer.plan(*program, backend=backend)["z"].summed_plates == {"rows"}
    draws = gradient(program, backend, 4000 if backend == "jax" else 1500)["q"]
    assert_unbiased(draws, exact, {"zero": 0 * exact, "no likelihood": slope(lambda a: loss(a, False), LOGITS)})


def test_elements_in_no_plate_share_one_learned_baseline() -> None:
    """NumPyro takes such programs; the sum over elements must not be taken once more for each of them."""
    x = np.array([1.0, -0.5, 2.0])

    def model(x: Any) -> None:
        z = numpyro.sample("z", numpyro.distributions.Bernoulli(0.3 * jnp.ones(3)))
        numpyro.sample("x", numpyro.distributions.Normal(1.5 * z, 1.0), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("z", numpyro.distributions.Bernoulli(logits=numpyro.param("q", jnp.array([0.3, -0.4, 0.5]))))

    def loss(logits: np.ndarray) -> float:
        q = sigmoid(logits)
        parts = [
            np.where(z, q, 1 - q) * (log_bernoulli(z, q) - log_bernoulli(z, 0.3) - log_normal(x, 1.5 * z))
            for z in (0, 1)
        ]
        return float(np.sum(parts))

    exact = slope(loss, [0.3, -0.4, 0.5])
    assert isinstance(infer.plan(model, guide, x, backend="jax")["z"].estimator, Score)
    assert_unbiased(gradient((model, guide, x), "jax", 4000)["q"], exact, {"three times": 3 * exact, "zero": 0 * exact})


# -- values behind transforms and inside control flow ----------------------------------------------------------------


def test_the_score_of_a_transformed_distribution_is_taken_at_the_value(backend: str) -> None:
    """A log-normal behind a step: NumPyro would use the draw before its transform, through which a gradient leaks."""
    lib = library(backend)

    def model(x: Any) -> None:
        z = lib.sample("z", lib.dist.LogNormal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(3.0 * floats(z > 1.0), 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("z", lib.dist.LogNormal(lib.param("loc", lib.array(0.4)), 0.5))

    grid = np.linspace(-6, 7, 40_001)

    def loss(loc: np.ndarray, likelihood: bool = True) -> float:
        q = np.exp(log_normal(grid, loc, 0.5))
        fit = log_normal(-0.5, 3.0 * (grid > 0))
        return -float(np.trapezoid(q * (log_normal(grid, 0.0) - log_normal(grid, loc, 0.5) + likelihood * fit), grid))

    at = np.array(0.4)
    exact = (loss(at + 1e-3) - loss(at - 1e-3)) / 2e-3  # the grid cuts the step: a wider difference
    wrong = (loss(at + 1e-3, False) - loss(at - 1e-3, False)) / 2e-3
    assert_unbiased(gradient((model, guide, lib.array(-0.5)), backend)["loc"], exact, {"zero": 0.0, "lost": wrong})


SERIES = np.array([1.0, -0.5, 2.0])


def test_numpyros_scan_sees_the_guides_values() -> None:
    """Conjugate in three steps: exact by the expectation of a quadratic."""

    def model(x: Any) -> None:
        def body(carry: Any, xt: Any) -> Any:
            z = numpyro.sample("z", numpyro.distributions.Normal(0.8 * carry, 1.0))
            numpyro.sample("x", numpyro.distributions.Normal(z, 1.0), obs=xt)
            return z, None

        scan(body, jnp.array(0.0), x)

    def guide(x: Any) -> None:
        numpyro.sample("z", numpyro.distributions.Normal(numpyro.param("loc", jnp.array([0.3, -0.4, 0.5])), 0.5))

    def loss(loc: np.ndarray) -> float:  # E(a - b)^2 = (mean gap)^2 + constants in loc
        before = np.concatenate([[0.0], loc[:-1]])
        return float(0.5 * ((loc - 0.8 * before) ** 2).sum() + 0.5 * ((SERIES - loc) ** 2).sum())

    exact = slope(loss, [0.3, -0.4, 0.5])
    data = SERIES.astype(np.float32)
    assert isinstance(infer.plan(model, guide, data, backend="jax")["z"].estimator, Pathwise)
    assert_unbiased(
        gradient((model, guide, data), "jax")["loc"], exact, {"zero": 0 * exact, "unseen": [0.31, -0.41, 0.51]}
    )


def test_discrete_latents_drawn_by_numpyros_scan_or_cond_are_refused() -> None:
    def model(x: Any) -> None:
        def body(carry: Any, xt: Any) -> Any:
            z = numpyro.sample("z", numpyro.distributions.Bernoulli(jax.nn.sigmoid(carry)))
            numpyro.sample("x", numpyro.distributions.Normal(z, 1.0), obs=xt)
            return 1.0 * z, None

        scan(body, jnp.array(0.0), x)

    def steps(x: Any) -> None:
        def body(carry: Any, xt: Any) -> Any:
            z = numpyro.sample("z", numpyro.distributions.Bernoulli(jax.nn.sigmoid(carry)))
            return 1.0 * z, None

        scan(body, jnp.array(0.0), x)

    with pytest.raises(
        ProgramError, match=r"site 'z' \(Bernoulli.*values are discrete.*drawn inside scan.*Python loop"
    ):
        infer.plan(model, steps, SERIES, backend="jax")

    def branches(x: Any) -> None:
        def draw(loc: Any) -> Any:
            return numpyro.sample("z", numpyro.distributions.Normal(loc, 1.0))

        z = cond(x[0] > 0, draw, draw, 0.5)
        numpyro.sample("x", numpyro.distributions.Normal(z, 1.0), obs=x[0])

    def guide(x: Any) -> None:
        numpyro.sample("z", numpyro.distributions.Normal(numpyro.param("loc", 0.3), 1.0))

    with pytest.raises(ProgramError, match=r"site 'z' \(Normal\).*cond"):
        infer.gradient(branches, guide, SERIES, backend="jax")


@pytest.mark.parametrize("smooth", [True, False])
def test_the_plan_refuses_a_latent_inside_scan_whose_cost_jumps(smooth: bool) -> None:
    """Pathwise would be wrong, and no other estimator can hold a value there."""

    def model(x: Any) -> None:
        def body(carry: Any, xt: Any) -> Any:
            z = numpyro.sample("z", numpyro.distributions.Normal(0.7 * carry, 0.8))
            side = jnp.tanh(z) if smooth else jnp.where(z > 0, z, 0.3 - z)
            numpyro.sample("x", numpyro.distributions.Normal(side, 0.5), obs=xt)
            return z, None

        scan(body, jnp.array(0.0), x)

    def guide(x: Any) -> None:
        def body(carry: Any, loc: Any) -> Any:
            z = numpyro.sample("z", numpyro.distributions.Normal(loc + 0.3 * carry, 0.7))
            return z, None

        scan(body, jnp.array(0.0), numpyro.param("loc", jnp.zeros(len(x))))

    if smooth:
        asked = {"*": Score()}  # wherever it is right
        assert isinstance(infer.plan(model, guide, SERIES, backend="jax", estimators=asked)["z"].estimator, Pathwise)
        with pytest.raises(ProgramError, match=r"got Score\(.*drawn inside scan"):
            infer.plan(model, guide, SERIES, backend="jax", estimators={"z": Score()})
        return
    words = r"site 'z' \(Normal\).*jumps with its value at test_rare_programs.py:\d+: gt.*inside scan.*Python loop or smooth the"
    for verb in (infer.plan, infer.gradient, infer.fit):
        with pytest.raises(ProgramError, match=words):
            verb(model, guide, SERIES, backend="jax")


def test_a_parameter_that_moves_a_step_together_with_a_latent_is_said(backend: str) -> None:
    """It has a smooth way too, so that nothing is refused; half of its gradient is missing."""
    lib = library(backend)

    def model(x: Any) -> None:
        loc, eps = lib.param("loc", lib.array(0.4)), lib.sample("eps", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(3.0 * floats(loc + eps > 0), 1.0), obs=x)
        lib.sample("y", lib.dist.Normal(loc, 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("eps", lib.dist.Normal(lib.param("m", lib.array(0.2)), 1.0))

    notes = infer.plan(model, guide, lib.array(-1.0), backend=backend).notes
    assert [note for note in notes if "param 'loc'" in note and "test_rare_programs.py" in note]
    assert not [note for note in notes if "param 'm'" in note]


# -- programs whose sites come and go --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_sites_that_come_and_go_are_refused_by_name(seed: int, backend: str) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        n = lib.sample("n", lib.dist.Categorical(lib.array([0.2, 0.3, 0.5])))
        for i in range(int(n)):
            lib.sample(f"x{i}", lib.dist.Normal(0.0, 1.0), obs=x[i])

    def guide(x: Any) -> None:
        lib.sample("n", lib.dist.Categorical(logits=lib.param("q", lib.array([0.3, -0.2, 0.1]))))

    with pytest.raises(ProgramError, match=r"site 'x\d': expected the same sites"):
        infer.plan(model, guide, lib.array([1.2, -0.7]), backend=backend, seed=seed)


def test_a_site_that_turns_up_late_stops_the_run() -> None:
    calls = itertools.count()

    def model(x: Any) -> None:
        for i in range(2 if next(calls) < 12 else 3):
            pyro.sample(f"x{i}", pyro.distributions.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0), obs=x[i])

    with pytest.raises(ProgramError, match="site 'x2'"):
        infer.fit(model, None, np.arange(4.0), steps=20, compile=False, progress=False)


# -- automatic guides before a step ------------------------------------------------------------------------------------


AUTOMATIC = ("AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal")


@pytest.mark.parametrize("name", AUTOMATIC)
def test_an_automatic_guide_before_a_step_is_scored(name: str, backend: str) -> None:
    """Its draw comes in as a point mass, which is no choice of its own: the step belongs to the choice before it."""
    lib, (mean, spread, x) = library(backend), (0.3, 0.5, -0.7)

    def model(data: Any) -> None:
        z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(2.0 * floats(z > 0), 1.0), obs=data)

    guide = automatic_guide(name, model, mean, spread, backend)

    def loss(loc: np.ndarray) -> float:
        step = ((x - 2.0) ** 2 - x**2) / 2 * NormalDist(loc[0], spread).cdf(0.0)
        return float(loc[0] ** 2 / 2 - step)

    program = (model, guide, lib.array(x))
    (params,) = ({n for n in infer.gradient(*program, num_samples=2) if "loc" in n},)
    exact = slope(loss, np.array([mean]))
    draws = gradient(program, backend, 4000)[params.pop()].reshape(-1, 1)
    assert_unbiased(draws, exact, {"zero": 0 * exact, "no step": np.array([mean])})


def automatic_guide(name: str, model: Any, mean: float, spread: float, backend: str) -> Any:
    """Pyro's or NumPyro's, from a given start."""
    if backend == "jax":
        init = numpyro.infer.init_to_value(values={"z": jnp.array(mean)})
        return getattr(numpyro.infer.autoguide, name)(model, init_loc_fn=init, init_scale=spread)
    init = pyro.infer.autoguide.init_to_value(values={"z": torch.tensor(mean)})
    return getattr(pyro.infer.autoguide, name)(model, init_loc_fn=init, init_scale=spread)


def test_a_point_mass_that_a_parameter_moves_over_a_step_is_refused(backend: str) -> None:
    lib = library(backend)

    def model(data: Any) -> None:
        z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(2.0 * floats(z > 0), 1.0), obs=data)

    package = pyro.infer.autoguide if backend == "torch" else numpyro.infer.autoguide
    with pytest.raises(ProgramError, match=r"site 'z' \(Delta\).*jumps with its value"):
        infer.plan(model, package.AutoDelta(model), lib.array(0.7))


# -- derivatives that are not the function's own -----------------------------------------------------------------------


@jax.custom_jvp
def backwards(z: Any) -> Any:
    return 2.0 * z


backwards.defjvp(lambda primals, tangents: (backwards(*primals), -tangents[0]))


def turned(z: Any) -> Any:
    """Twice the value; what comes back is turned round, where anything does."""
    out = 2.0 * z
    if out.requires_grad:
        out.register_hook(torch.neg)
    return out


def turned_by_a_network(z: Any) -> Any:
    """The identity, as a network with a hook of its own."""
    network = torch.nn.Identity()
    network.register_full_backward_hook(lambda *given: tuple(-one for one in given[1]))
    return network(z)


LEAPS: list[tuple[str, Any]] = [
    ("jax", backwards),
    ("torch", lambda z: torch.complex(torch.tensor(-1.0), z).log().imag),
    ("torch", lambda z: torch.linalg.slogdet(z.reshape(1, 1))[0]),
    ("jax", lambda z: jnp.sqrt(-1.0 + 1j * z).imag),
    ("torch", turned),
    ("torch", turned_by_a_network),
]


@pytest.mark.parametrize(
    ("backend", "mean"), LEAPS, ids=["rule", "complex log", "sign of det", "complex root", "hook", "network's hook"]
)
def test_a_derivative_that_is_not_the_functions_own_is_not_followed(backend: str, mean: Any) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        lib.sample("x", lib.dist.Normal(mean(lib.sample("z", lib.dist.Normal(0.0, 1.0))), 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("z", lib.dist.Normal(lib.param("loc", lib.array(0.4)), 0.8))

    row = infer.plan(model, guide, lib.array(-1.0), backend=backend)["z"]
    assert isinstance(row.estimator, Score) and "test_rare_programs.py" in row.reason


def test_a_straight_through_distribution_is_refused() -> None:
    def guide(x: Any) -> None:
        q = pyro.param("q", torch.tensor(0.3))
        pyro.sample("z", pyro.distributions.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=q))

    def model(x: Any) -> None:
        z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        pyro.sample("x", pyro.distributions.Normal(1.5 * z, 1.0), obs=x)

    with pytest.raises(ProgramError, match=r"site 'z' \(RelaxedBernoulliStraightThrough\).*another value"):
        infer.plan(model, guide, np.float32(-1.5), backend="torch")


# -- what ordinary programs hold -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
def test_a_network_compiled_by_torch_may_stand_in_a_program() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    compiled = torch.compile(network, backend="eager")

    def model(x: Any) -> None:
        pyro.module("network", network)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", pyro.distributions.Normal(compiled(z), 1.0).to_event(1), obs=x)

    def guide(x: Any) -> None:
        with pyro.plate("rows", len(x)):
            loc = pyro.param("loc", torch.zeros(len(x), 2))
            pyro.sample("z", pyro.distributions.Normal(loc, 0.5).to_event(1))

    x = np.ones((3, 2), np.float32)
    plain = infer.gradient(lambda x: model(x), guide, x, num_samples=3, backend="torch")
    assert {"loc", "network.weight", "network.bias"} <= plain.keys()
    assert all(np.isfinite(value).all() and np.abs(value).max() > 0 for value in plain.values())
    torch._dynamo.reset()


def test_a_mixture_may_be_a_guide() -> None:
    dist = pyro.distributions

    def guide(x: Any) -> None:
        parts = dist.Normal(pyro.param("locs", torch.tensor([-1.0, 1.0])), 0.5)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=pyro.param("q", torch.zeros(2))), parts))

    def model(x: Any) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    assert isinstance(infer.plan(model, guide, torch.tensor(0.5))["z"].estimator, Score)


def test_binomials_of_several_counts_and_of_a_latent_count_are_planned(backend: str) -> None:
    """A support that moves with a latent is no reason against the score function: that latent is never pathwise."""
    lib = library(backend)
    counts: Any = torch.tensor([5, 7]) if backend == "torch" else jnp.array([5, 7])

    def model(x: Any) -> None:
        n = lib.sample("n", lib.dist.Poisson(lib.array(4.0)))
        with lib.plate("rows", 2):
            k = lib.sample("k", lib.dist.Binomial(total_count=n + counts, probs=lib.array([0.3, 0.4])))
            lib.sample("x", lib.dist.Normal(floats(k), 1.0), obs=x)

    def guide(x: Any) -> None:
        n = lib.sample("n", lib.dist.Poisson(lib.param("rate", lib.array(3.0), constraint=lib.positive)))
        q = lib.param("q", lib.array([0.2, -0.1]))
        with lib.plate("rows", 2):
            lib.sample("k", lib.dist.Binomial(total_count=n + counts, logits=q))

    plan = infer.plan(model, guide, lib.array([1.0, 2.0]), backend=backend)
    assert isinstance(plan["k"].estimator, Score) and isinstance(plan["n"].estimator, Score)


def test_host_random_numbers_are_put_back() -> None:
    """Reading takes more than one run; what the caller draws next is what it would have drawn."""

    def model(x: Any) -> None:
        pyro.sample("x", pyro.distributions.Normal(pyro.param("loc", torch.tensor(random.random())), 1.0), obs=x)

    random.seed(3)
    expected = random.random()
    random.seed(3)
    infer.plan(model, None, np.float32(0.5), backend="torch")
    assert random.random() == expected


# -- what a first reading does not show -------------------------------------------------------------------------------


def by_flag(lib: Any) -> tuple[Any, Any]:
    """Smooth, or with a step where the data say so."""

    def model(x: Any, hard: bool) -> None:
        with lib.plate("data", len(x)):
            z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
            lib.sample("x", lib.dist.Normal(2.0 * floats(z > 0) if hard else z, 1.0), obs=x)

    def guide(x: Any, hard: bool) -> None:
        loc = lib.param("m", lib.array([0.3]))
        with lib.plate("data", len(x)):
            lib.sample("z", lib.dist.Normal(loc[0], 1.0))

    return model, guide


@pytest.mark.parametrize("kind", [list, iter])
def test_a_batch_that_makes_another_program_is_refused(kind: Any, backend: str) -> None:
    lib = library(backend)
    batches = [(lib.array([0.7]), False), (lib.array([0.6]), False), (lib.array([0.5]), True)]
    seen: list[int] = []
    with pytest.raises(ProgramError, match=r"argument 1 True.*site 'z'.*test_rare_programs.py.*Score\(\)"):
        infer.fit(
            *by_flag(lib),
            kind(batches),
            steps=6,
            backend=backend,
            progress=False,
            callbacks=[lambda s: seen.append(s.step)],
        )
    assert seen == ([] if kind is list else [1, 2])  # a list before step 0, others before the step


def test_batches_of_kinds_that_one_plan_covers_are_trained_on(backend: str) -> None:
    lib = library(backend)
    for batches, asked in (
        ([(lib.array([0.7]), True), (lib.array([0.5]), False)], None),
        ([(lib.array([0.7]), False), (lib.array([0.5]), True)], {"z": Score()}),
    ):
        fit = infer.fit(*by_flag(lib), batches, steps=4, estimators=asked, progress=False)
        assert isinstance(fit.plan["z"].estimator, Score) and len(fit.losses) == 4


def test_a_weight_of_zero_makes_another_kind_of_batch(backend: str) -> None:
    """But not each of the numbers that a weight runs through."""
    lib, read = library(backend), []
    model, guide = by_flag(lib)

    def weighted(x: Any, weight: float) -> None:
        read.append(weight)
        model(x, weight == 0)

    batches = [(lib.array([0.7]), weight) for weight in (1.0, 0.5, 0.25, 0.0)]
    with pytest.raises(ProgramError, match=r"argument 1 0\.0.*site 'z'"):
        infer.fit(weighted, lambda x, weight: guide(x, False), batches, steps=6, progress=False)
    assert 0.0 in read and not {0.5, 0.25} & set(read)


def test_dreams_are_checked_for_every_kind_of_batch(backend: str) -> None:
    """A model that reads its data where a flag says so cannot draw them."""
    lib = library(backend)

    def model(x: Any, follows: bool) -> None:
        logits = lib.param("w", lib.array([0.3]))
        with lib.plate("data", len(x)):
            h = lib.sample("h", lib.dist.Bernoulli(logits=logits[0]))
            lib.sample("x", lib.dist.Bernoulli(logits=h + (x if follows else 0.0)), obs=x)

    def guide(x: Any, follows: bool) -> None:
        logits = lib.param("v", lib.array([0.2]))
        with lib.plate("data", len(x)):
            lib.sample("h", lib.dist.Bernoulli(logits=logits[0] + x))

    x = lib.array([1.0, 0.0, 1.0, 0.0])
    plain = [(x, False)] * 2
    assert len(infer.fit(model, guide, plain, objective=WakeSleep(), steps=2, progress=False).losses) == 2
    with pytest.raises(ProgramError, match="argument 1 True.*site 'x': .*does not read the data"):
        infer.fit(model, guide, [*plain, (x, True)], objective=WakeSleep(), steps=2, progress=False)


def test_many_kinds_of_batches_are_said(backend: str) -> None:
    lib = library(backend)

    def model(x: Any, number: int) -> None:
        lib.sample("x", lib.dist.Normal(lib.param("m", lib.array([0.3]))[0] + number, 1.0), obs=x)

    with pytest.warns(UserWarning, match=r"more than 16 kinds of batches.*as an array"):
        infer.fit(model, None, [(lib.array([0.7]), i) for i in range(18)], steps=2, compile=False, progress=False)


@pytest.mark.filterwarnings("ignore:the program draws from Python's")
@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_a_program_that_turns_on_the_hosts_random_numbers_is_refused(draw: Any, backend: str) -> None:
    """With twelve readings more, a turn that half of the runs take is missed with probability 1e-4."""
    lib = library(backend)
    model, guide = by_flag(lib)
    with pytest.raises(ProgramError, match=r"random numbers of the host's.*site 'z'"):
        infer.plan(lambda x: model(x, draw() < 0.5), lambda x: guide(x, False), lib.array([0.7]))


def test_host_numbers_that_change_no_gradient_pass_and_jax_says_that_they_are_drawn_once(backend: str) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(z + random.random(), 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("z", lib.dist.Normal(lib.param("m", lib.array([0.3]))[0], 1.0))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plan = infer.plan(model, guide, lib.array([0.7]), backend=backend)
    assert isinstance(plan["z"].estimator, Pathwise)
    assert any("draws once and for all" in str(w.message) for w in said) == (backend == "jax")


@pytest.mark.parametrize("hand_written", [True, False])
def test_a_kink_written_by_hand_costs_noise_and_the_plan_says_how_to_write_it(hand_written: bool, backend: str) -> None:
    lib = library(backend)

    def model(x: Any) -> None:
        z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
        xp: Any = torch if backend == "torch" else jnp
        # no algebra that is done here sees that the pieces meet where a cube is zero
        mean = xp.where(z * z * z > 0, z, 0.1 * z) if hand_written else xp.where(z > 0, z, 0.1 * z)
        lib.sample("x", lib.dist.Normal(mean, 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("z", lib.dist.Normal(lib.param("m", lib.array([0.3]))[0], 1.0))

    plan = infer.plan(model, guide, lib.array(0.7), backend=backend)
    assert isinstance(plan["z"].estimator, Score if hand_written else Pathwise)
    assert ("write it with relu, abs, maximum or clip" in str(plan)) == hand_written


def test_parameters_of_half_precision_train_and_are_saved(tmp_path: Any) -> None:
    """NumPy has no bfloat16: what leaves torch is single precision."""

    def model(x: Any) -> None:
        weight = pyro.param("weight", torch.zeros(2, dtype=torch.bfloat16))
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(weight.float().sum(), 1.0), obs=x)

    fit = infer.fit(model, data=np.ones(4, np.float32), steps=300, learning_rate=0.01, progress=False)
    assert fit.params["weight"].sum() == pytest.approx(1.0, abs=0.05)
    fit.save(tmp_path / "fit")
    again = infer.load(tmp_path / "fit", model)
    assert (again.params["weight"] == fit.params["weight"]).all()
