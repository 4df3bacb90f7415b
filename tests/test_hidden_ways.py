"""Ways by which a latent moves the cost that no list of operations or attributes shows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as nd
import pyro
import pyro.distributions as pd
import pytest
import torch
from pyro.distributions import transforms
from scipy.stats import multivariate_normal

import ppl_gen as pg
from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Arm, DisArm, Enumerate, MeasureValued, Pathwise, Score
from ppl_gen.objectives import ELBO


def tools(backend: str) -> tuple[Any, Any, Any]:
    """A library, its distributions and its arrays."""
    return (pyro, pd, torch.tensor) if backend == "torch" else (numpyro, nd, jnp.array)


def coin_plan(likelihood: Any, data: Any, backend: str) -> Any:
    """The plan's row of a binary latent before a likelihood that is made from it."""
    lib, dist, array = tools(backend)

    def model(x: Any) -> None:
        lib.sample("x", likelihood(lib.sample("b", dist.Bernoulli(0.4)) * 1.0), obs=x)

    def guide(x: Any) -> None:
        lib.sample("b", dist.Bernoulli(logits=lib.param("q", array(0.3))))

    return infer.plan(model, guide, data)["b"]


def test_a_latent_in_a_conditional_flow_is_seen() -> None:
    """A conditioned transform holds its context in a partial of its network."""
    flow = transforms.conditional_affine_autoregressive(2, 1)

    def likelihood(b: Any) -> Any:
        return pd.TransformedDistribution(pd.Normal(torch.zeros(2), 1.0).to_event(1), [flow.condition(b.reshape(1))])

    assert coin_plan(likelihood, torch.tensor([0.7, -0.2]), "torch").depends == {"b", "x"}


def test_a_latent_in_a_drift_is_seen() -> None:
    def likelihood(b: Any) -> Any:
        return nd.EulerMaruyama(jnp.arange(3.0), lambda x, t: (2.0 * b - x, 1.0), nd.Normal(0.0, 1.0))

    assert coin_plan(likelihood, jnp.array([0.0, 1.5, 2.5]), "jax").depends == {"b", "x"}


class Shifted(pd.TorchDistribution):
    """A normal whose mean a function gives."""

    arg_constraints: dict[str, Any] = {}
    support = pd.constraints.real

    def __init__(self, mean: Any) -> None:
        self.mean_of = mean
        super().__init__(validate_args=False)

    def log_prob(self, value: Any) -> Any:
        """Of a normal with scale one."""
        return pd.Normal(self.mean_of(), 1.0).log_prob(value)


