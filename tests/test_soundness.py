"""Gradients where peers are silently wrong: each is compared with its exact value, or the program is refused.

The toy: z ~ Bernoulli(0.3); x | z ~ N(m_z, 1) with m = (0, 1.5); guide z ~ Bernoulli(logits=0.4); x = -1.5,
where the exact gradient (1.11) is far from zero and from what is left (0.30) when the likelihood is lost.

Every comparison is a z-test per parameter entry with bound 4.5: false-alarm rate 7e-6 per entry. Every test
also checks its power: a zero gradient, or the known wrong one, would fail the same bound.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from tests.plan_table import Library, floats, library

BOUND = 4.5
MEANS = (0.0, 1.5)
PRIOR, LOGIT, X = 0.3, 0.4, -1.5


def sigmoid(a):
    return 1 / (1 + np.exp(-np.asarray(a, dtype=float)))


def log_normal(x, mean, scale=1.0):
    return -0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi)


def log_bernoulli(z, prob):
    return np.log(np.where(z, prob, 1 - prob))


def slope(loss: Callable[[np.ndarray], float], at: Any) -> np.ndarray:
    """Central differences of an exact loss, in float64: error below 1e-8 here."""
    at = np.asarray(at, dtype=float)
    out = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = 1e-5
        out[index] = (loss(at + shift) - loss(at - shift)) / 2e-5
    return out


def z_scores(draws: np.ndarray, value: Any) -> np.ndarray:
    """(mean - value) / standard error, per entry; the floor covers float32 rounding of an exact estimator."""
    error = np.maximum(draws.std(axis=0, ddof=1) / np.sqrt(len(draws)), 1e-5 * (1 + np.abs(value)))
    return (draws.mean(axis=0) - value) / error


def assert_unbiased(draws: np.ndarray, exact: Any, wrong: Mapping[str, Any]) -> None:
    """The draws agree with `exact`, and would not with any value in `wrong`."""
    assert np.isfinite(draws).all()
    assert draws.shape[1:] == np.shape(exact)
    score = z_scores(draws, exact)
    assert np.abs(score).max() < BOUND, f"z = {score}: mean {draws.mean(axis=0)}, exact {exact}"
    for what, value in wrong.items():
        assert np.abs(z_scores(draws, value)).max() > BOUND, f"no power against {what}"


def gradient(program: tuple[Any, ...], backend: str, num_samples: int = 2000) -> dict[str, np.ndarray]:
    model, guide, data = program
    return infer.gradient(model, guide, data, num_samples=num_samples, backend=backend, seed=0)


def toy_loss(logit: np.ndarray, likelihood: bool = True) -> float:
    q = sigmoid(logit)
    return sum(
        (q if z else 1 - q) * (log_bernoulli(z, q) - log_bernoulli(z, PRIOR) - likelihood * log_normal(X, MEANS[z]))
        for z in (0, 1)
    )


TOY_EXACT = slope(toy_loss, LOGIT)
TOY_WRONG = {"zero": 0.0, "a lost likelihood": slope(lambda a: toy_loss(a, likelihood=False), LOGIT)}


def toy(mean: Callable[[Any], Any], lib: Library) -> tuple[Any, ...]:
    def model(x):
        z = lib.sample("z", lib.dist.Bernoulli(probs=lib.array(PRIOR)))
        lib.sample("x", lib.dist.Normal(mean(z), 1.0), obs=x)

    def guide(x):
        lib.sample("z", lib.dist.Bernoulli(logits=lib.param("logit", lib.array(LOGIT))))

    return model, guide, (lib.array(X),)


def with_branch(z):
    return MEANS[1] if z else MEANS[0]


def with_comparison(z):
    return 1.5 if z > 0.5 else 0.0


def with_item(z):
    return MEANS[int(z.item())]


def with_numpy_on_torch(z):
    return torch.tensor(np.float32(MEANS[1]) * z.numpy())


def with_numpy_on_jax(z):
    return jnp.asarray(np.float32(MEANS[1]) * np.asarray(z, dtype=np.float32))


def with_callback(z):
    return jax.pure_callback(lambda v: np.float32(1.5) * np.float32(v), jax.ShapeDtypeStruct((), jnp.float32), z)


def with_list(z):
    return torch.tensor([1.5 * z.tolist()]).sum()


def with_in_place_write(z):
    b = torch.zeros(3)
    b[1] = 1.5 * z
    return b.sum()


def with_index_update(z):
    return jnp.zeros(3).at[1].set(1.5 * z).sum()


def with_accumulation(z):
    b = torch.zeros(())
    b += 1.5 * z
    return b


def with_index(z):
    return torch.tensor(MEANS)[z.long()]


def with_index_on_jax(z):
    return jnp.array(MEANS)[z]


def with_where(z):
    return torch.where(z > 0.5, 1.5, 0.0)


def with_cond(z):
    return jax.lax.cond(z > 0, lambda: 1.5, lambda: 0.0)


def with_loop(z):
    return jax.lax.fori_loop(0, z, lambda i, total: total + 1.5, 0.0)


def with_torch_vmap(z):
    return torch.vmap(lambda v: 1.5 * v)(z.expand(2)).mean()


def with_jax_vmap(z):
    return jax.vmap(lambda v: 1.5 * v)(jnp.broadcast_to(z, (2,))).mean()


# Programs that run eagerly, step by step, on JAX are slow there: fewer draws, the same bounds.
TOYS = [
    ("torch", with_branch, 1000),
    ("jax", with_branch, 200),
    ("torch", with_comparison, 1000),
    ("torch", with_item, 1000),
    ("jax", with_item, 200),
    ("torch", with_numpy_on_torch, 1000),
    ("jax", with_numpy_on_jax, 200),
    ("jax", with_callback, 1000),
    ("torch", with_list, 1000),
    ("torch", with_in_place_write, 2000),
    ("torch", with_accumulation, 2000),
    ("jax", with_index_update, 2000),
    ("torch", with_index, 2000),
    ("jax", with_index_on_jax, 2000),
    ("torch", with_where, 2000),
    ("jax", with_cond, 2000),
    ("jax", with_loop, 2000),
    ("jax", with_jax_vmap, 2000),
]


@pytest.mark.parametrize(("backend", "mean", "num_samples"), TOYS)
def test_no_way_from_a_discrete_site_to_the_cost_is_lost(
    backend: str, mean: Callable[[Any], Any], num_samples: int
) -> None:
    draws = gradient(toy(mean, library(backend)), backend, num_samples)
    assert set(draws) == {"logit"}
    assert_unbiased(draws["logit"], TOY_EXACT, TOY_WRONG)


def test_torch_vmap_over_a_latent_is_right_or_refused() -> None:
    try:
        draws = gradient(toy(with_torch_vmap, library("torch")), "torch")
    except ProgramError as refusal:
        assert "'z'" in str(refusal) or "'x'" in str(refusal)
    else:
        assert_unbiased(draws["logit"], TOY_EXACT, TOY_WRONG)


def test_categorical_site_is_unbiased(backend: str) -> None:
    lib = library(backend)
    prior, means, logits = np.array([0.2, 0.3, 0.5]), np.array([-1.0, 0.0, 2.0]), np.array([0.3, -0.2, 0.1])

    def model(x):
        k = lib.sample("k", lib.dist.Categorical(probs=lib.array(prior.astype(np.float32))))
        lib.sample("x", lib.dist.Normal(lib.array(means.astype(np.float32))[k], 1.0), obs=x)

    def guide(x):
        start = lib.array(logits.astype(np.float32))
        lib.sample("k", lib.dist.Categorical(logits=lib.param("logits", start)))

    def loss(a, likelihood=True):
        q = np.exp(a) / np.exp(a).sum()
        return (q * (np.log(q) - np.log(prior) - likelihood * log_normal(X, means))).sum()

    draws = gradient((model, guide, (lib.array(X),)), backend)["logits"]
    wrong = {"zero": np.zeros(3), "a lost likelihood": slope(lambda a: loss(a, likelihood=False), logits)}
    assert_unbiased(draws, slope(loss, logits), wrong)


STEP_LOC, STEP_SCALE, STEP_X = 0.4, 0.8, -1.0


def normal_program(lib: Library, mean: Callable[[Any], Any]) -> tuple[Any, ...]:
    def model(x):
        z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(mean(z), 1.0), obs=x)

    def guide(x):
        scale = lib.xp.exp(lib.param("log_scale", lib.array(float(np.log(STEP_SCALE)))))
        lib.sample("z", lib.dist.Normal(lib.param("loc", lib.array(STEP_LOC)), scale))

    return model, guide, (lib.array(STEP_X),)


def normal_loss(mean: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], float]:
    """Minus the ELBO as a function of (loc, log scale), by quadrature over a fixed, fine grid of z."""
    grid = np.linspace(-8, 8, 160001)

    def loss(at):
        scale = np.exp(at[1])
        log_q = log_normal(grid, at[0], scale)
        cost = log_q - log_normal(grid, 0.0) - log_normal(STEP_X, mean(grid))
        return float((np.exp(log_q) * cost).sum() * (grid[1] - grid[0]))

    return loss


@pytest.mark.parametrize("kind", ["where", "floor", "comparison cast", "Python branch"])
def test_step_function_of_a_normal_is_unbiased(kind: str, backend: str) -> None:
    lib = library(backend)
    mean: Callable[[Any], Any] = {
        "where": lambda z: lib.xp.where(z > 0, 2.0, -1.0),
        "floor": lib.xp.floor,
        "comparison cast": lambda z: 3 * floats(z > 0) - 1,
        "Python branch": lambda z: 2.0 if z > 0 else -1.0,
    }[kind]
    exact_mean = np.floor if kind == "floor" else lambda z: np.where(z > 0, 2.0, -1.0)
    at = np.array([STEP_LOC, np.log(STEP_SCALE)])
    exact = slope(normal_loss(exact_mean), at)
    # What the pathwise estimator gives: the step's own part is lost, the divergence to the prior is left.
    pathwise = slope(normal_loss(np.zeros_like), at)

    num_samples = {"torch": 2000, "jax": 300}[backend] if kind == "Python branch" else 6000
    draws = gradient(normal_program(lib, mean), backend, num_samples)
    assert_unbiased(draws["loc"], exact[0], {"zero": 0.0, "pathwise": pathwise[0]})
    # The branch runs eagerly, with too few draws for power here; floor moves the scale's gradient by little.
    rejects = {"pathwise": pathwise[1]} if kind in ("where", "comparison cast") else {}
    assert_unbiased(draws["log_scale"], exact[1], rejects)


def test_von_mises_concentration_is_unbiased(backend: str) -> None:
    lib = library(backend)

    def model(x):
        angle = lib.sample("angle", lib.dist.VonMises(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(lib.xp.cos(angle), 0.5), obs=x)

    def guide(x):
        concentration = lib.xp.exp(lib.param("log_concentration", lib.array(0.7)))
        lib.sample("angle", lib.dist.VonMises(lib.param("loc", lib.array(0.3)), concentration))

    grid = np.linspace(-np.pi, np.pi, 20000, endpoint=False)

    def loss(at):
        log_q = np.exp(at[1]) * np.cos(grid - at[0]) - np.log(2 * np.pi * np.i0(np.exp(at[1])))
        log_p = np.cos(grid) - np.log(2 * np.pi * np.i0(1.0)) + log_normal(X, np.cos(grid), 0.5)
        return float((np.exp(log_q) * (log_q - log_p)).sum() * (grid[1] - grid[0]))

    exact = slope(loss, [0.3, 0.7])
    draws = gradient((model, guide, (lib.array(X),)), backend)
    assert_unbiased(draws["loc"], exact[0], {"zero": 0.0})
    assert_unbiased(draws["log_concentration"], exact[1], {"zero": 0.0})


def test_auxiliary_guide_site_keeps_its_own_density(backend: str) -> None:
    """A guide site that the model lacks: -log q(aux) belongs to the bound and to the site's signal."""
    lib = library(backend)
    aux_logit, table, x_between = 1.5, np.array([-1.0, 1.2]), 0.75

    def model(x):
        z = lib.sample("z", lib.dist.Bernoulli(probs=lib.array(PRIOR)))
        lib.sample("x", lib.dist.Normal(1.5 * floats(z), 1.0), obs=x)

    def guide(x):
        logit = lib.param("logit", lib.array(aux_logit))
        aux = floats(lib.sample("aux", lib.dist.Bernoulli(logits=logit), infer={"is_auxiliary": True}))
        z_logit = lib.param("table", lib.array(table.astype(np.float32)))
        lib.sample("z", lib.dist.Bernoulli(logits=z_logit[0] + aux * (z_logit[1] - z_logit[0])))

    def loss(at, keep=1.0):
        q_aux = sigmoid(at[0])
        total = 0.0
        for aux, z in itertools.product((0, 1), repeat=2):
            q = sigmoid(at[1 + aux])
            weight = (q_aux if aux else 1 - q_aux) * (q if z else 1 - q)
            log_q = keep * log_bernoulli(aux, q_aux) + log_bernoulli(z, q)
            total += weight * (log_q - log_bernoulli(z, PRIOR) - log_normal(x_between, MEANS[z]))
        return total

    at = np.array([aux_logit, *table])
    exact, lost = slope(loss, at), slope(lambda a: loss(a, keep=0.0), at)
    draws = gradient((model, guide, (lib.array(x_between),)), backend, 4000)
    assert_unbiased(draws["logit"], exact[0], {"zero": 0.0, "a lost density": lost[0]})
    assert_unbiased(draws["table"], exact[1:], {"zero": np.zeros(2)})


