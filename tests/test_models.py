"""Claims about the built-in models: one text is one model on every backend."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from ppl_gen import backends, infer
from ppl_gen.data import Schema
from ppl_gen.data.variable import Variable
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Pathwise, Score
from ppl_gen.language import dist, factor, plate, sample, xp
from ppl_gen.models import VAE, BidirectionalHelmholtzMachine, HelmholtzMachine, OrderAgnosticNADE, SigmoidBeliefNet
from ppl_gen.program import Batch
from ppl_gen.training.prepare import no_guide
from tests import reference

BACKENDS = ["torch", "jax"]
RNG = np.random.default_rng(0)
BITS = (RNG.random((5, 12)) < 0.4).astype(np.uint8)
CODES = np.column_stack([BITS[:, :6], RNG.integers(0, 4, 5)]).astype(float)
MIXED = Schema((*(Variable.of_levels(j, range(2)) for j in range(6)), Variable.of_levels(6, range(4))))


class AlongOneOrder:
    """A NADE's log-likelihood along the order 0, 1, ...: a program without the training's random masks."""

    def __init__(self, nade):
        self.nade = nade

    def __call__(self, codes):
        with plate("data", len(codes)):
            total = xp.zeros(())
            for j in range(codes.shape[1]):
                before = xp.zeros(codes.shape, dtype=xp.bool) | (xp.arange(codes.shape[1]) < j)
                log_probs = self.nade.log_conditionals(codes, before)[:, j]
                chosen = xp.arange(log_probs.shape[1]) == codes[:, j : j + 1]
                total = total + xp.sum(xp.where(chosen, log_probs, xp.zeros_like(log_probs)), axis=1)
            factor("x", total)


def bits(*shape):
    return (np.random.default_rng(1).random(shape) < 0.5).astype(np.float32)


MEAN = BITS.mean(0)
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "VAE": (VAE(12, 3, (7, 5), data_mean=MEAN), BITS, {"z": RNG.standard_normal((5, 3)).astype(np.float32)}),
    "VAE, linear": (VAE(12, 2, ()), BITS, {"z": RNG.standard_normal((5, 2)).astype(np.float32)}),
    "SBN": (SigmoidBeliefNet(12, (6, 4), MEAN), BITS, {"h1": bits(5, 6), "h2": bits(5, 4)}),
    "SBN, one layer": (SigmoidBeliefNet(12, (6,)), BITS, {"h1": bits(5, 6)}),
    "SBN, three": (
        SigmoidBeliefNet(12, (6, 4, 3)),
        BITS,
        {"h1": bits(5, 6), "h2": bits(5, 4), "h3": bits(5, 3)},
    ),
    "NADE, binary": (AlongOneOrder(OrderAgnosticNADE(12, (8, 8))), BITS.astype(float), {}),
    "NADE, mixed": (AlongOneOrder(OrderAgnosticNADE(MIXED, (8,), data=CODES)), CODES, {}),
}


def read(backend, model, x, seed=0):
    """The program after its first run, and the batch it ran on."""
    program = backend.Program(model, getattr(model, "guide", no_guide), seed=seed)
    batch = Batch((backend.array(x),))
    with program.session(seed):
        backend.read(program, batch)
    return program, batch


def initial(backend, model, x, seed=0):
    return read(backends.get(backend), model, x, seed)[0].constrain()


def terms(backend, model, x, params, values):
    """Every site's log density at these parameters and latent values: + log p, - log q, summed, nats."""
    backend = backends.get(backend)
    program, batch = read(backend, model, x)
    backend.set_params(program, params)
    fixed = {site: backend.array(value) for site, value in values.items()}
    with program.session(0):
        if backend.name == "jax":
            state = (program.params, program.buffers, jax.random.key(0))
            run = program.run(*state, batch, fixed, guide=hasattr(model, "guide"))
        else:
            run = program.run(batch, fixed, guide=hasattr(model, "guide"))
    return {term: float(backend.to_numpy(value).sum()) for term, value in run.terms.items()}


