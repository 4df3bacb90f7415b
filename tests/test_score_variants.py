"""Variants of the score function and measure-valued derivatives, against sums over all values and quadrature.

Where a value fixes the gradient, every draw is held against the formula itself, so nothing is left to luck. Elsewhere
|z| < 5 for every component: about 60 components on each backend, false alarm 7e-5 in all; 0.9 of the same draws must
fail, so a bias of 10 % would show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma, gammaincc, gammaln, pdtr

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Constant, Enumerate, Estimator, MeasureValued, Optimal, Score
from ppl_gen.evaluate.measure import measure
from ppl_gen.infer.verbs import read
from ppl_gen.language import dist, factor, param, plate, sample, xp
from ppl_gen.objectives import ELBO
from ppl_gen.testing import BOUND, z_scores
from tests.nightly import grid, nightly
from tests.small_programs import CASES, real
from tests.test_gradients import estimate, exact

Program = tuple[Callable[[Any], None], Callable[[Any], None]]


def gradients(
    program: Program, backend: str, estimator: Estimator, number: int, *, averages: Any = None, warm_up: int = 0
) -> np.ndarray:
    """Gradients by `w` (number, ...); from running averages that are given, or that so many steps have made."""
    options: dict[str, Any] = {"estimators": {"y": estimator}}
    prepared, batch = read(*program, np.zeros(1), backend, None, **options)
    if averages is not None:
        given = {n: np.asarray(value, np.float32) for n, value in averages.items()}
        prepared = replace(prepared, start=(prepared.start[0], {"y": given}))
    draws = measure(prepared, batch, number, 3, ELBO(), warm_up=warm_up).draws["w"]
    return np.asarray(draws, dtype=float)


def assert_rows_are(draws: np.ndarray, rows: np.ndarray) -> None:
    """Every draw is one of the rows, and all but the rarest row are seen."""
    gaps = np.abs(draws[:, None] - rows).max(-1)
    assert gaps.min(1).max() < 1e-3
    assert len(set(gaps.argmin(1))) >= len(np.unique(rows.round(6), axis=0)) - 2


# -- the three bits of eq. 20.68 -------------------------------------------------------------------------------------

LOGITS = np.array([0.3, -0.8, 1.1])
COSTS = np.random.default_rng(0).normal(4.0, 3.0, (2, 2, 2)).astype(np.float32)
BITS = np.array(list(np.ndindex(2, 2, 2)), dtype=float)
ON = 1 / (1 + np.exp(-LOGITS))
PROBS, SCORES = np.prod(np.where(BITS == 1, ON, 1 - ON), axis=1), BITS - ON


def three_bits(times: float = 1.0) -> Program:
    """A cost of three bits and nothing else: with q in the model's place too, log p - log q is no part of it."""

    def guide(x: Any) -> None:
        sample("y", dist.Bernoulli(logits=param("w", xp.asarray(LOGITS.tolist()))).to_event(1))

    def model(x: Any) -> None:
        y = real(sample("y", dist.Bernoulli(logits=xp.asarray(LOGITS.tolist())).to_event(1)))
        chosen = xp.asarray((times * COSTS).tolist())
        for i in range(3):
            chosen = chosen[0] * (1 - y[i]) + chosen[1] * y[i]
        factor("gain", -chosen)

    return model, guide


def moments(baseline: Any) -> tuple[np.ndarray, np.ndarray]:
    """(mean, variance) by component of (cost - baseline) score over the eight values."""
    rows = (COSTS.ravel()[:, None] - baseline) * SCORES
    mean = (PROBS[:, None] * rows).sum(0)
    return mean, (PROBS[:, None] * (rows - mean) ** 2).sum(0)


def weighted_squares() -> tuple[np.ndarray, np.ndarray]:
    """E[cost s^2] and E[s^2] by component."""
    squares = PROBS[:, None] * SCORES**2
    return (COSTS.ravel()[:, None] * squares).sum(0), squares.sum(0)


BEST = weighted_squares()[0] / weighted_squares()[1]  # eq. 20.68
GRID = np.linspace(COSTS.min() - 5, COSTS.max() + 5, 4001)


