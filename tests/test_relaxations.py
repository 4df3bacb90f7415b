"""Estimators that put a real number in the place of a finite value: relaxations, and control variates made from them.

z-scores, `BOUND` and its false-alarm rate as in `tests.test_gradients`: 5.7e-7 per component, about 250 components here,
1.4e-4 for the file. Seeds are fixed, so a false alarm either happens or never does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import (
    Constant,
    DoubleControl,
    Enumerate,
    Estimator,
    GumbelSoftmax,
    LeaveOneOut,
    MuProp,
    Rebar,
    Relax,
    Rodeo,
    Score,
    StraightThrough,
)
from ppl_gen.evaluate.measure import candidates, measure
from ppl_gen.infer.verbs import read
from ppl_gen.language import dist, plate, sample, xp
from ppl_gen.objectives import ELBO, ImportanceWeighted
from ppl_gen.testing import BOUND, z_scores
from tests.nightly import nightly
from tests.small_programs import CASES, real, start
from tests.test_gradients import estimate, exact


class Shaken(Relax):
    """With weights that matter before any training: at their start the network answers zero."""

    def start(self, site: Any, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
        weights, averages = super().start(site, rng)
        return shaken(weights, rng), averages


class ShakenRodeo(Rodeo):
    """Likewise."""

    def start(self, site: Any, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
        weights, averages = super().start(site, rng)
        return shaken(weights, rng), averages


def shaken(weights: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The same with noise on every weight."""
    return {n: (v + 0.5 * rng.standard_normal(v.shape)).astype(np.float32) for n, v in weights.items()}


UNBIASED: dict[str, Estimator] = {
    "muprop": MuProp(Constant(0.3)),
    "rebar": Rebar(temperature=0.3, coefficient=0.8),
    "relax": Shaken(),
}
PAIRED: dict[str, Estimator] = {"double_control": DoubleControl(0.7), "rodeo": ShakenRodeo()}
BIASED: dict[str, Estimator] = {"gumbel_softmax": GumbelSoftmax(), "straight_through": StraightThrough()}
NUM_SAMPLES = {"torch": 300, "jax": 10_000}


def plan_of(name: str, estimator: Estimator | None, site: str, backend: str = "jax") -> Any:
    """The plan of a small program with an estimator asked for at one site."""
    case = CASES[name]
    asked = None if estimator is None else {site: estimator}
    return infer.plan(case.model, case.guide, case.data, estimators=asked, backend=backend)


def variance(name: str, estimator: Estimator, warm_up: int = 0, particles: int = 1) -> float:
    """Of one step's gradient, 3000 draws: known to about 5 %, as single draws are not far from normal."""
    case = CASES[name]
    options: dict[str, Any] = {"estimators": {"*": estimator}, "num_particles": particles, "seed": 0}
    prepared, batch = read(case.model, case.guide, case.data, "jax", exact(name)[0], **options)
    return measure(prepared, batch, 3000, 1, ELBO(), warm_up=warm_up).variance


# --- what is unbiased ---


@pytest.mark.parametrize("estimator", UNBIASED)
@pytest.mark.parametrize(
    "name", [nightly("bernoulli_chain"), "nested_plates", nightly("masked_elements"), "sum_over_plate"]
)
def test_control_variates_leave_the_mean_alone(name: str, estimator: str) -> None:
    """Power: a slope 10 % too long has |z| of about 6 here; one that counts a shared term once per element, of 13."""
    draws = estimate(name, "jax", UNBIASED[estimator], 1, NUM_SAMPLES["jax"])
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize("estimator", ["muprop", "rebar", "relax"])
@pytest.mark.parametrize("name", ["bernoulli", "sum_over_plate"])
def test_they_are_unbiased_on_torch_too(name: str, estimator: str) -> None:
    draws = estimate(name, "torch", UNBIASED[estimator], 1, NUM_SAMPLES["torch"])
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize(
    ("name", "backend"),
    [("categorical", "torch"), ("categorical", "jax"), ("latent_index", "jax"), ("gaussian_mixture", "jax")],
)
def test_relax_is_unbiased_at_categorical_sites(name: str, backend: str) -> None:
    draws = estimate(name, backend, Shaken(), 1, NUM_SAMPLES[backend])
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize("estimator", ["muprop", "rebar", "relax"])
def test_two_particles_are_unbiased(estimator: str) -> None:
    draws = estimate("auxiliary_bernoulli", "jax", UNBIASED[estimator], 2, 2000)
    assert z_scores(draws, exact("auxiliary_bernoulli")[1]).max() < BOUND