@pytest.mark.parametrize("name", CASES)
def test_log_densities_agree_with_the_float64_reference(name):
    """At parameters far from where they start, each site to 1e-5 relative, on both backends."""
    model, x, values = CASES[name]
    rng = np.random.default_rng(2)
    start = initial("torch", model, x)
    params = {n: v + 0.5 * rng.standard_normal(v.shape).astype(np.float32) for n, v in start.items()}
    judged = {("model", n): v for n, v in reference.log_joint(model, values, params, x.astype(float)).sites.items()}
    if hasattr(model, "guide"):
        sites = reference.log_joint(model.guide, values, params, x.astype(float)).sites
        judged |= {("guide", n): -v for n, v in sites.items()}
    assert {n for _, n in judged} == {"x", *values}
    for backend in BACKENDS:
        found = terms(backend, model, x, params, values)
        assert found.keys() == judged.keys()
        assert found == pytest.approx(judged, rel=1e-5), backend


@pytest.mark.parametrize("name", CASES)
def test_a_seed_means_the_same_initial_weights_on_both_backends(name):
    model, x, _ = CASES[name]
    on_torch, on_jax, other = (initial(b, model, x, seed) for b, seed in (("torch", 3), ("jax", 3), ("jax", 4)))
    assert on_torch.keys() == on_jax.keys()
    for parameter, value in on_torch.items():
        np.testing.assert_array_equal(value, on_jax[parameter], err_msg=parameter)
    assert any((other[parameter] != value).any() for parameter, value in on_jax.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_code_of_a_vae_is_pathwise_and_every_layer_of_bits_is_scored(backend):
    for name in ("VAE", "SBN, three"):
        model, x, values = CASES[name]
        plan = infer.plan(model, model.guide, x, backend=backend)
        assert set(plan) == set(values)
        expected = Pathwise if name == "VAE" else Score
        assert {type(plan[site].estimator) for site in plan} == {expected}


@cache
def small_net():
    """A net of 4 pixels and 3 + 2 units away from its start, two images, and the exact gradient on each."""
    images = np.array([[1, 0, 1, 1], [0, 0, 1, 0]], dtype=np.uint8)
    model, rng = SigmoidBeliefNet(4, (3, 2), data_mean=[0.3, 0.6, 0.5, 0.8]), np.random.default_rng(3)
    start = reference.initial_params(model, model.guide, images[:1])
    params = {name: value + 0.4 * rng.standard_normal(value.shape) for name, value in start.items()}
    each = [reference.gradient(model, model.guide, image[None], params) for image in images]
    return model, images, params, each


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_belief_nets_gradient_is_unbiased(backend):
    """Against enumeration: |z| < 5 for 50 parameters on 2 backends, false alarm 1e-4.

    Taking 800 copies of each image makes one estimate less noisy; images are independent, so their exact
    gradients add up. Power: a bias of 10 % in each parameter's largest slope would show at 5 standard errors.
    """
    model, images, params, each = small_net()
    draws = infer.gradient(
        model, model.guide, np.tile(images, (800, 1)), backend=backend, params=params, num_samples=200, seed=1
    )
    assert draws.keys() == params.keys() and sum(value.size for value in params.values()) == 50
    for name, found in draws.items():
        exact = 800 * sum(gradient[name] for gradient in each)
        error = found.std(0) / np.sqrt(len(found))
        assert np.abs((found.mean(0) - exact) / error).max() < 5, name
        assert (0.1 * np.abs(exact) / error).max() > 5, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", [VAE(12, 2, (5,)), SigmoidBeliefNet(12, (5,))], ids=["VAE", "SBN"])
@pytest.mark.parametrize(
    ("x", "advice"),
    [(BITS[:, :8], r"\(rows, 12\); got \(5, 8\)"), (BITS.reshape(5, 3, 4), r"got \(5, 3, 4\).*reshape")],
)
def test_data_of_another_width_is_refused(backend, model, x, advice):
    with pytest.raises(ValueError, match=advice):
        infer.plan(model, model.guide, x, backend=backend)


@pytest.mark.parametrize(
    "build",
    [
        lambda: VAE(0, 2),
        lambda: VAE(4, 0),
        lambda: VAE(4, 2.0),  # type: ignore[arg-type]
        lambda: VAE(4, 2, hidden=400),  # type: ignore[arg-type]
        lambda: VAE(4, 2, data_mean=np.full(3, 0.5)),
        lambda: VAE(4, 2, data_mean=np.full(4, 1.5)),
        lambda: VAE(4, 2, data_mean=np.full(4, np.nan)),
        lambda: SigmoidBeliefNet(4, hidden=()),
        lambda: SigmoidBeliefNet(4, hidden=(3, 0)),
        lambda: SigmoidBeliefNet(True),
        lambda: HelmholtzMachine(4, hidden=()),
    ],
)
def test_wrong_sizes_are_refused(build):
    with pytest.raises((TypeError, ValueError), match=r"models\.\w+: expected .*; got .*\. \w+"):
        build()


@pytest.mark.parametrize("make", [lambda mean: VAE(4, 2, (3,), mean), lambda mean: SigmoidBeliefNet(4, (3,), mean)])
def test_data_mean_starts_the_output_at_the_marginals_and_centres_the_guide(make):
    mean = np.array([0.0, 0.2, 0.5, 1.0])
    model, plain = make(mean), make(None)
    x = np.ones((1, 4))
    params = reference.initial_params(model, model.guide, x)
    output = max((n for n in params if n.startswith("decoder.") and n.endswith("bias")), key=lambda n: params[n].size)
    np.testing.assert_allclose(1 / (1 + np.exp(-params[output])), [0.001, 0.2, 0.5, 0.999], rtol=1e-5)
    values = {"z": np.ones((1, 2)), "h1": np.ones((1, 3))}
    seen = reference.log_joint(model.guide, values, params, x).total
    assert seen == pytest.approx(reference.log_joint(plain.guide, values, params, x - mean).total, rel=1e-6)
    assert seen != pytest.approx(reference.log_joint(plain.guide, values, params, x).total, rel=1e-3)


# -- a model brings its own guide and objective ---------------------------------------------------------------------

PATTERNS = np.repeat([[1.0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0]], 10, axis=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "particles"), [(HelmholtzMachine, 1), (BidirectionalHelmholtzMachine, 5)])
def test_helmholtz_machines_learn_three_patterns_by_their_own_objective(kind, particles, backend):
    """Six independent bits, each 1/3 or 2/3, have 6 x 0.637 = 3.8 nats a row, the three patterns themselves log 3 = 1.1."""
    model = kind(6, (4,), PATTERNS.mean(0))
    options = {"backend": backend, "learning_rate": 0.03, "num_particles": particles, "progress": False}
    fit = infer.fit(model, data=PATTERNS, steps=600, **options)
    assert all(type(model.objective).__name__ in row.reason for row in fit.plan.rows.values())
    assert fit.log_prob(PATTERNS, num_samples=50).value.mean() > -2.5


def test_every_verb_takes_the_models_own_guide_and_objective():
    model = BidirectionalHelmholtzMachine(12, (3,))
    with pytest.raises(ProgramError, match="num_particles=2"):
        infer.plan(model, data=BITS, backend="jax")
    plan = infer.plan(model, data=BITS, backend="jax", num_particles=2)
    assert "BidirectionalHelmholtz" in plan["h1"].reason
    assert infer.gradient(VAE(12, 2, (5,)), data=BITS, backend="jax")["encoder.0.weight"].shape == (1, 12, 5)


def test_every_verb_gives_a_plain_program_the_automatic_guide():
    def model(x):
        with plate("data", len(x)):
            sample("x", dist.Normal(sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    x = RNG.standard_normal(5).astype(np.float32)
    assert isinstance(infer.plan(model, data=x, backend="torch")["z"].estimator, Pathwise)
    assert infer.gradient(model, data=x, backend="jax")["z.loc"].shape == (1, 5)
    report = infer.check(model, data=x, backend="jax", num_samples=50, max_samples=50, others=False)
    assert report.ok is not False