@pytest.mark.parametrize(("step", "expected"), [(True, Score), (False, Pathwise)])
def test_a_step_inside_a_function_that_a_distribution_holds_is_found(step: bool, expected: type) -> None:
    def model(x: Any) -> None:
        z = pyro.sample("z", pd.Normal(0.0, 1.0))
        pyro.sample("x", Shifted(lambda: torch.where(z > 0, 2.0, -1.0) if step else torch.sin(z)), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("z", pd.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    row = infer.plan(model, guide, torch.tensor(0.7))["z"]
    assert isinstance(row.estimator, expected), row.reason


ONE = torch.ones(())
STEPS: dict[str, Any] = {  # functions of torch that jump, though autograd has a derivative for each
    "qr": lambda z: torch.linalg.qr(torch.stack([z, ONE])[:, None])[0][1, 0],
    "eigenvector": lambda z: torch.linalg.eigh(torch.stack([torch.stack([z, ONE]), torch.stack([ONE, -z])]))[1][0, 0],
    "pivots": lambda z: torch.linalg.lu(torch.stack([torch.stack([z, ONE]), torch.stack([ONE, 0 * z])]))[2][0, 1],
    "cosine": lambda z: torch.cosine_similarity(z * torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), dim=0),
    "cosine, whose length is not proved": lambda z: torch.cosine_similarity(
        torch.stack([z, ONE]), torch.tensor([2.0, 1.0]), dim=0
    ),
    "layer norm": lambda z: torch.nn.functional.layer_norm(torch.stack([z, 0 * z]), (2,), eps=1e-12)[0],
    "derivative of a kink": lambda z: torch.func.grad(torch.relu)(z),
}
SMOOTH: dict[str, Any] = {
    "eigenvalue": lambda z: torch.linalg.eigh(torch.stack([torch.stack([z, ONE]), torch.stack([ONE, -z])]))[0][1],
    "layer norm": lambda z: torch.nn.functional.layer_norm(torch.stack([z, ONE, 2 * ONE]), (3,))[0],
    "derivative of a smooth function": lambda z: torch.func.grad(torch.tanh)(z),
}
CASES = [(f, Score) for f in STEPS.values()] + [(f, Pathwise) for f in SMOOTH.values()]


@pytest.mark.parametrize(("function", "expected"), CASES, ids=[*STEPS, *(f"smooth {name}" for name in SMOOTH)])
def test_a_function_of_torch_that_jumps_is_not_followed(function: Any, expected: type) -> None:
    def model(x: Any) -> None:
        pyro.sample("x", pd.Normal(function(pyro.sample("z", pd.Normal(0.0, 1.0))), 1.0), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("z", pd.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    row = infer.plan(model, guide, torch.tensor(0.7))["z"]
    assert isinstance(row.estimator, expected), row.reason


# -- what belongs to the rows of a batch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["batch_size", "list"])
def test_batches_of_one_row_stand_for_all_rows(kind: str, backend: str) -> None:
    """The mean loss over one pass is that of all rows, as no parameter moves."""
    lib, dist, array = tools(backend)
    x = np.linspace(-1.0, 3.0, 12, dtype=np.float32)

    def model(x: Any) -> None:
        with lib.plate("data", len(x)):
            lib.sample("x", dist.Normal(lib.param("m", array(0.5)), 1.0), obs=x)

    options: dict[str, Any] = {"learning_rate": 1e-9, "progress": False, "backend": backend}
    whole = infer.fit(model, None, x, steps=1, **options).losses[0]
    if kind == "list":
        losses = infer.fit(model, None, [x[i : i + 1] for i in range(12)], steps=12, **options).losses
    else:
        losses = infer.fit(model, None, x, batch_size=1, steps=12, **options).losses
    np.testing.assert_allclose(losses.mean(), whole, rtol=1e-5)


# -- noise of the program's own ------------------------------------------------------------------------------------------


def coin_with_dropout(backend: str) -> tuple[Any, Any]:
    """A binary latent whose log-odds half of the runs leave out."""
    lib, dist, array = tools(backend)

    def model(x: Any) -> None:
        lib.sample("x", dist.Normal(lib.sample("b", dist.Bernoulli(0.4)) * 1.0, 1.0), obs=x)

    def guide(x: Any) -> None:
        kept = torch.rand(()) < 0.5 if backend == "torch" else jax.random.uniform(numpyro.prng_key()) < 0.5
        lib.sample("b", dist.Bernoulli(logits=lib.param("q", array(1.3)) * kept))

    return model, guide


@pytest.mark.parametrize("estimator", [DisArm(), Arm(), MeasureValued()])
def test_runs_are_not_compared_under_different_noise(estimator: Any, backend: str) -> None:
    program = (*coin_with_dropout(backend), np.float32(0.7))
    assert isinstance(infer.plan(*program, backend=backend)["b"].estimator, Score)
    with pytest.raises(ProgramError, match=r"site 'b'.*random numbers of its own"):
        infer.plan(*program, backend=backend, estimators={"b": estimator})


def test_a_site_is_not_summed_out_under_different_noise() -> None:
    def model(x: Any) -> None:
        z = pyro.sample("z", pd.Bernoulli(0.4))
        pyro.sample("x", pd.Normal(z * torch.nn.functional.dropout(torch.ones(()), 0.5), 1.0), obs=x)

    with pytest.raises(ProgramError, match=r"site 'z'.*same noise.*test_hidden_ways.py"):
        infer.plan(model, lambda x: None, torch.tensor(0.7))


def test_drawing_from_distributions_is_no_noise_of_the_programs_own(backend: str) -> None:
    lib, dist, array = tools(backend)

    def model(x: Any) -> None:
        scale = lib.sample("scale", dist.Gamma(2.0, 2.0))
        with lib.plate("data", len(x), subsample_size=2) as rows:
            lib.sample("x", dist.Normal(lib.sample("b", dist.Bernoulli(0.4)) * 1.0, scale), obs=x[rows])

    def guide(x: Any) -> None:
        lib.sample("scale", dist.Gamma(lib.param("a", array(2.0)), 2.0))
        with lib.plate("data", len(x), subsample_size=2):
            lib.sample("b", dist.Bernoulli(logits=lib.param("q", array(0.3))))

    assert infer.plan(model, guide, np.ones(4, np.float32), backend=backend).facts.noise is None


# -- guides that do not fit the model ------------------------------------------------------------------------------------


def test_a_proposal_has_the_models_shape_and_support(backend: str) -> None:
    lib, dist, array = tools(backend)

    def plan(prior: Any, proposal: Any) -> Any:
        def model(x: Any) -> None:
            lib.sample("x", dist.Normal(lib.sample("z", prior()).sum(), 1.0), obs=x)

        return infer.plan(
            model, lambda x: lib.sample("z", proposal(lib.param("m", array(0.5)))), np.float32(0.7), backend=backend
        )

    with pytest.raises(
        ProgramError, match=r"site 'z' \(Normal\): expected a proposal of the shape .* \(3,\); got \(\)"
    ):
        plan(lambda: dist.Normal(0.0, 1.0).expand([3]).to_event(1), lambda m: dist.Normal(m, 1.0))
    with pytest.raises(ProgramError, match=r"site 'z' \(Exponential\): expected proposals in the model's support"):
        plan(lambda: dist.Exponential(1.0), lambda m: dist.Normal(m, 1.0))
    with pytest.raises(ProgramError, match=r"site 'z' \(Bernoulli\): expected proposals in the model's support"):
        plan(lambda: dist.Bernoulli(0.4), lambda m: dist.Poisson(m + 20.0))


def test_a_parameter_that_a_handler_gives_is_not_learned(backend: str) -> None:
    """The mean of the likelihood is given as 2; only the one that is left is a parameter."""
    lib, dist, array = tools(backend)

    def plain(x: Any) -> None:
        lib.sample("x", dist.Normal(lib.param("given", array(0.0)) + lib.param("left", array(0.5)), 1.0), obs=x)

    substitute: Any = pyro.poutine.substitute if backend == "torch" else numpyro.handlers.substitute
    model = substitute(plain, data={"given": array(2.0)})
    draws = infer.gradient(model, None, np.float32(1.0), backend=backend, num_samples=2)
    assert set(draws) == {"left"}
    np.testing.assert_allclose(draws["left"], 1.5)


def test_a_rejection_samplers_draw_is_not_followed() -> None:
    """Its sampler passes a part of the gradient only."""

    class Upper(pd.Rejector):
        support = pd.constraints.real

        def __init__(self, loc: Any) -> None:
            self.loc = loc
            super().__init__(pd.Normal(loc, 1.0), lambda z: torch.nn.functional.logsigmoid(3 * z), -torch.ones(()))

        def expand(self, shape: Any, _instance: Any = None) -> Any:
            return self

    def model(x: Any) -> None:
        pyro.sample("x", pd.Normal(pyro.sample("z", pd.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("z", Upper(pyro.param("m", torch.tensor(0.2))))

    assert isinstance(infer.plan(model, guide, torch.tensor(0.7))["z"].estimator, Score)


@pyro.poutine.block
def hidden(t: Any) -> Any:
    """A site that nobody sees."""
    return pyro.sample("hidden", pd.Bernoulli(logits=t))


@numpyro.handlers.block
def hidden_jax(t: Any) -> Any:
    """The same in NumPyro."""
    return numpyro.sample("hidden", nd.Bernoulli(logits=t))


DRAWS: dict[str, tuple[str, Any]] = {
    "torch.bernoulli": ("torch", lambda t: torch.bernoulli(torch.sigmoid(t))),
    "Pyro sample": ("torch", lambda t: pd.Normal(t, 1.0).sample()),
    "Pyro blocked site": ("torch", hidden),
    "jax.random.bernoulli": ("jax", lambda t: jax.random.bernoulli(numpyro.prng_key(), jax.nn.sigmoid(t)) * 1.0),
    "jax.random.categorical": (
        "jax",
        lambda t: jax.random.categorical(numpyro.prng_key(), jnp.stack([t, 0 * t])) * 1.0,
    ),
    "jax.random.poisson": ("jax", lambda t: jax.random.poisson(numpyro.prng_key(), jnp.exp(t)) * 1.0),
    "NumPyro sample": ("jax", lambda t: nd.Binomial(3, logits=t).sample(numpyro.prng_key()) * 1.0),
    "NumPyro blocked site": ("jax", hidden_jax),
}


def with_own_draw(draw: Any, backend: str) -> Any:
    """A parameter reaches a second site smoothly, which alone would give it a gradient, but not the whole one."""
    lib, dist, array = tools(backend)

    def model(x: Any) -> None:
        t = lib.param("t", array(0.4))
        lib.sample("x", dist.Normal(draw(t), 1.0), obs=x)
        lib.sample("y", dist.Normal(t, 1.0), obs=x)

    return model


@pytest.mark.parametrize(("backend", "draw"), DRAWS.values(), ids=DRAWS)
def test_a_parameter_that_decides_a_draw_of_its_own_is_refused(backend: str, draw: Any) -> None:
    with pytest.raises(ProgramError, match=r"param 't'.*sample statement.*test_hidden_ways.py:\d+: .*site 'x'"):
        infer.plan(with_own_draw(draw, backend), None, np.float32(0.7), backend=backend)


SMOOTH_DRAWS: dict[str, tuple[str, Any]] = {
    "torch.randn": ("torch", lambda t: t + torch.randn(())),
    "torch.dropout": ("torch", lambda t: torch.nn.functional.dropout(t, 0.5)),
    "Pyro rsample": ("torch", lambda t: pd.Gamma(t.exp(), 1.0).rsample()),
    "jax.random.normal": ("jax", lambda t: t + jax.random.normal(numpyro.prng_key())),
    "jax.random.gamma": ("jax", lambda t: jax.random.gamma(numpyro.prng_key(), jnp.exp(t))),
    "jax.random.truncated_normal": ("jax", lambda t: jax.random.truncated_normal(numpyro.prng_key(), t, 2.0)),
    "dropout": ("jax", lambda t: t * jax.random.bernoulli(numpyro.prng_key(), 0.5)),
    "NumPyro sample": ("jax", lambda t: nd.Beta(jnp.exp(t), 1.0).sample(numpyro.prng_key())),
}


@pytest.mark.parametrize(("backend", "draw"), SMOOTH_DRAWS.values(), ids=SMOOTH_DRAWS)
def test_a_parameter_behind_a_smooth_draw_of_its_own_is_followed(backend: str, draw: Any) -> None:
    assert infer.plan(with_own_draw(draw, backend), None, np.float32(0.7), backend=backend).notes == ()


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_parameter_beside_random_numbers_at_a_jump_is_said(backend: str) -> None:
    """It may be the kink of a continuous function, so it is no error."""

    def draw(t: Any) -> Any:
        noise = torch.rand(()) if backend == "torch" else jax.random.uniform(numpyro.prng_key())
        return (noise < t) * 1.0

    plan = infer.plan(with_own_draw(draw, backend), None, np.float32(0.7), backend=backend)
    assert "param 't': one way to the cost jumps at test_hidden_ways.py" in str(plan)


def test_a_parameter_may_choose_between_ways_that_it_passes(backend: str) -> None:
    """A leaky rectifier, written by hand: its derivative is that of the piece."""
    lib, dist, array = tools(backend)
    where: Any = torch.where if backend == "torch" else jnp.where

    def model(x: Any) -> None:
        t = lib.param("t", array(0.4))
        lib.sample("x", dist.Normal(where(t > 0, t, 0.1 * t), 1.0), obs=x)

    draws = infer.gradient(model, None, np.float32(0.7), backend=backend, num_samples=2)
    np.testing.assert_allclose(draws["t"], 0.4 - 0.7, rtol=1e-5)


def test_a_latent_without_a_support_is_refused_by_name() -> None:
    """Of an observation it is not needed."""

    class Bare(Shifted):
        support: Any = pd.TorchDistribution.support

    def latent(x: Any) -> None:
        pyro.sample("x", pd.Normal(pyro.sample("z", Bare(lambda: torch.zeros(()))), 1.0), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("z", pd.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    def observed(x: Any) -> None:
        mean = pyro.param("t", torch.tensor(0.4))
        pyro.sample("x", Bare(lambda: mean), obs=x)

    with pytest.raises(ProgramError, match=r"site 'z' \(Bare\): expected a distribution with a support"):
        infer.plan(latent, guide, torch.tensor(0.7))
    np.testing.assert_allclose(infer.gradient(observed, None, torch.tensor(0.7), num_samples=1)["t"], -0.3, rtol=1e-5)


def test_a_masked_mixture_is_read() -> None:
    """It has a plain tuple for its shape."""

    def model(x: Any) -> None:
        z = pyro.sample("z", pd.Normal(0.0, 1.0))
        pyro.sample("x", pd.MaskedMixture(torch.tensor(True), pd.Normal(z, 1.0), pd.Normal(-z, 1.0)), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("z", pd.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))

    assert isinstance(infer.plan(model, guide, torch.tensor(0.7))["z"].estimator, Pathwise)


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize(("step", "expected"), [(True, Score), (False, Pathwise)])
def test_a_prior_that_ends_inside_its_support_is_scored(step: bool, expected: type, backend: str) -> None:
    """A mixture jumps where one of its parts ends: two uniforms, a normal and a half-normal."""
    lib, dist, array = tools(backend)
    weights = dist.Categorical(array([0.5, 0.5]))

    def prior() -> Any:
        if not step:
            return dist.MixtureSameFamily(weights, dist.Normal(array([0.0, 1.0]), 1.0))
        if backend == "torch":
            return pd.MixtureSameFamily(weights, pd.Uniform(torch.zeros(2), torch.tensor([1.0, 2.0])))
        return nd.MixtureGeneral(weights, [nd.Normal(0.0, 1.0), nd.HalfNormal(1.0)], support=nd.constraints.real)

    def model(x: Any) -> None:
        lib.sample("x", dist.Normal(lib.sample("z", prior()), 1.0), obs=x)

    def guide(x: Any) -> None:
        part = dist.Normal(lib.param("m", array(0.2)), 1.0)
        squeeze = [pd.transforms.SigmoidTransform(), pd.transforms.AffineTransform(0.0, 2.0)]
        lib.sample("z", pd.TransformedDistribution(part, squeeze) if step and backend == "torch" else part)

    row = infer.plan(model, guide, np.float32(0.7), backend=backend)["z"]
    assert isinstance(row.estimator, expected), row.reason


def test_the_automatic_guide_is_refused_where_the_model_masks_a_latent(backend: str) -> None:
    """It would count where the prior does not, and its entropy grows without end."""
    lib, dist, array = tools(backend)
    mask = pyro.poutine.mask if backend == "torch" else numpyro.handlers.mask

    def model(x: Any, seen: Any) -> None:
        with lib.plate("data", len(x)), mask(mask=seen):
            z = lib.sample("z", dist.Normal(lib.param("m", array(0.5)), 1.0))
            lib.sample("x", dist.Normal(z, 1.0), obs=x)

    data = np.array([1.0, 2.0], np.float32), np.array([True, False])
    with pytest.raises(ProgramError, match=r"site 'z': expected the automatic guide.*masks it too"):
        infer.fit(model, None, data, steps=2, backend=backend, progress=False)


# -- likelihoods ---------------------------------------------------------------------------------------------------------


def test_a_point_gives_no_likelihood(backend: str) -> None:
    lib, dist, array = tools(backend)

    def model(x: Any) -> None:
        lib.sample("x", dist.Normal(lib.sample("z", dist.Normal(0.0, 1.0)), 0.1), obs=x)

    def guide(x: Any) -> None:
        lib.sample("z", dist.Delta(lib.param("at", array(0.9))))

    fit = infer.fit(model, guide, np.float32(1.0), steps=1, backend=backend, progress=False)
    with pytest.raises(ProgramError, match=r"site 'z' \(Delta\).*spreads"):
        fit.log_prob(np.float32(1.0))


def test_rows_that_mix_have_one_likelihood_together(backend: str) -> None:
    """It is a lower bound of the joint normal's; taken row by row it was none."""
    lib, dist, array = tools(backend)

    def model(x: Any) -> None:
        with lib.plate("data", len(x)):
            z = lib.sample("z", dist.Normal(0.0, 1.0))
            lib.sample("x", dist.Normal(2.0 * (z - z.mean()), 0.5), obs=x)

    def guide(x: Any) -> None:
        loc = lib.param("loc", array(0.0))
        with lib.plate("data", len(x)):
            lib.sample("z", dist.Normal(loc * x, 1.0))

    x = np.full(3, 1.5, np.float32)
    found = infer.fit(model, guide, x, steps=0, backend=backend, progress=False).log_prob(x, num_samples=2000)
    centre = np.eye(3) - 1 / 3
    exact = multivariate_normal(np.zeros(3), 4 * centre @ centre.T + 0.25 * np.eye(3)).logpdf(x)
    assert found.value.shape == () and found.kind == "lower_bound"
    assert float(found.value) < exact + 4 * float(found.standard_error)


def no_third(backend: str) -> tuple[Any, Any]:
    """A choice of three, the last of which the guide never makes."""
    lib, dist, array = tools(backend)
    join, none = (torch.cat, -np.inf) if backend == "torch" else (jnp.concatenate, -1e9)  # NumPyro's check: finite

    def model(x: Any) -> None:
        k = lib.sample("k", dist.Categorical(array([0.2, 0.5, 0.3])))
        lib.sample("x", dist.Normal(k * 1.0, 1.0), obs=x)

    def guide(x: Any) -> None:
        logits = join([lib.param("q", array([0.3, -0.2])), array([none])])
        lib.sample("k", dist.Categorical(logits=logits))

    return model, guide


@pytest.mark.parametrize("objective", [ELBO(), ELBO(analytic_kl=True)])
def test_a_value_of_no_probability_may_be_enumerated(objective: Any, backend: str) -> None:
    """A masked action has log-odds of minus infinity; the others' exact gradient is that of two values."""
    options: dict[str, Any] = {"estimators": {"k": Enumerate()}, "num_samples": 2, "objective": objective}
    draws = infer.gradient(*no_third(backend), np.float32(0.7), backend=backend, **options)
    q = 1 / (1 + np.exp(-0.5))
    gain = np.log(0.2 / 0.5) - (0.7**2 - 0.3**2) / 2 - np.log(q / (1 - q))
    np.testing.assert_allclose(draws["q"][0], [-q * (1 - q) * gain, q * (1 - q) * gain], rtol=1e-5)


COUNT = 0


class Counting:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: Any) -> None:
        global COUNT
        COUNT, self.count = COUNT + 1, self.count + 1
        prior(x)


def counting() -> Any:
    count = 0

    def model(x: Any) -> None:
        nonlocal count
        count += 1
        prior(x)

    return model


def prior(x: Any) -> None:
    pg.sample("x", pg.dist.Normal(pg.sample("z", pg.dist.Normal(0.0, 1.0)), 1.0), obs=x)


@pytest.mark.parametrize(("make", "names"), [(Counting, ("Counting.count", "COUNT")), (counting, ("count",))])
def test_a_program_that_counts_its_runs_is_said(make: Any, names: tuple[str, ...], backend: str) -> None:
    def guide(x: Any) -> None:
        pg.sample("z", pg.dist.Normal(pg.param("m", pg.xp.zeros(())), 1.0))

    x: Any = np.float32(0.7)
    plan = infer.plan(make(), guide, (x,), backend=backend)
    for name in names:
        assert any(f"changes {name} from run to run" in note for note in plan.notes)
    assert not any("from run to run" in note for note in infer.plan(prior, guide, (x,), backend=backend).notes)


@pytest.mark.parametrize("seed", [lambda: torch.manual_seed(3), lambda: pyro.set_rng_seed(0)])
@pytest.mark.parametrize("where", ["guide", "model"])
def test_a_program_that_seeds_itself_is_refused(seed: Any, where: str) -> None:
    """It would draw the same at every step."""

    def model(x: Any) -> None:
        if where == "model":
            seed()
        pyro.sample("x", pd.Normal(pyro.sample("z", pd.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x: Any) -> None:
        if where == "guide":
            seed()
        pyro.sample("z", pd.Normal(pyro.param("m", torch.zeros(())), 1.0))

    with pytest.raises(ProgramError, match="site 'z': expected draws that differ from run to run"):
        infer.plan(model, guide, torch.tensor(0.7))