def test_each_draw_with_the_exact_moments_is_that_of_equation_20_68(backend: str) -> None:
    above, below = weighted_squares()
    given = {"signal": -above, "square": below}  # the signal is maximised: minus the cost
    draws = gradients(three_bits(), backend, Score(Optimal()), 400, averages=given)
    assert_rows_are(draws, (COSTS.ravel()[:, None] - BEST) * SCORES)


def test_equation_20_68_is_the_best_constant_for_each_component() -> None:
    """By the same sums: no constant of a fine grid does better, and E[cost], the usual one, is worse by 2 % somewhere."""
    mean, variance = moments(BEST)
    of_grid = np.array([moments(constant)[1] for constant in GRID])
    assert (variance <= of_grid.min(0) * (1 + 1e-9)).all()
    assert (moments((PROBS * COSTS.ravel()).sum())[1] > 1.02 * variance).any()
    np.testing.assert_allclose(mean, moments(0.0)[0], atol=1e-12)


@pytest.mark.parametrize("backend", [nightly("torch"), "jax"])
def test_running_moments_come_to_beat_every_constant(backend: str) -> None:
    """After 1000 steps; 20 000 draws (torch: 2000) know variances to 2 % (6 %), so 6 % (21 %) above the best is luck."""
    number, slack = (20_000, 1.06) if backend == "jax" else (2000, 1.21)
    draws = gradients(three_bits(), backend, Score(Optimal()), number, warm_up=1000)
    best = np.array([moments(constant)[1] for constant in GRID]).min(0)
    assert (draws.var(0) <= slack * best).all()
    assert np.abs((draws.mean(0) - moments(0.0)[0]) / (draws.std(0) / np.sqrt(number))).max() < BOUND


# -- one categorical ---------------------------------------------------------------------------------------------------

FOUR, GAINS = np.array([0.4, -1.2, 0.9, 0.1]), np.array([3.0, -2.0, 7.5, 4.0])


def four_levels() -> Program:
    def guide(x: Any) -> None:
        sample("y", dist.Categorical(logits=param("w", xp.asarray(FOUR.tolist()))))

    def model(x: Any) -> None:
        y = sample("y", dist.Categorical(logits=xp.asarray(FOUR.tolist())))
        factor("gain", -xp.sum(xp.one_hot(y, 4) * xp.asarray(GAINS.tolist())))

    return model, guide


def test_a_lone_categorical_has_no_variance_left(backend: str) -> None:
    """b_i = E[f | z = i] is the whole cost here; any constant leaves 0.25 or more in three of the four components."""
    probs = np.exp(FOUR) / np.exp(FOUR).sum()
    truth = probs * (GAINS - probs @ GAINS)
    given = {"signal": -GAINS * probs, "square": probs}
    draws = gradients(four_levels(), backend, Score(Optimal()), 50, averages=given)
    np.testing.assert_allclose(draws, np.tile(truth, (50, 1)), atol=1e-4)
    later = gradients(four_levels(), backend, Score(Optimal()), 50, warm_up=300)
    np.testing.assert_allclose(later, np.tile(truth, (50, 1)), atol=1e-3)
    scores = np.eye(4) - probs
    variances = [(probs[:, None] * ((GAINS - b)[:, None] * scores - truth) ** 2).sum(0) for b in GRID]
    assert np.sort(np.min(variances, axis=0))[1] > 0.25


def test_a_level_that_never_came_up_gets_what_the_others_expect(backend: str) -> None:
    """Each draw against the formula, with nothing known of the last level."""
    probs = np.exp(FOUR) / np.exp(FOUR).sum()
    kept = probs * np.array([1.0, 1.0, 1.0, 0.0])
    base = np.array([*GAINS[:3], (kept @ GAINS) / kept.sum()])
    pieces = (GAINS[:, None] - base) * (np.eye(4) - probs)
    given = {"signal": -GAINS * kept, "square": kept}
    draws = gradients(four_levels(), backend, Score(Optimal()), 50, averages=given)
    assert_rows_are(draws, pieces - probs * pieces.sum(1, keepdims=True))


def test_an_event_of_many_categories_has_a_baseline_each(backend: str) -> None:
    """20 elements of 3 levels, 3^20 values; the mean by element, as the cost is a sum."""

    def guide(x: Any) -> None:
        sample("y", dist.Categorical(logits=param("w", xp.zeros((20, 3)))).to_event(1))

    def model(x: Any) -> None:
        y = real(sample("y", dist.Categorical(logits=xp.zeros((20, 3))).to_event(1)))
        factor("gain", -xp.sum(y * xp.arange(20, dtype=xp.float32)))

    draws = gradients((model, guide), backend, Score(Optimal()), 400, warm_up=100)
    truth = np.arange(20)[:, None] * np.array([-1.0, 0.0, 1.0]) / 3
    assert z_scores({"w": draws}, {"w": truth}).max() < BOUND


