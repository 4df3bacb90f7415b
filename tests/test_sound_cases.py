"""A fact that one run of the program suggests is not used before it is proved.

What is hidden at first: a gate of a latent, a weight that starts at zero, a number of the data, the way not taken by
Python's own branch, a pole behind a function. Three rows y = (1.8, .2, -.5), bits z ~ Bernoulli(.4) in plate "d", guide
logits (.3, -.4, .2); right values by enumeration, or by quadrature between the jumps. |z| < 4.5 per component: false
alarm 7e-6 each, 1.5e-3 for the 220 of this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import special

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import DisArm, Enumerate, Pathwise
from ppl_gen.infer.automatic import converter
from ppl_gen.infer.reading import read
from ppl_gen.objectives import ELBO
from ppl_gen.training.batches import Table
from ppl_gen.training.prepare import under
from ppl_gen.training.trainer import sample_gradients
from tests.plan_table import BACKENDS, floats, library
from tests.test_soundness import log_bernoulli, log_normal, sigmoid, slope, z_scores

Y = np.array([1.8, 0.2, -0.5], np.float32)
L = np.array([0.3, -0.4, 0.2], np.float32)
LS = 0.1
BITS = [np.array(bits, float) for bits in itertools.product([0, 1], repeat=3)]
BOUND = 4.5
Mean = Callable[[Any, Any, Any], Any]  # (xp, z, s) -> the rows' means


# -- A: mixing behind a gate ------------------------------------------------------------------------------------------


def by_cond(xp: Any, z: Any, s: Any) -> Any:
    """Each library's own conditional."""
    if xp is jnp:
        return jax.lax.cond(s > 0.5, lambda v: v[::-1], lambda v: v, z)
    return torch.where(s > 0.5, torch.flip(z, (0,)), z) if xp is torch else (z[::-1] if s > 0.5 else z)


GATED: dict[str, Mean] = {
    "mean": lambda xp, z, s: 2 * xp.where(s > 0.5, z.mean(), z),
    "factor": lambda xp, z, s: 2 * (s * z.sum() + (1 - s) * z),
    "shift": lambda xp, z, s: 2 * xp.where(s > 0.5, xp.roll(z, 1), z),
    "conditional": lambda xp, z, s: 2 * by_cond(xp, z, s),
    "two gates": lambda xp, z, s: 2 * xp.where(s > 0.5, xp.where(z.sum() > 1.5, z.mean(), z), z),
}


def gated(mean: Mean, backend: str) -> tuple[Any, ...]:
    """(model, guide, data): `s` stands outside the plate of z."""
    lib = library(backend)

    def model(y: Any) -> None:
        s = floats(lib.sample("s", lib.dist.Bernoulli(lib.array(0.5))))
        with lib.plate("d", 3):
            z = floats(lib.sample("z", lib.dist.Bernoulli(lib.array(0.4))))
            lib.sample("x", lib.dist.Normal(mean(lib.xp, z, s), 0.6), obs=y)

    def guide(y: Any) -> None:
        lib.sample("s", lib.dist.Bernoulli(logits=lib.param("ls", lib.array(LS))))
        with lib.plate("d", 3):
            lib.sample("z", lib.dist.Bernoulli(logits=lib.param("l", lib.array(L))))

    return model, guide, (lib.array(Y),)


def coins(logits: Any, likelihood: Callable[[np.ndarray], Any]) -> float:
    """Minus the bound of the three bits; `likelihood` gives the rows' log p(y | z)."""
    total = 0.0
    for z in BITS:
        log_q = log_bernoulli(z, sigmoid(logits)).sum()
        total += np.exp(log_q) * (log_q - log_bernoulli(z, 0.4).sum() - np.sum(likelihood(z)))
    return float(total)


def rows_of(mean: Mean, s: float) -> Callable[[np.ndarray], Any]:
    return lambda z: log_normal(Y, mean(np, z, np.float64(s)), 0.6)


def gated_loss(mean: Mean, logits: Any, ls: Any) -> float:
    total = 0.0
    for s in (0.0, 1.0):
        rows = coins(logits, rows_of(mean, s))
        q = float(sigmoid(ls)) if s else 1 - float(sigmoid(ls))
        total += q * (rows + np.log(q) - np.log(0.5))
    return total


@cache
def gated_exact(name: str) -> dict[str, np.ndarray]:
    mean = GATED[name]
    return {
        "l": slope(lambda logits: gated_loss(mean, logits, LS), L),
        "ls": slope(lambda ls: gated_loss(mean, L, ls), LS),
    }


