"""Elements of a plate that keep to themselves are proved to; all others are taken to meet, whatever the first run hid."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax
from numpyro.distributions import transforms

from ppl_gen import infer
from ppl_gen.backends.jax.words import spread
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Enumerate
from ppl_gen.program.independence import Marks, rounds

ROWS = 1000
MARKS = Marks({"rows": ROWS}, {"rows": 0})
A, P = jnp.linspace(0.1, 0.9, ROWS), jnp.full((ROWS, 4), 0.25)
L = jnp.outer(A, jnp.arange(1.0, 4.0))
EYE = jnp.broadcast_to(jnp.eye(3), (ROWS, 3, 3))


def strays(function: Callable[..., Any], *args: Any) -> bool:
    """Whether rows of the arguments reach other rows of the result."""
    closed = jax.make_jaxpr(lambda *inputs: function(*inputs))(*args)
    sources = [MARKS.of("rows").reshape(-1, *[1] * (len(atom.aval.shape) - 1)) for atom in closed.jaxpr.invars]
    outs = spread(closed, sources)
    assert all((out != 0).any() for out in outs), "an output that nothing reaches proves nothing"
    return any(MARKS.strays("rows", out, -out.ndim) for out in outs)


@pytest.mark.parametrize("length", [2, 3, 8, 1000])
def test_marks_tell_any_two_positions_apart(length: int) -> None:
    marks = next(rounds({"d": length}))
    assert not marks.strays("d", marks.of("d"), -1)
    for first, second in itertools.islice(itertools.combinations(range(length), 2), 200):
        words = marks.of("d").copy()
        words[first] |= words[second]
        assert marks.strays("d", words, -1)


DISTRIBUTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "Normal": (dist.Normal, (A, A)),
    "Normal in an event": (lambda a: dist.Normal(a, 1.0).to_event(1), (L,)),
    "MultivariateNormal": (lambda a, b: dist.MultivariateNormal(a, b), (L, EYE)),
    "MultivariateNormal by precision": (lambda a, b: dist.MultivariateNormal(a, precision_matrix=b), (L, EYE)),
    "MultivariateNormal by factor": (lambda a, b: dist.MultivariateNormal(a, scale_tril=b), (L, EYE)),
    "LowRankMultivariateNormal": (dist.LowRankMultivariateNormal, (L, EYE[:, :, :2], L)),
    "MultivariateStudentT": (lambda a, b: dist.MultivariateStudentT(3.0, a, b), (L, EYE)),
    "Categorical by logits": (lambda a: dist.Categorical(logits=a), (P,)),
    "Categorical by probs": (lambda a: dist.Categorical(probs=a), (P,)),
    "Bernoulli by logits": (lambda a: dist.Bernoulli(logits=a).to_event(1), (L,)),
    "Bernoulli by probs": (lambda a: dist.Bernoulli(probs=a), (A,)),
    "Multinomial": (lambda a: dist.Multinomial(7, probs=a), (P,)),
    "Binomial": (lambda a: dist.Binomial(7, probs=a), (A,)),
    "Gamma": (dist.Gamma, (A, A)),
    "Beta": (dist.Beta, (A, A)),
    "Dirichlet": (dist.Dirichlet, (P,)),
    "Poisson": (dist.Poisson, (A,)),
    "NegativeBinomial2": (lambda a: dist.NegativeBinomial2(a, 2.0), (A,)),
    "BetaBinomial": (lambda a: dist.BetaBinomial(a, 1.0, 7), (A,)),
    "DirichletMultinomial": (lambda a: dist.DirichletMultinomial(a, 7), (P,)),
    "ZeroInflatedPoisson": (lambda a: dist.ZeroInflatedPoisson(0.3, a), (A,)),
    "StudentT": (dist.StudentT, (A, A)),
    "Laplace": (dist.Laplace, (A,)),
    "VonMises": (lambda a: dist.VonMises(a, 1.0), (A,)),
    "LKJCholesky": (lambda a: dist.LKJCholesky(4, a), (A,)),
    "Delta": (dist.Delta, (A,)),
    "GaussianRandomWalk": (lambda a: dist.GaussianRandomWalk(a, num_steps=6), (A,)),
    "EulerMaruyama": (
        lambda a: dist.EulerMaruyama(jnp.arange(4.0), lambda x, t: (x, 1.0), dist.Normal(a, 1.0)),
        (A,),
    ),
    "OrderedLogistic": (lambda a: dist.OrderedLogistic(a, jnp.array([-1.0, 0.0, 1.0])), (A,)),
    "TruncatedNormal": (lambda a: dist.TruncatedNormal(a, 1.0, low=0.0), (A,)),
    "MixtureSameFamily": (
        lambda a, b: dist.MixtureSameFamily(dist.Categorical(logits=a), dist.Normal(b, 1.0)),
        (L, L),
    ),
    "MixtureGeneral": (
        lambda a, b: dist.MixtureGeneral(dist.Categorical(probs=a), [dist.Normal(b, 1.0), dist.Laplace(b, 2.0)]),
        (P[:, :2] * 2, A),
    ),
    "TransformedDistribution": (
        lambda a: dist.TransformedDistribution(dist.Normal(a, 1.0), transforms.SigmoidTransform()),
        (A,),
    ),
    "a simplex": (
        lambda a: dist.TransformedDistribution(dist.Normal(a, 1.0).to_event(1), transforms.StickBreakingTransform()),
        (L,),
    ),
    "masked": (lambda a: dist.Normal(a, 1.0).mask(a > 0.3), (A,)),
    "expanded": (lambda a: dist.Normal(a[:, None], 1.0).expand((ROWS, 4)).to_event(1), (A,)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_densities_of_rows_keep_apart(name: str) -> None:
    make, args = DISTRIBUTIONS[name]
    shape = make(*args).shape()
    value = jnp.full(shape, 1.0 / shape[-1] if len(shape) > 1 else 0.5)
    if make(*args).support.is_discrete:
        value = jnp.zeros(shape, int)
    assert not strays(lambda value, *args: make(*args).log_prob(value), value, *args)


def scanned(step: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """Six steps from what is given."""
    return lambda z: lax.scan(lambda h, t: (step(h, t), h), z, jnp.arange(6.0))[0]


APART: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda z: jnp.clip(jax.nn.softplus(z) * 2 + jnp.where(z > 0, z, 0), 0, 9),
    "there and back": lambda z: z[::-1][::-1],
    "a permutation and its inverse": lambda z: z[(jnp.arange(ROWS) + 5) % ROWS][(jnp.arange(ROWS) - 5) % ROWS],
    "each at its own place": lambda z: jnp.zeros(ROWS).at[jnp.arange(ROWS)].set(z),
    "every second in place": lambda z: jnp.zeros(ROWS).at[::2].set(z[::2]),
    "a function of one": jax.vmap(lambda v: jnp.sin(v) * 2),
    "one after another": lambda z: lax.map(lambda v: lax.cond(v > 0, jnp.sin, jnp.cos, v), z),
    "in portions": lambda z: lax.map(lambda v: jnp.sin(v), z, batch_size=10),
    "steps in time": scanned(lambda h, t: jnp.tanh(h + t)),
    "a loop": lambda z: lax.fori_loop(0, 3, lambda i, c: c * 2, z),
    "its own level's value": lambda z: jnp.arange(4.0)[jnp.clip(z * 4, 0, 3).astype(int)],
    "its own one of many": lambda z: jax.nn.one_hot((z * 3).astype(int), 4) @ jnp.arange(4.0),
    "padded and cut": lambda z: jnp.pad(z, (2, 3))[2:-3],
    "joined and cut": lambda z: jnp.concatenate([jnp.ones(3), z])[3:],
    "two columns": lambda z: jnp.stack([z, z], -1).reshape(ROWS // 10, 10, 2).sum(-1).reshape(ROWS),
    "checkpointed": jax.checkpoint(lambda z: jnp.sin(z)),
}
MET: dict[str, Callable[[Any], Any]] = {
    "a mean": lambda z: z - z.mean(),
    "a mean that weighs nothing": lambda z: z + 0 * z.sum(),
    "a gate that is shut": lambda z: jnp.where(z[0] > 9, z.mean(), z),
    "a shift": lambda z: jnp.roll(z, 1),
    "a cumulated sum": jnp.cumsum,
    "sorted": jnp.sort,
    "the element that another names": lambda z: z[jnp.clip(z, 0, ROWS - 1).astype(int)],
    "the element that the largest names": lambda z: z[jnp.argmax(z)] + z,
    "written where one says": lambda z: jnp.zeros(ROWS).at[z.astype(int)].set(1.0),
    "steps that shift": scanned(lambda h, t: jnp.roll(h, 1) + t),
    "a loop as long as the largest": lambda z: lax.while_loop(lambda c: c[0] < z.max(), lambda c: (c[0] + 1, c[1] * 2), (0.0, z))[1],
    "a branch on one": lambda z: lax.cond(z[3] > 0, jnp.sin, jnp.cos, z),
    "a round trip through NumPy": lambda z: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(z.shape, z.dtype), z),
    "reversed": lambda z: z[::-1],
    "transposed": lambda z: z.reshape(10, 100).T.reshape(ROWS),
    "convolved": lambda z: jnp.convolve(z, jnp.ones(3), mode="same"),
    "transformed": lambda z: jnp.fft.fft(z).real,
    "smoothed along time": lambda z: lax.associative_scan(jnp.add, z),
    "carried from one to the next": lambda z: lax.scan(lambda c, x: (c + x, c), 0.0, z)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_elements_that_keep_apart_are_proved_to(name: str) -> None:
    assert not strays(APART[name], A)


@pytest.mark.parametrize("name", MET)
def test_elements_that_meet_are_never_taken_apart(name: str) -> None:
    assert strays(MET[name], A)


W = jnp.ones((3, 3))
FEATURES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "a layer": (lambda z: jnp.tanh(z @ W), False),
    "softmax over features": (lambda z: jax.nn.softmax(z @ W, axis=-1), False),
    "softmax over rows": (lambda z: jax.nn.softmax(z @ W, axis=0), True),
    "layer normalization": (lambda z: (z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True), False),
    "batch normalization": (lambda z: (z - z.mean(0)) / z.std(0), True),
    "attention over rows": (lambda z: jax.nn.softmax(z @ z.T, -1) @ z, True),
    "einsum": (lambda z: jnp.einsum("nf,fg,nf->ng", z, W, z), False),
    "a factor per row": (lambda z: jnp.linalg.cholesky(jnp.eye(3) + z[:, :, None] * z[:, None, :]), False),
    "a system per row": (lambda z: jnp.linalg.solve(jnp.eye(3) + z[:, :, None] * z[:, None, :], z[..., None]), False),
    "eigenvalues per row": (lambda z: jnp.linalg.eigh(jnp.eye(3) + z[:, :, None] * z[:, None, :])[0], False),
    "an image per row": (
        lambda z: lax.conv_general_dilated(z[:, None, :], jnp.ones((2, 1, 2)), (1,), "SAME"),
        False,
    ),
    "sorted per row": (lambda z: jnp.sort(z, -1), False),
    "taken per row": (lambda z: jnp.take_along_axis(z, jnp.argsort(z, -1), -1), False),
    "written per row": (jax.vmap(lambda r: r.at[r.argmax()].set(0.0)), False),
    "a scan per row": (jax.vmap(lambda r: lax.scan(lambda c, v: (c + v, c), 0.0, r)[1]), False),
    "a column of all": (lambda z: z.at[:, 0].set(z[:, 1]), False),
    "the largest of windows": (lambda z: lax.reduce_window(z, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"), False),
}


@pytest.mark.parametrize("name", FEATURES)
def test_rows_of_features_meet_only_where_they_do(name: str) -> None:
    function, expected = FEATURES[name]
    assert strays(function, L) is expected


def test_a_variational_autoencoder_is_proved_in_less_than_its_step() -> None:
    """A hundred passes would take seconds; one takes milliseconds, and 0.3 s are allowed."""
    w, v, z, x = jnp.ones((20, 400)), jnp.ones((400, 784)), jnp.ones((128, 20)), jnp.zeros((128, 784))

    def density(z: Any) -> Any:
        return dist.Bernoulli(logits=jnp.tanh(z @ w) @ v).to_event(1).log_prob(x)

    closed, marks = jax.make_jaxpr(density)(z), Marks({"rows": 128}, {"rows": 0})
    start = time.perf_counter()
    (out,) = spread(closed, [marks.of("rows")[:, None]])
    assert time.perf_counter() - start < 0.3
    assert not marks.strays("rows", out, -1)


Y = np.array([1.8, 0.2, -0.5], np.float32)
START = np.array([0.3, -0.4, 0.2], np.float32)


def coins(mean: Callable[..., Any], *, gate: bool = False) -> tuple[Any, Any]:
    """Three coins whose observations have a mean of all of them, and of a coin outside of the plate where asked."""

    def model(y: Any, *rest: Any) -> None:
        outside = [numpyro.sample("s", dist.Bernoulli(0.5))] if gate else []
        with numpyro.plate("d", 3):
            z = numpyro.sample("z", dist.Bernoulli(0.4 * jnp.ones(3))).astype(float)
            numpyro.sample("x", dist.Normal(mean(z, *outside, *rest), 0.6), obs=y)

    def guide(y: Any, *rest: Any) -> None:
        if gate:
            numpyro.sample("s", dist.Bernoulli(logits=numpyro.param("ls", jnp.array(0.1))))
        start = numpyro.param("l", jnp.array(START))
        with numpyro.plate("d", 3):
            numpyro.sample("z", dist.Bernoulli(logits=start))

    return model, guide


def log_normal(x: Any, mean: Any) -> Any:
    return -0.5 * ((x - mean) / 0.6) ** 2 - np.log(0.6) - 0.5 * np.log(2 * np.pi)


def exact(mean: Callable[..., Any], *rest: Any, gate: bool = False) -> np.ndarray[Any, Any]:
    """Gradient of minus the ELBO in the coins' logits, by enumeration in float64 and central differences."""

    def loss(logits: Any) -> float:
        q, total = 1 / (1 + np.exp(-logits)), 0.0
        for s in (0, 1) if gate else (None,):
            weight = 1.0 if s is None else (1 / (1 + np.exp(-0.1)) if s else 1 / (1 + np.exp(0.1)))
            for z in itertools.product((0.0, 1.0), repeat=3):
                bits = np.array(z)
                log_q = np.log(np.where(bits > 0, q, 1 - q)).sum()
                log_p = np.log(np.where(bits > 0, 0.4, 0.6)).sum()
                density = log_normal(Y, mean(bits, *([] if s is None else [s]), *rest)).sum()
                total += weight * np.exp(log_q) * (log_q - log_p - density)
        return total

    start = START.astype(float)
    return np.array([(loss(start + 1e-5 * row) - loss(start - 1e-5 * row)) / 2e-5 for row in np.eye(3)])