@pytest.mark.parametrize("estimator", ["rebar", "relax"])
def test_a_derivative_passes_later_sites_whatever_their_own_estimator(estimator: str) -> None:
    """A later Normal under the score function is cut in the run itself, but not in the relaxed one."""
    case = CASES["discrete_to_continuous"]
    first, second = infer.plan(case.model, case.guide, case.data, backend="jax")
    draws = infer.gradient(
        case.model, case.guide, case.data, backend="jax", num_samples=6000, params=exact("discrete_to_continuous")[0],
        estimators={first: UNBIASED[estimator], second: Score(Constant(0.0))},
    )  # fmt: skip
    assert z_scores(draws, exact("discrete_to_continuous")[1]).max() < BOUND


@pytest.mark.parametrize("estimator", ["muprop", "rebar", "relax"])
def test_they_hold_under_an_importance_weighted_bound(estimator: str) -> None:
    """Held against the score function, whose 8000 draws have the same mean: |z| of the difference."""
    case = CASES["sum_over_plate"]
    options: dict[str, Any] = {"backend": "jax", "num_particles": 2, "objective": ImportanceWeighted()}
    options |= {"params": exact("sum_over_plate")[0], "num_samples": 8000}
    found, truth = (
        infer.gradient(case.model, case.guide, case.data, estimators={"*": each}, seed=seed, **options)
        for seed, each in enumerate([UNBIASED[estimator], Score(Constant(0.0))])
    )
    for name in truth:
        error = np.sqrt((found[name].var(0) + truth[name].var(0)) / 8000)
        assert (abs(found[name].mean(0) - truth[name].mean(0)) < BOUND * error + 1e-4).all()


@pytest.mark.parametrize("estimator", PAIRED)
@pytest.mark.parametrize(
    ("name", "particles"), [nightly("nested_plates", 2), ("masked_elements", 3), ("sum_over_plate", 2)]
)
def test_what_pairs_particles_is_unbiased(name: str, particles: int, estimator: str) -> None:
    draws = estimate(name, "jax", PAIRED[estimator], particles, NUM_SAMPLES["jax"])
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize("estimator", PAIRED)
def test_what_pairs_particles_is_unbiased_on_torch_too(estimator: str) -> None:
    draws = estimate("sum_over_plate", "torch", PAIRED[estimator], 2, NUM_SAMPLES["torch"])
    assert z_scores(draws, exact("sum_over_plate")[1]).max() < BOUND


def test_a_ten_percent_bias_of_rebar_would_show() -> None:
    draws, truth = estimate("nested_plates", "jax", Rebar(), 1, 20_000), exact("nested_plates")[1]
    assert z_scores(draws, truth).max() < BOUND
    assert z_scores({k: 0.9 * v for k, v in draws.items()}, truth).max() > BOUND


# --- what it gains ---


@pytest.mark.parametrize(("estimator", "most"), [("muprop", 0.5), ("rebar", 0.6), ("relax", 0.5)])
def test_variance_falls_where_the_cost_is_smooth(estimator: str, most: float) -> None:
    """Measured ratios: 0.28, 0.33, 0.33."""
    asked: Estimator = {"muprop": MuProp(), "rebar": Rebar(), "relax": Relax()}[estimator]
    assert variance("discrete_through_mlp", asked) < most * variance("discrete_through_mlp", Score(Constant(0.0)))