@pytest.mark.parametrize("name", GATED)
def test_ten_seeds_give_one_plan_behind_a_gate(name: str, backend: str) -> None:
    found = set()
    for seed in range(10):
        plan = infer.plan(*gated(GATED[name], backend), seed=seed)
        assert plan["z"].terms["model", "x"] == {"d"}, seed
        found |= {tuple((type(row.estimator), row.depends, row.summed_plates) for row in plan.rows.values())}
    assert len(found) == 1


def assert_mean(draws: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> None:
    for key, value in exact.items():
        score = z_scores(draws[key].astype(float), value)
        assert np.abs(score).max() < BOUND, f"{key}: z = {score}"


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("seed", [2, 5])
def test_enumeration_leaves_nothing_out_behind_a_gate(name: str, seed: int, backend: str) -> None:
    """The gate is enumerated; rows that meet are not, but by themselves they would leave no noise and be wrong."""
    count = 4000 if backend == "jax" else 600
    asked = {"*": Enumerate()}
    draws = infer.gradient(*gated(GATED[name], backend), estimators=asked, num_samples=count, seed=seed)
    assert_mean(draws, gated_exact(name))


@pytest.mark.parametrize("estimators", [None, {"z": DisArm()}], ids=["automatic", "DisArm"])
@pytest.mark.parametrize(("seed", "backend"), [(2, "jax"), (5, "torch")])
def test_the_gradient_behind_a_gate_is_unbiased(estimators: Any, seed: int, backend: str) -> None:
    """The wrong plan was off by .54 in the first logit, six standard errors and more."""
    count = 4000 if backend == "jax" else 3000
    draws = infer.gradient(*gated(GATED["mean"], backend), estimators=estimators, num_samples=count, seed=seed)
    assert_mean(draws, gated_exact("mean"))
    assert np.abs(z_scores(draws["l"], gated_exact("mean")["l"] - [0.54, 0, 0])).max() > BOUND  # power


def test_bits_behind_a_gate_are_summed_out_rightly_or_not_at_all(backend: str) -> None:
    """Both latents are left to the model. Rows that meet cannot be summed side by side: no seed may do so."""
    lib = library(backend)

    def model(y: Any) -> None:
        w = lib.param("w", lib.array(2.0))
        s = floats(lib.sample("s", lib.dist.Bernoulli(lib.array(0.5))))
        with lib.plate("d", 3):
            z = floats(lib.sample("z", lib.dist.Bernoulli(lib.array(0.4))))
            lib.sample("x", lib.dist.Normal(w * lib.xp.where(s > 0.5, z.mean(), z), 0.6), obs=y)

    def loss(w: Any) -> float:
        logs = [
            np.log(0.5) + log_bernoulli(z, 0.4).sum() + log_normal(Y, w * (z.mean() if s else z), 0.6).sum()
            for s in (0, 1)
            for z in BITS
        ]
        return -float(special.logsumexp(logs))

    def outcome(seed: int) -> str:
        try:
            fit = infer.fit(model, lambda y: None, (lib.array(Y),), steps=0, backend=backend, seed=seed, progress=False)
        except ProgramError as error:
            assert "site 'z'" in str(error) and "plate 'd'" in str(error)
            return "refused"
        np.testing.assert_allclose(np.sum(fit.log_prob((lib.array(Y),)).value), -loss(2.0), atol=1e-4)
        draws = infer.gradient(model, lambda y: None, (lib.array(Y),), backend=backend, seed=seed)
        np.testing.assert_allclose(draws["w"][0], slope(loss, 2.0), atol=1e-4)
        return "right"

    assert len({outcome(seed) for seed in range(10)}) == 1


# -- A: mixing behind a number that is zero at first ---------------------------------------------------------------------


def residual(backend: str) -> tuple[Any, ...]:
    """A branch z + a sum(z) whose weight starts at zero."""
    lib = library(backend)

    def model(y: Any) -> None:
        a = lib.param("a", lib.array(0.0))
        with lib.plate("d", 3):
            z = floats(lib.sample("z", lib.dist.Bernoulli(lib.array(0.4))))
            lib.sample("x", lib.dist.Normal(2 * (z + a * z.sum()), 0.6), obs=y)

    return model, alone(lib), (lib.array(Y),)


def alone(lib: Any) -> Callable[..., None]:
    """The guide of the three bits."""

    def guide(*data: Any) -> None:
        with lib.plate("d", 3):
            lib.sample("z", lib.dist.Bernoulli(logits=lib.param("l", lib.array(L))))

    return guide


def residual_loss(logits: Any, a: Any) -> float:
    return coins(logits, lambda z: log_normal(Y, 2 * (z + a * z.sum()), 0.6))


@pytest.mark.parametrize("asked", [None, {"*": Enumerate()}], ids=["automatic", "enumerated"])
@pytest.mark.parametrize("a", [0.0, -0.4])
def test_a_weight_that_starts_at_zero_hides_nothing(a: float, asked: Any, backend: str) -> None:
    params = {"a": np.array(a), "l": L}
    count = 4000 if backend == "jax" else 1000
    draws = infer.gradient(*residual(backend), estimators=asked, params=params, num_samples=count)
    exact_a = slope(lambda a: residual_loss(L, a), a)
    assert_mean(draws, {"a": exact_a, "l": slope(lambda logits: residual_loss(logits, a), L)})


def test_ten_seeds_give_one_plan_for_a_weight_that_starts_at_zero(backend: str) -> None:
    for seed in range(10):
        assert infer.plan(*residual(backend), seed=seed)["z"].summed_plates == {"d"}


def averaged_loss(logits: Any, a: float) -> float:
    return coins(logits, lambda z: log_normal(Y, 2 * (z + a * z.mean()), 0.6))


@pytest.mark.parametrize("asked", [None, {"*": Enumerate()}], ids=["automatic", "enumerated"])
def test_data_that_change_between_batches_hide_nothing(asked: Any, backend: str) -> None:
    """Read on a batch whose weight is zero, as a fit reads its first; the gradient on the next, whose weight is one."""
    lib = library(backend)

    def model(y: Any, a: Any) -> None:
        with lib.plate("d", 3):
            z = floats(lib.sample("z", lib.dist.Bernoulli(lib.array(0.4))))
            lib.sample("x", lib.dist.Normal(2 * (z + a * z.mean()), 0.6), obs=y)

    first, later = ((lib.array(Y), lib.array(np.full(3, a, np.float32))) for a in (0.0, 1.0))
    prepared, batch = read(model, alone(lib), first, backend, None, estimators=asked)
    assert prepared.plan["z"].summed_plates == {"d"}
    module, prepared = prepared.backend, under(prepared, ELBO(), 0, batch)
    other = Table(later, None, 0, converter(module, "cpu")).first()
    count = 4000 if backend == "jax" else 1000
    draws = sample_gradients(prepared, ELBO(), other, count, 0)
    assert_mean(draws, {"l": slope(partial(averaged_loss, a=1.0), L)})


# -- A: the way that Python did not take -----------------------------------------------------------------------------------


def branching(backend: str, mean: Callable[..., Any], normal: bool = False) -> tuple[Any, ...]:
    """x ~ Normal(mean(w, v, z), .6); the bit z chooses, and stands last in the guide; w is a bit or a normal."""
    lib = library(backend)
    starts = {"w": 0.3, "v": -0.2, "z": 0.0}

    def coin(name: str, learns: bool) -> Any:
        if not learns:
            return floats(lib.sample(name, lib.dist.Bernoulli(lib.array(0.4))))
        return floats(lib.sample(name, lib.dist.Bernoulli(logits=lib.param(f"l{name}", lib.array(starts[name])))))

    def draw(learns: bool) -> Any:
        if not normal:
            return [coin(name, learns) for name in "wvz"]
        w = lib.sample("w", lib.dist.Normal(lib.param("lw", lib.array(0.3)) if learns else 0.0, 1.0))
        return [w, *(coin(name, learns) for name in "vz")]

    def model(x: Any) -> None:
        lib.sample("x", lib.dist.Normal(mean(*draw(False)), 0.6), obs=x)

    def guide(x: Any) -> None:
        draw(True)

    return model, guide, (lib.array(1.8),)


BRANCHES: dict[str, Callable[..., Any]] = {
    "branch": lambda w, v, z: 0.3 if z > 0.5 else 2 * w,
    "list": lambda w, v, z: 2 * [w, v][int(z)],
    "two branches": lambda w, v, z: 2 * w if z > 0.5 and v > 0.5 else 0.3 + v,
    "while": lambda w, v, z: counted(w, z),
    "item": lambda w, v, z: (0.3, 2 * w)[int(z.item())],
    "dictionary": lambda w, v, z: {0.0: 2 * w, 1.0: 0.3 + v}[float(z)],
}


def counted(w: Any, z: Any) -> Any:
    """Twice round a loop that z ends after once."""
    total, turn = 0.0 * w, 0
    while turn < 2 - float(z):
        total, turn = total + w, turn + 1
    return total


def branch_loss(mean: Callable[..., Any], lw: Any, lv: Any, lz: Any) -> float:
    total = 0.0
    for values in itertools.product(np.array([0.0, 1.0]), repeat=3):
        log_q = sum(log_bernoulli(value, sigmoid(logits)) for value, logits in zip(values, (lw, lv, lz), strict=True))
        log_p = sum(log_bernoulli(value, 0.4) for value in values) + log_normal(1.8, mean(*values), 0.6)
        total += np.exp(log_q) * (log_q - log_p)
    return float(total)


def moved_loss(name: str, at: dict[str, float], key: str, value: Any) -> float:
    return branch_loss(BRANCHES[name], **{**at, key: value})


@pytest.mark.parametrize("name", BRANCHES)
def test_every_outcome_of_a_branch_is_read(name: str, backend: str) -> None:
    """All that the mean takes in any outcome is in the signal, seed by seed."""
    for seed in range(10):
        plan = infer.plan(*branching(backend, BRANCHES[name]), backend=backend, seed=seed)
        moved = {"w", "z"} | ({"v"} if name in ("list", "two branches", "dictionary") else set())
        assert all("x" in plan[site].depends for site in moved), (seed, plan)


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_gradient_beside_a_branch_is_unbiased(name: str, seed: int) -> None:
    draws = infer.gradient(*branching("torch", BRANCHES[name]), num_samples=1000, backend="torch", seed=seed)
    at = {"lw": 0.3, "lv": -0.2, "lz": 0.0}
    for key in at:
        exact = slope(partial(moved_loss, name, at, key), at[key])
        assert abs(z_scores(draws[key], exact)) < BOUND, key


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_in_the_other_branch_is_scored(backend: str) -> None:
    """The normal w as it is, or its floor: a step, whichever of the two the first run took."""
    floor = library(backend).xp.floor
    program = branching(backend, lambda w, v, z: w if z > 0.5 else floor(w), normal=True)
    for seed in range(10):
        assert not isinstance(infer.plan(*program, backend=backend, seed=seed)["w"].estimator, Pathwise), seed


# -- A and B: poles ----------------------------------------------------------------------------------------------------


def over_nodes(cost: Callable[[np.ndarray], np.ndarray], loc: float, breaks: list[float]) -> float:
    """The gradient in `loc` of E[cost(z)], z ~ Normal(loc, 1): E[cost(z) (z - loc)], by pieces between the breaks."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    edges = [loc - 9, *(b for b in sorted(breaks) if abs(b - loc) < 9), loc + 9]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        z = (low + high) / 2 + (high - low) / 2 * nodes
        density = np.exp(log_normal(z, loc))
        total += float(((high - low) / 2 * weights * density * cost(z) * (z - loc)).sum())
    return total


def pole_loss_slope(function: Callable[[np.ndarray], np.ndarray], breaks: list[float], m: float, x: float) -> float:
    """Of minus the bound: z ~ Normal(0, 1), x ~ Normal(function(z), 1), guide Normal(m, 1)."""
    return m + over_nodes(lambda z: -log_normal(x, function(z)), m, breaks)


def behind_a_gate(backend: str, function: Callable[[Any], Any]) -> tuple[Any, ...]:
    """x ~ Normal(s f(z) + (1 - s) z, .6)."""
    lib = library(backend)

    def model(x: Any) -> None:
        s = floats(lib.sample("s", lib.dist.Bernoulli(lib.array(0.5))))
        z = lib.sample("z", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(s * function(z) + (1 - s) * z, 0.6), obs=x)

    def guide(x: Any) -> None:
        lib.sample("s", lib.dist.Bernoulli(logits=lib.param("ls", lib.array(0.1))))
        lib.sample("z", lib.dist.Normal(lib.param("m", lib.array(0.3)), 1.0))

    return model, guide, (lib.array(1.8),)


def test_a_pole_behind_a_gate_is_scored_for_ten_seeds(backend: str) -> None:
    program = behind_a_gate(backend, lambda z: z / abs(z))
    for seed in range(10):
        assert not isinstance(infer.plan(*program, seed=seed)["z"].estimator, Pathwise), seed


@pytest.mark.parametrize("seed", [1, 7])
def test_the_gradient_behind_a_gated_pole_is_unbiased(seed: int, backend: str) -> None:
    draws = infer.gradient(
        *behind_a_gate(backend, lambda z: z / abs(z)), num_samples=4000 if backend == "jax" else 1500, seed=seed
    )
    q = float(sigmoid(0.1))

    def cost(z: np.ndarray) -> Any:
        return -q * log_normal(1.8, np.sign(z), 0.6) - (1 - q) * log_normal(1.8, z, 0.6)

    assert abs(z_scores(draws["m"], 0.3 + over_nodes(cost, 0.3, [0.0]))) < BOUND


MATRIX, ADDED = np.array([[1.0, 0.5], [0.5, 1.0]], np.float32), np.array([[0.0, 0.3], [0.3, 0.0]], np.float32)
J, JS = jnp, jax.scipy.special
TORCH_POLES: dict[str, Callable[[Any], Any]] = {
    "inv": lambda z: torch.tanh(torch.linalg.inv(torch.tensor(MATRIX) * z + torch.tensor(ADDED))).sum(),
    "solve": lambda z: torch.tanh(torch.linalg.solve(torch.tensor(MATRIX) * z, torch.ones(2)).sum()),
    "pinv": lambda z: torch.tanh(torch.linalg.pinv(torch.tensor(MATRIX) * z).sum()),
    "matrix_power": lambda z: torch.tanh(torch.linalg.matrix_power(torch.tensor(MATRIX) * z, -1).sum()),
    "triangular solve": lambda z: torch.tanh(
        torch.linalg.solve_triangular(torch.eye(2) * z, torch.ones(2, 1), upper=True).sum()
    ),
    "digamma": lambda z: torch.tanh(torch.digamma(z)),
    "polygamma": lambda z: torch.nan_to_num(torch.tanh(torch.polygamma(2, z))),
    "xlogy": lambda z: torch.tanh(torch.nan_to_num(torch.xlogy(1.5, z))),
    "xlog1py": lambda z: torch.tanh(torch.nan_to_num(torch.special.xlog1py(torch.tensor(1.5), z))),
    "entr": lambda z: torch.tanh(torch.special.entr(z)),
    "logit": lambda z: torch.nan_to_num(torch.tanh(torch.logit(z))),
    "ndtri": lambda z: torch.nan_to_num(torch.tanh(torch.special.ndtri(z))),
    "erfinv": lambda z: torch.nan_to_num(torch.tanh(torch.erfinv(z))),
    "log": lambda z: torch.nan_to_num(torch.tanh(torch.log(z))),
    "rsqrt": lambda z: torch.tanh(torch.nan_to_num(torch.rsqrt(z))),
    "reciprocal": lambda z: torch.tanh(torch.reciprocal(z)),
    "power": lambda z: torch.tanh(z**-1.0),
    "tan": lambda z: torch.tanh(torch.tan(z)),
    "atan2": lambda z: torch.atan2(z, torch.tensor(-1.0)),
    "remainder": lambda z: torch.remainder(z, 1.0),
    "float8": lambda z: z.to(torch.float8_e4m3fn).float(),
    "eighths": lambda z: (8 * z).to(torch.int8) / 8.0,
}
JAX_POLES: dict[str, Callable[[Any], Any]] = {
    "inv": lambda z: J.tanh(J.linalg.inv(J.array(MATRIX) * z + J.array(ADDED))).sum(),
    "solve": lambda z: J.tanh(J.linalg.solve(J.array(MATRIX) * z, J.ones(2)).sum()),
    "pinv": lambda z: J.tanh(J.linalg.pinv(J.array(MATRIX) * z).sum()),
    "triangular solve": lambda z: J.tanh(jax.scipy.linalg.solve_triangular(J.eye(2) * z, J.ones(2)).sum()),
    "digamma": lambda z: J.tanh(JS.digamma(z)),
    "polygamma": lambda z: J.nan_to_num(J.tanh(JS.polygamma(2, z))),
    "gamma": lambda z: J.tanh(JS.gamma(z)),
    "beta": lambda z: J.nan_to_num(J.tanh(JS.beta(z, 1.5))),
    "poch": lambda z: J.nan_to_num(J.tanh(JS.poch(z, 1.5))),
    "entr": lambda z: J.tanh(JS.entr(z)),
    "kl_div": lambda z: J.tanh(JS.kl_div(z, 1.0)),
    "rel_entr": lambda z: J.tanh(JS.rel_entr(z, 1.0)),
    "xlogy": lambda z: J.tanh(J.nan_to_num(JS.xlogy(1.5, z))),
    "logit": lambda z: J.nan_to_num(J.tanh(JS.logit(z))),
    "ndtri": lambda z: J.nan_to_num(J.tanh(JS.ndtri(z))),
    "erfinv": lambda z: J.nan_to_num(J.tanh(JS.erfinv(z))),
    "boxcox": lambda z: J.nan_to_num(J.tanh(JS.boxcox(z, 0.5) if hasattr(JS, "boxcox") else (z**0.5 - 1) / 0.5)),
    "log": lambda z: J.nan_to_num(J.tanh(J.log(z))),
    "rsqrt": lambda z: J.tanh(J.nan_to_num(jax.lax.rsqrt(z))),
    "reciprocal": lambda z: J.tanh(J.reciprocal(z)),
    "power": lambda z: J.tanh(z**-1),
    "tan": lambda z: J.tanh(J.tan(z)),
    "atan2": lambda z: J.arctan2(z, -1.0),
    "remainder": lambda z: z % 1.0,
    "reduce_precision": lambda z: jax.lax.reduce_precision(z, 5, 2),
    "float8": lambda z: z.astype(J.float8_e4m3fn).astype(J.float32),
}
POLES = {"torch": TORCH_POLES, "jax": JAX_POLES}


@cache
def pole_plan(backend: str, start: int) -> Any:
    """The plan of six latents, each before a function of its own."""
    lib, functions = library(backend), list(POLES[backend].values())[start : start + 6]

    def model(x: Any) -> None:
        for i, function in enumerate(functions):
            z = lib.sample(f"z{i}", lib.dist.Normal(0.0, 1.0))
            lib.sample(f"x{i}", lib.dist.Normal(function(z), 1.0), obs=x)

    def guide(x: Any) -> None:
        for i in range(len(functions)):
            lib.sample(f"z{i}", lib.dist.Normal(lib.param(f"m{i}", lib.array(0.2)), 1.0))

    return infer.plan(model, guide, (lib.array(0.7),))


ALL_POLES = [(name, backend) for backend in BACKENDS for name in POLES[backend]]


@pytest.mark.parametrize(("name", "backend"), ALL_POLES)
def test_no_pathwise_gradient_through_a_partial_function(name: str, backend: str) -> None:
    start, place = divmod(list(POLES[backend]).index(name), 6)
    row = pole_plan(backend, 6 * start)[f"z{place}"]
    assert not isinstance(row.estimator, Pathwise), row.reason


def exact_inverse(z: np.ndarray) -> np.ndarray:
    matrices = MATRIX.astype(float) * z[:, None, None] + ADDED.astype(float)
    return np.asarray(np.tanh(np.linalg.inv(matrices)).sum((1, 2)))


EXACT_POLES = {
    "inv": (exact_inverse, [-0.2, 0.6]),  # where |.5 z + .3| = |z|
    "digamma": (lambda z: np.tanh(special.digamma(z)), [-float(k) for k in range(9)]),
    "xlogy": (lambda z: np.where(z > 0, np.tanh(1.5 * np.log(np.maximum(z, 1e-300))), 0.0), [0.0]),
}


@pytest.mark.parametrize("name", EXACT_POLES)
def test_the_gradient_through_a_partial_function_is_unbiased(name: str, backend: str) -> None:
    lib, function = library(backend), POLES[backend][name]

    def model(x: Any) -> None:
        lib.sample("x", lib.dist.Normal(function(lib.sample("z", lib.dist.Normal(0.0, 1.0))), 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("z", lib.dist.Normal(lib.param("m", lib.array(0.2)), 1.0))

    draws = infer.gradient(model, guide, (lib.array(0.7),), num_samples=4000 if backend == "jax" else 1500)["m"]
    assert abs(z_scores(draws, pole_loss_slope(*EXACT_POLES[name], 0.2, 0.7))) < BOUND
    with pytest.raises(ProgramError, match="site 'z'"):
        infer.gradient(model, guide, (lib.array(0.7),), estimators={"z": Pathwise()})