HIDDEN: dict[str, tuple[Callable[..., Any], tuple[Any, ...], bool]] = {
    "a gate outside of the plate": (lambda z, s: 2 * jnp.where(s > 0.5, z.mean(), z), (), True),
    "a weight of zero in the data": (lambda z, a: 2 * (z + a * z.sum()), (jnp.array(0.0),), False),
    "positions in the data": (lambda z, i: 2 * z[i], (jnp.array([0, 1, 2]),), False),
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", HIDDEN)
def test_what_the_first_run_hides_is_in_the_plan_for_every_seed(name: str, seed: int) -> None:
    mean, rest, gate = HIDDEN[name]
    plan = infer.plan(*coins(mean, gate=gate), (Y, *rest), backend="jax", seed=seed)
    assert plan["z"].summed_plates == {"d"}


def assert_mean(draws: np.ndarray[Any, Any], value: Any, power: float) -> None:
    """Within 4.5 standard errors, which are small enough to tell a bias of `power`; a false alarm: 7e-6 per entry."""
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    assert (4.5 * error < power).all()
    assert (np.abs(draws.mean(0) - value) < 4.5 * error).all(), (draws.mean(0), value, error)


def test_a_gate_outside_of_the_plate_biases_nothing() -> None:
    """Without the terms that the gate lets in, the first entry is -0.546 for -0.010."""
    value = exact(lambda z, s: 2 * (z.mean() if s else z), gate=True)
    np.testing.assert_allclose(value, [-0.010, 0.917, 1.479], atol=1e-3)
    program = coins(HIDDEN["a gate outside of the plate"][0], gate=True)
    assert_mean(infer.gradient(*program, Y, backend="jax", num_samples=6000)["l"], value, power=0.5)


def test_a_residual_branch_that_starts_at_zero_biases_nothing() -> None:
    """With `a` at -0.4 the rows' own terms alone give [-1.438, -0.401, 0.424]."""
    program = coins(lambda z: 2 * (z + numpyro.param("a", jnp.array(0.0)) * z.sum()))
    with pytest.raises(ProgramError, match="meet at site 'x'"):
        infer.gradient(*program, Y, backend="jax", estimators={"z": Enumerate()})
    value = exact(lambda z: 2 * (z - 0.4 * z.sum()))
    np.testing.assert_allclose(value, [-1.361, 0.483, 1.739], atol=2e-3)
    start = {"a": np.float32(-0.4)}
    assert_mean(infer.gradient(*program, Y, backend="jax", num_samples=20000, params=start)["l"], value, power=0.5)


def test_data_that_change_between_batches_bias_nothing() -> None:
    """The first batch weighs the sum by zero; the facts that are read of it serve the second."""
    model, guide = coins(lambda z, a: 2 * (z + a * z.mean()))
    first, second = ((Y, np.float32(a)) for a in (0.0, 1.0))
    assert infer.plan(model, guide, tuple(map(jnp.asarray, first)), backend="jax")["z"].summed_plates == {"d"}
    value = exact(lambda z: 2 * (z + z.mean()))
    draws = infer.gradient(model, guide, tuple(map(jnp.asarray, second)), backend="jax", num_samples=6000)["l"]
    assert_mean(draws, value, power=1.0)


def test_a_latent_of_the_model_that_meets_is_not_summed_out_side_by_side() -> None:
    for seed in range(3):
        model, _ = coins(HIDDEN["a gate outside of the plate"][0], gate=True)
        with pytest.raises(ProgramError, match=r"site 'z'.*they meet at site 'x'"):
            infer.plan(model, lambda y: None, Y, backend="jax", seed=seed)


@pytest.mark.parametrize(
    "count",
    [lambda group: int(np.max(group)) + 1, lambda group: len(np.unique(group)), lambda group: int(group[-1]) + 1],
    ids=["largest", "distinct", "last"],
)
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
def test_what_hangs_on_data_alone_costs_no_latent_its_estimator(count: Any, kind: Any) -> None:
    def model(group: Any, y: Any) -> None:
        with numpyro.plate("groups", count(group)):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)

    def guide(group: Any, y: Any) -> None:
        with numpyro.plate("groups", count(group)):
            numpyro.sample("mu", dist.Normal(numpyro.param("m", jnp.zeros(2)), 1.0))

    plan = infer.plan(model, guide, (kind([0, 0, 1, 1]), np.ones(4, np.float32)), backend="jax")
    assert str(plan["mu"].estimator) == "Pathwise()"
    assert plan.facts.eager is None