# -- learned -----------------------------------------------------------------------------------------------------------

TWO_ROWS, TWO_COSTS = np.array([0.7, -0.9]), np.array([[9.0, 6.0], [-8.0, -3.0]])  # rows, values


def two_rows() -> Program:
    """Two bits in a plate whose costs have nothing in common, so that one constant suits neither."""

    def guide(x: Any) -> None:
        with plate("rows", 2):
            sample("y", dist.Bernoulli(logits=param("w", xp.asarray(TWO_ROWS.tolist()))))

    def model(x: Any) -> None:
        with plate("rows", 2):
            y = real(sample("y", dist.Bernoulli(logits=xp.asarray(TWO_ROWS.tolist()))))
            table = xp.asarray(TWO_COSTS.tolist())
            factor("gain", -(table[:, 0] * (1 - y) + table[:, 1] * y))

    return model, guide


@pytest.mark.parametrize("backend", [nightly("torch"), "jax"])
def test_regressed_moments_come_to_the_best_constant_of_each_row(backend: str) -> None:
    """A bit's best constant leaves nothing; pooled over both rows it leaves about 8, regressed below 0.5."""
    on = 1 / (1 + np.exp(-TWO_ROWS))
    truth = on * (1 - on) * (TWO_COSTS[:, 1] - TWO_COSTS[:, 0])
    learned = gradients(two_rows(), backend, Score(Optimal(learned=True)), 200, warm_up=1500)
    pooled = gradients(two_rows(), backend, Score(Optimal()), 200, warm_up=300)
    assert (pooled.var(0) > 6.0).all() and (learned.var(0) < 0.5).all()
    assert z_scores({"w": pooled}, {"w": truth}).max() < BOUND and z_scores({"w": learned}, {"w": truth}).max() < BOUND


# -- normalized --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("deviation", "divisor"), [(3.0, 3.0), (0.5, 1.0)])
def test_normalizing_divides_each_draw_by_a_deviation_above_one(deviation: float, divisor: float, backend: str) -> None:
    """With averages of mass 1/2 and mean 2: the same draws as without, divided."""
    given = {"gap.mean": 0.5 * 2.0, "gap.square": 0.5 * (deviation**2 + 4.0), "gap.mass": 0.5}
    normalized = gradients(three_bits(), backend, Score(Constant(-1.0), normalize=True), 100, averages=given)
    plain = gradients(three_bits(), backend, Score(Constant(-1.0)), 100)
    np.testing.assert_allclose(normalized * divisor, plain, rtol=1e-3, atol=1e-4)


def test_a_normalized_gradient_does_not_know_the_cost_s_unit(backend: str) -> None:
    """Ten times the cost, the same 100 steps and draws."""
    one, ten = (
        gradients(three_bits(times), backend, Score(Constant(0.0), normalize=True), 100, warm_up=100)
        for times in (1.0, 10.0)
    )
    np.testing.assert_allclose(ten, one, rtol=1e-3, atol=1e-4)


def test_normalizing_keeps_the_direction_and_says_that_it_is_biased() -> None:
    draws = gradients(three_bits(), "jax", Score(Constant(0.0), normalize=True), 20_000, warm_up=200)
    mean, truth = draws.mean(0), moments(0.0)[0]
    assert mean @ truth / np.linalg.norm(mean) / np.linalg.norm(truth) > 0.995
    assert np.linalg.norm(mean) < 0.85 * np.linalg.norm(truth)
    assert not Score(normalize=True).unbiased and Score().unbiased and Score.unbiased
    assert repr(Score(Constant(0.0), normalize=True)) == "Score(baseline=Constant(value=0.0), normalize=True)"


@pytest.mark.parametrize("baseline", [Optimal(), Optimal(learned=True)])
def test_only_binary_and_categorical_elements_have_a_baseline_by_component(baseline: Optimal) -> None:
    case = CASES["normal"]
    with pytest.raises(ProgramError, match=r"site 'z' \(Normal\).*binary and categorical"):
        infer.plan(case.model, case.guide, case.data, backend="torch", estimators={"z": Score(baseline)})