def test_training_lowers_the_variance_of_relax() -> None:
    """From 8.7 to 3.4 in 3000 steps at fixed parameters; the coefficient alone (REBAR) stays near 7."""
    assert variance("nested_plates", Relax(), 2000) < 0.7 * variance("nested_plates", Relax(), 0)


def test_training_moves_the_coefficient_of_rebar_the_right_way() -> None:
    far = variance("discrete_through_mlp", Rebar(coefficient=-1.0), 1000)
    assert far < 0.7 * variance("discrete_through_mlp", Rebar(coefficient=-1.0), 0)


@pytest.mark.parametrize(("estimator", "most"), [(DoubleControl(), 0.7), (Rodeo(), 0.5)])
def test_training_brings_pairs_below_leave_one_out(estimator: Estimator, most: float) -> None:
    """Measured ratios: 0.52, 0.29."""
    plain = variance("masked_elements", LeaveOneOut(), 0, 2)
    assert variance("masked_elements", estimator, 1000, 2) < most * plain


# --- what is biased ---


def lopsided() -> tuple[Any, Any]:
    """A quadratic cost whose slopes at the two values say opposite things; many elements, so that little noise is left."""

    def model() -> None:
        with plate("elements", 60):
            z = real(sample("z", dist.Bernoulli(probs=0.5)))
            sample("x", dist.Normal(z, 0.4), obs=0.4 * xp.ones(60))

    def guide() -> None:
        with plate("elements", 60):
            sample("z", dist.Bernoulli(logits=start("logit", -1.2) * xp.ones(60)))

    return model, guide


@pytest.mark.parametrize("estimator", BIASED)
def test_relaxations_declare_their_bias_and_show_it(estimator: str, backend: str) -> None:
    """Power: the z-test that passes everything else fails these, by more than twice its bound."""
    model, guide = lopsided()
    asked = {"z": BIASED[estimator]}
    count = 300 if backend == "torch" else 3000
    draws = infer.gradient(model, guide, (), estimators=asked, backend=backend, num_samples=count)
    truth = infer.gradient(model, guide, (), estimators={"z": Enumerate()}, backend=backend, num_samples=1)
    assert not BIASED[estimator].unbiased
    assert z_scores(draws, {name: value[0] for name, value in truth.items()}).max() > 2 * BOUND


@pytest.mark.parametrize("estimator", BIASED)
def test_a_biased_estimator_is_never_a_candidate(estimator: str) -> None:
    plan = plan_of("discrete_through_mlp", None, "z")
    kinds = {type(each) for each in candidates(plan).values()}
    assert {MuProp, Rebar, Relax} <= kinds
    assert type(BIASED[estimator]) not in kinds


@pytest.mark.parametrize("estimator", BIASED)
def test_values_are_relaxed_or_rounded(estimator: str, backend: str) -> None:
    """The program's own view of them: relaxed ones lie between 0 and 1, straight-through ones do not."""
    seen: list[Any] = []

    def model() -> None:
        z = sample("z", dist.Bernoulli(probs=0.5))
        seen.append(z)
        sample("x", dist.Normal(real(z), 0.5), obs=xp.asarray(0.8))

    def guide() -> None:
        sample("z", dist.Bernoulli(logits=start("logit", 0.4)))

    found = infer.fit(
        model, guide, (), steps=2, compile=False, progress=False, estimators={"z": BIASED[estimator]}, backend=backend
    )
    assert np.isfinite(found.losses).all()
    if backend == "torch":
        value = float(seen[-1].detach())
        assert (value in (0.0, 1.0)) == (estimator == "straight_through")


# --- what is refused ---


@pytest.mark.parametrize("estimator", ["gumbel_softmax", "straight_through", "muprop", "rebar"])
def test_categorical_sites_are_refused_with_the_reason(estimator: str, backend: str) -> None:
    with pytest.raises(ProgramError, match="value is an index"):
        plan_of("categorical", {**UNBIASED, **BIASED}[estimator], "z", backend)