ROW_LOGITS, ROW_DATA = np.array([0.4, -0.3, 0.8]), np.array([-1.5, 2.0, -2.5])


def rows_program(lib: Library, mean: Callable[[Any], Any]) -> tuple[Any, ...]:
    def model(x):
        with lib.plate("data", 3):
            z = lib.sample("z", lib.dist.Bernoulli(probs=PRIOR * lib.xp.ones(3)))
            lib.sample("x", lib.dist.Normal(mean(floats(z)), 1.0), obs=x)

    def guide(x):
        with lib.plate("data", 3):
            start = lib.array(ROW_LOGITS.astype(np.float32))
            lib.sample("z", lib.dist.Bernoulli(logits=lib.param("logits", start)))

    return model, guide, (lib.array(ROW_DATA.astype(np.float32)),)


def rows_exact(mean: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The exact gradient by enumeration of 8 states, and the one whose signals stay within their own row."""
    q = sigmoid(ROW_LOGITS)
    exact, within = np.zeros(3), np.zeros(3)
    for state in itertools.product((0, 1), repeat=3):
        z = np.array(state)
        weight = np.where(z, q, 1 - q).prod()
        cost = log_bernoulli(z, q) - log_bernoulli(z, PRIOR) - log_normal(ROW_DATA, mean(z))
        exact += weight * (z - q) * cost.sum()
        within += weight * (z - q) * cost
    return exact, within


@pytest.mark.parametrize("kind", ["centred", "shifted by one", "cumulative sum", "matrix product"])
def test_latents_mixed_inside_their_plate_are_unbiased(kind: str, backend: str) -> None:
    lib = library(backend)
    square = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]], dtype=np.float32)
    functions: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "centred": (lambda z: 3 * (z - z.mean()), lambda z: 3 * (z - z.mean())),
        "shifted by one": (lambda z: 2 * lib.xp.roll(z, 1), lambda z: 2 * np.roll(z, 1)),
        "cumulative sum": (lambda z: lib.xp.cumsum(z, 0), np.cumsum),
        "matrix product": (lambda z: lib.array(square) @ z, lambda z: square @ z),
    }
    mean, exact_mean = functions[kind]
    exact, within = rows_exact(exact_mean)
    draws = gradient(rows_program(lib, mean), backend, 4000)["logits"]
    assert_unbiased(draws, exact, {"zero": np.zeros(3), "signals within their own row": within})


def test_latents_kept_apart_inside_their_plate_are_unbiased(backend: str) -> None:
    exact, within = rows_exact(lambda z: 2 * z)
    np.testing.assert_allclose(within, exact)
    draws = gradient(rows_program(library(backend), lambda z: 2 * z), backend)["logits"]
    assert_unbiased(draws, exact, {"zero": np.zeros(3)})


@pytest.mark.parametrize("which", ["mask", "scale"])
def test_score_term_is_neither_masked_nor_scaled(which: str, backend: str) -> None:
    """Scaled or masked terms count so in the signal; the density that is differentiated stays whole.

    The model's z is inside the handler, the guide's too; x is outside.
    """
    lib = library(backend)
    factor = 0.0 if which == "mask" else 3.0
    poutine: Any = pyro.poutine if backend == "torch" else numpyro.handlers

    def handler() -> Any:
        return poutine.mask(mask=lib.array(False)) if which == "mask" else poutine.scale(scale=factor)

    def model(x):
        with handler():
            z = lib.sample("z", lib.dist.Bernoulli(probs=lib.array(PRIOR)))
        lib.sample("x", lib.dist.Normal(1.5 * floats(z), 1.0), obs=x)

    def guide(x):
        with handler():
            lib.sample("z", lib.dist.Bernoulli(logits=lib.param("logit", lib.array(LOGIT))))

    def loss(logit):
        q = sigmoid(logit)
        return sum(
            (q if z else 1 - q) * (factor * (log_bernoulli(z, q) - log_bernoulli(z, PRIOR)) - log_normal(X, MEANS[z]))
            for z in (0, 1)
        )

    draws = gradient((model, guide, (lib.array(X),)), backend, 4000)["logit"]
    wrong = {"zero": 0.0, "no handler": TOY_EXACT}
    assert_unbiased(draws, slope(loss, LOGIT), wrong)


def mean_model(lib: Library, in_plate: bool = True) -> tuple[Any, Any]:
    def model(x):
        mu = lib.sample("mu", lib.dist.Normal(0.0, 10.0))
        if in_plate:
            with lib.plate("data", len(x)):
                lib.sample("x", lib.dist.Normal(mu, 1.0), obs=x)
        else:
            lib.sample("x", lib.dist.Normal(mu * lib.xp.ones(len(x)), 1.0).to_event(1), obs=x)

    def guide(x):
        scale = lib.param("scale", lib.array(0.1), constraint=lib.positive)
        lib.sample("mu", lib.dist.Normal(lib.param("loc", lib.array(0.0)), scale))

    return model, guide


@pytest.mark.parametrize("form", ["batch_size", "list of batches"])
def test_minibatches_with_a_global_latent_count_for_all_rows(form: str, backend: str) -> None:
    """The posterior sd is 0.032 (1 / sqrt(1000)); unscaled batches of 20 would give 0.22, no training 0.1.

    The rows spread less than the model thinks and lie near the start, so that training settles soon.
    """
    rows = (0.2 + 0.1 * np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    model, guide = mean_model(library(backend))
    settings: dict[str, Any] = {"steps": 800, "learning_rate": 0.01, "backend": backend, "progress": False}
    if form == "batch_size":
        fit = infer.fit(model, guide, rows, batch_size=20, **settings)
    else:
        fit = infer.fit(model, guide, np.split(rows, 50), **settings)
    sd = float(fit.params["scale"])
    assert 0.5 < sd * np.sqrt(1000) < 1.7
    assert abs(float(fit.params["loc"]) - rows.mean()) < 0.1
    # Losses are scaled to the whole data: about 1000 rows of 0.92 nats at the end.
    assert np.mean(fit.losses[-100:]) == pytest.approx(-log_normal(rows, rows.mean()).sum(), rel=0.1)


def test_minibatches_without_a_plate_to_scale_are_refused(backend: str) -> None:
    model, guide = mean_model(library(backend), in_plate=False)
    rows = np.zeros(100, dtype=np.float32)
    with pytest.raises(ProgramError, match="'mu'.*plate"):
        infer.fit(model, guide, rows, batch_size=20, steps=2, backend=backend, progress=False)


# -- partly observed discrete sites ----------------------------------------------------------------------------------

SEEN = np.array([True, False, True, False])
VALUES = np.array([1.0, 0.0, 1.0, 0.0], dtype=np.float32)
HEIGHTS = np.array([1.2, 0.3, -0.5, 2.0], dtype=np.float32)


def partly_observed(lib: Library, backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Bits of which some are known: x | z ~ N(2 z - 1, 1); the guide proposes the others."""
    p: Any = pyro if backend == "torch" else numpyro
    d: Any = pyro.distributions if backend == "torch" else numpyro.distributions
    mask: Any = pyro.poutine.mask if backend == "torch" else numpyro.handlers.mask

    def model(values: Any, seen: Any, x: Any) -> None:
        logit = p.param("logit", lib.array(0.3))
        with p.plate("rows", 4):
            z = p.sample("z", d.Bernoulli(logits=logit), obs=values, obs_mask=seen)
            p.sample("x", d.Normal(2.0 * z - 1.0, 1.0), obs=x)

    def guide(values: Any, seen: Any, x: Any) -> None:
        shift = p.param("shift", lib.array(0.1))
        with p.plate("rows", 4), mask(mask=~seen):
            p.sample("z_unobserved", d.Bernoulli(logits=shift + x))

    return model, guide


def partly_observed_parts(logit: Any) -> tuple[np.ndarray, np.ndarray]:
    """log p(z, x) of every row at z = 1 and at z = 0."""
    prob = sigmoid(logit)
    return np.log(prob) + log_normal(HEIGHTS, 1.0), np.log(1 - prob) + log_normal(HEIGHTS, -1.0)


def test_a_partly_observed_bit_is_summed_out_where_it_is_missing(backend: str) -> None:
    model, _ = partly_observed(library(backend), backend)

    def loss(logit: np.ndarray) -> float:
        one, zero = partly_observed_parts(logit)
        return -float(np.where(SEEN, np.where(VALUES, one, zero), np.logaddexp(one, zero)).sum())

    exact = slope(loss, 0.3)
    assert abs(exact) > 1
    found = infer.gradient(model, None, (VALUES, SEEN, HEIGHTS), backend=backend)
    np.testing.assert_allclose(found["logit"], [exact], rtol=1e-4)


def test_a_guide_for_partly_observed_bits_is_right(backend: str) -> None:
    model, guide = partly_observed(library(backend), backend)

    def loss(at: np.ndarray) -> float:
        (one, zero), q = partly_observed_parts(at[0]), sigmoid(at[1] + HEIGHTS)
        missing = q * (one - np.log(q)) + (1 - q) * (zero - np.log(1 - q))
        return -float(np.where(SEEN, np.where(VALUES, one, zero), missing).sum())

    exact = slope(loss, np.array([0.3, 0.1]))
    data = (VALUES, SEEN, HEIGHTS)
    draws = infer.gradient(model, guide, data, backend=backend, num_samples=4000, num_particles=4)
    assert_unbiased(draws["logit"], exact[0], {"nothing": 0.0, "nine tenths": 0.9 * exact[0]})
    assert_unbiased(draws["shift"], exact[1], {"nothing": 0.0})
    assert "masks it" not in str(infer.plan(model, guide, data, backend=backend))


def test_a_mask_that_the_guide_lacks_is_said(backend: str) -> None:
    model, _ = partly_observed(library(backend), backend)
    p: Any = pyro if backend == "torch" else numpyro
    d: Any = pyro.distributions if backend == "torch" else numpyro.distributions

    def guide(values: Any, seen: Any, x: Any) -> None:
        with p.plate("rows", 4):
            p.sample("z_unobserved", d.Bernoulli(logits=p.param("shift", library(backend).array(0.1)) + x))

    plan = infer.plan(model, guide, (VALUES, SEEN, HEIGHTS), backend=backend)
    assert "site 'z_unobserved': the model masks it and the guide does not" in str(plan)


def test_bound_has_power_against_a_tenth_of_bias() -> None:
    """With the draws of an exact score function in NumPy: the test passes them and rejects 0.9 of them."""
    rng = np.random.default_rng(0)
    q = sigmoid(LOGIT)
    z = (rng.random(20000) < q).astype(int)
    cost = log_bernoulli(z, q) - log_bernoulli(z, PRIOR) - log_normal(X, np.array(MEANS)[z])
    draws = (z - q) * cost
    assert abs(z_scores(draws, TOY_EXACT)) < BOUND
    assert abs(z_scores(0.9 * draws, TOY_EXACT)) > BOUND


def test_the_exact_value_is_the_known_one_at_the_usual_observation() -> None:
    """At x = 1.5 the toy's gradient is 0.029, and 0.30 without the likelihood."""
    odds = LOGIT - np.log(PRIOR / (1 - PRIOR))
    weight = sigmoid(LOGIT) * (1 - sigmoid(LOGIT))
    assert weight * (odds - (log_normal(1.5, 1.5) - log_normal(1.5, 0.0))) == pytest.approx(0.0294, abs=1e-4)
    assert TOY_WRONG["a lost likelihood"] == pytest.approx(0.2997, abs=1e-4)
    assert TOY_EXACT == pytest.approx(1.1105, abs=1e-3)