# -- measure-valued ----------------------------------------------------------------------------------------------------

# Two elements of one event whose costs meet, so that each element's slope depends on the other, and a step.
COUNTS, SHAPES, PAIR = np.array([0.4, 1.1]), np.array([[1.0, 0.3], [0.2, -0.4]]), FOUR[:3] * np.array([[1.0], [-0.7]])
TABLE = np.array([[5.0, 6.0, 5.0], [-5.0, -6.0, -3.0], [-3.0, 3.0, -4.0]])


def poisson_pair() -> Program:
    def guide(x: Any) -> None:
        sample("y", dist.Poisson(xp.exp(param("w", xp.asarray(COUNTS.tolist())))).to_event(1))

    def model(x: Any) -> None:
        y = real(sample("y", dist.Poisson(xp.asarray([2.0, 2.0])).to_event(1)))
        factor("gain", -y[0] * y[1] - 3.0 * xp.where(y[0] > 1.5, xp.asarray(1.0), xp.asarray(0.0)))

    return model, guide


def poisson_pair_loss(w: np.ndarray) -> float:
    rate = np.exp(w)
    divergence = (rate * (w - np.log(2.0)) - rate + 2.0).sum()
    return float(divergence + rate.prod() + 3.0 * (1 - pdtr(1, rate[0])))


def gamma_pair() -> Program:
    def guide(x: Any) -> None:
        w = xp.exp(param("w", xp.asarray(SHAPES.tolist())))
        sample("y", dist.Gamma(w[0], w[1]).to_event(1))

    def model(x: Any) -> None:
        y = sample("y", dist.Gamma(xp.asarray([2.0, 2.0]), xp.asarray([1.0, 1.0])).to_event(1))
        factor("gain", -y[0] * y[1] - 3.0 * xp.where(y[0] > 1.5, xp.asarray(1.0), xp.asarray(0.0)))

    return model, guide


def gamma_pair_loss(w: np.ndarray) -> float:
    shape, rate = np.exp(w)
    divergence = (
        (shape - 2.0) * digamma(shape) - gammaln(shape) + gammaln(2.0) + 2.0 * w[1] + shape * (1.0 - rate) / rate
    )
    return float(divergence.sum() + (shape / rate).prod() + 3.0 * gammaincc(shape[0], 1.5 * rate[0]))


def categorical_pair() -> Program:
    def guide(x: Any) -> None:
        sample("y", dist.Categorical(logits=param("w", xp.asarray(PAIR.tolist()))).to_event(1))

    def model(x: Any) -> None:
        y = xp.one_hot(sample("y", dist.Categorical(logits=xp.zeros((2, 3))).to_event(1)), 3)
        factor("gain", -xp.sum(y[0, :, None] * y[1] * xp.asarray(TABLE.tolist())))

    return model, guide


def categorical_pair_loss(w: np.ndarray) -> float:
    q = np.exp(w) / np.exp(w).sum(1, keepdims=True)
    return float(q[0] @ TABLE @ q[1] + (q * np.log(3 * q)).sum())


PAIRS = {
    "poisson": (poisson_pair, poisson_pair_loss, COUNTS),
    "gamma": (gamma_pair, gamma_pair_loss, SHAPES),
    "categorical": (categorical_pair, categorical_pair_loss, PAIR),
}


@pytest.mark.parametrize("name", PAIRS)
def test_measure_valued_derivatives_of_events_are_unbiased(name: str, backend: str) -> None:
    """On JAX with the draws it takes to reject 0.9 of every component."""
    program, loss, at = PAIRS[name]
    steps = 1e-5 * np.eye(at.size).reshape(-1, *at.shape)
    truth = np.reshape([(loss(at + step) - loss(at - step)) / 2e-5 for step in steps], at.shape)
    draws = gradients(program(), backend, MeasureValued(), 40_000 if backend == "jax" else 500)
    assert z_scores({"w": draws}, {"w": truth}).max() < BOUND
    if backend == "jax":
        assert z_scores({"w": 0.9 * draws}, {"w": truth}).min() > BOUND