def cliff() -> tuple[Any, Any]:
    """A cost with a jump between the values."""

    def model() -> None:
        z = real(sample("z", dist.Bernoulli(probs=0.5)))
        sample("x", dist.Normal(xp.where(z > 0.5, xp.asarray(1.0), xp.asarray(0.0)), 0.5), obs=xp.asarray(0.8))

    def guide() -> None:
        sample("z", dist.Bernoulli(logits=start("logit", 0.4)))

    return model, guide


@pytest.mark.parametrize("estimator", [GumbelSoftmax(), StraightThrough(), MuProp(), Rebar()])
def test_a_jump_between_the_values_is_refused(estimator: Estimator, backend: str) -> None:
    model, guide = cliff()
    with pytest.raises(ProgramError, match="no derivative passes between its values"):
        infer.plan(model, guide, (), estimators={"z": estimator}, backend=backend)


def test_relax_does_without_the_derivative_at_a_jump() -> None:
    model, guide = cliff()
    draws = infer.gradient(model, guide, (), estimators={"z": Shaken()}, backend="jax", num_samples=3000)
    truth = infer.gradient(model, guide, (), estimators={"z": Enumerate()}, backend="jax", num_samples=1)
    assert z_scores(draws, {name: value[0] for name, value in truth.items()}).max() < BOUND


def test_rebar_refuses_a_derivative_that_later_choices_swallow() -> None:
    """A later Categorical is drawn from the relaxed value, and no derivative passes its draw: the mean would be wrong."""

    def model() -> None:
        z = real(sample("z", dist.Bernoulli(probs=0.5)))
        k = sample("k", dist.Categorical(logits=xp.stack([z, 1 - z, 0.5 * z])))
        sample(
            "x", dist.Normal(xp.sum(xp.one_hot(k, 3) * xp.asarray([0.0, 1.0, 2.0]), axis=-1), 0.5), obs=xp.asarray(0.8)
        )

    def guide() -> None:
        z = real(sample("z", dist.Bernoulli(logits=start("logit", 0.4))))
        sample("k", dist.Categorical(logits=xp.stack([z, 0.3 - z, 2.0 * z])))

    with pytest.raises(ProgramError, match="moves site 'k', through which no derivative passes"):
        infer.plan(model, guide, (), estimators={"z": Rebar()}, backend="jax")
    truth = infer.gradient(model, guide, (), estimators={"*": Enumerate()}, backend="jax", num_samples=1)
    for estimator in (MuProp(), Shaken()):  # any slope will do; the network alone
        asked: dict[str, Estimator] = {"z": estimator, "k": Score(Constant(0.0))}
        draws = infer.gradient(model, guide, (), estimators=asked, backend="jax", num_samples=4000)
        assert z_scores(draws, {name: value[0] for name, value in truth.items()}).max() < BOUND


@pytest.mark.parametrize("estimator", PAIRED)
def test_pairs_need_two_particles_with_signals_of_their_own(estimator: str) -> None:
    case = CASES["bernoulli"]
    asked = {"*": PAIRED[estimator]}
    site = next(iter(plan_of("bernoulli", None, "*")))
    with pytest.raises(ProgramError, match="it needs num_particles >= 2, and there is 1"):
        plan_of("bernoulli", PAIRED[estimator], site)
    with pytest.raises(ProgramError, match="compares particles whose signals must be their own"):
        infer.gradient(
            case.model,
            case.guide,
            case.data,
            backend="jax",
            estimators=asked,
            num_particles=2,
            objective=ImportanceWeighted(),
        )


@pytest.mark.parametrize("kind", [GumbelSoftmax, StraightThrough, Rebar, Relax])
def test_a_temperature_of_zero_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: expected temperature > 0; got 0.0"):
        kind(temperature=0.0)