DISCRETE = ["bernoulli", "nested_plates", "discrete_through_mlp", "masked_elements", "subsampled_plate"]
CONTINUOUS = ["normal", "vector_normal", "step_cost", "step_through_plate", "gamma_poisson"]


@pytest.mark.parametrize(
    ("name", "backend"),
    grid([*DISCRETE, *CONTINUOUS], jax=[*DISCRETE, *CONTINUOUS], torch=["bernoulli", "nested_plates", *CONTINUOUS]),
)
def test_measure_valued_derivatives_are_unbiased(name: str, backend: str) -> None:
    draws = estimate(name, backend, MeasureValued(), 1, 4000 if backend == "jax" else 200)
    assert z_scores(draws, exact(name)[1]).max() < BOUND


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("step_cost", "loc"),
        ("step_cost", "scale"),
        ("vector_normal", "loc"),
        ("plated_steps", "loc"),
        ("nested_plates", "top"),
    ],
)
def test_a_measure_valued_derivative_off_by_ten_percent_would_show(name: str, parameter: str) -> None:
    draws, truth = estimate(name, "jax", MeasureValued(), 1, 20_000)[parameter], exact(name)[1][parameter]
    assert z_scores({"": draws}, {"": truth}).max() < BOUND
    assert z_scores({"": 0.9 * draws}, {"": truth}).min() > BOUND


def test_particles_share_measure_valued_derivatives(backend: str) -> None:
    draws = estimate("bernoulli_chain", backend, MeasureValued(), 2, 2000 if backend == "jax" else 100)
    assert z_scores(draws, exact("bernoulli_chain")[1]).max() < BOUND


def test_runs_are_counted_lane_by_lane() -> None:
    for program, runs in ((three_bits(), 1 + 3 * 2), (categorical_pair(), 1 + 2 * 3), (poisson_pair(), 1 + 2)):
        row = infer.plan(*program, np.zeros(1), backend="torch", estimators={"y": MeasureValued()})["y"]
        assert row.cost == runs


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("beta_bernoulli", "no measure-valued derivative of Beta"),
        ("moving_support", "no measure-valued derivative of Uniform"),
        ("sum_over_plate", "side by side"),
    ],
)
def test_measure_valued_derivatives_are_refused_where_they_would_be_wrong(name: str, reason: str, backend: str) -> None:
    case = CASES[name]
    site = next(iter(infer.plan(case.model, case.guide, case.data, backend=backend)))
    with pytest.raises(ProgramError, match=f"site '{site}' .*{reason}"):
        infer.plan(case.model, case.guide, case.data, backend=backend, estimators={site: MeasureValued()})


def test_long_events_are_refused() -> None:
    with pytest.raises(ProgramError, match=r"site 'y' .*3 elements, more than max_elements=2"):
        infer.plan(*three_bits(), np.zeros(1), backend="torch", estimators={"y": MeasureValued(max_elements=2)})


# -- elements in no plate ----------------------------------------------------------------------------------------------


def no_plate() -> Program:
    """`three_bits` with neither a plate nor an event: log q is one number, so elements cannot be told apart."""

    def guide(x: Any) -> None:
        sample("y", dist.Bernoulli(logits=param("w", xp.asarray(LOGITS.tolist()))))

    def model(x: Any) -> None:
        y = real(sample("y", dist.Bernoulli(logits=xp.asarray(LOGITS.tolist()))))
        factor("gain", -xp.sum(y * xp.asarray([1.0, 2.0, -3.0])))

    return model, guide


@pytest.mark.parametrize("estimator", [Enumerate(), MeasureValued()], ids=repr)
def test_elements_in_no_plate_are_not_tried_side_by_side(estimator: Estimator, backend: str) -> None:
    with pytest.raises(ProgramError, match=r"site 'y' \(Bernoulli\).*in no plate"):
        infer.plan(*no_plate(), np.zeros(1), backend=backend, estimators={"y": estimator})


def test_elements_in_no_plate_have_a_right_gradient(backend: str) -> None:
    draws = gradients(no_plate(), backend, Score(Optimal()), 4000 if backend == "jax" else 1000, warm_up=100)
    truth = ON * (1 - ON) * np.array([1.0, 2.0, -3.0])
    assert z_scores({"w": draws}, {"w": truth}).max() < BOUND
    assert z_scores({"w": 0.0 * draws}, {"w": truth}).min() > BOUND
