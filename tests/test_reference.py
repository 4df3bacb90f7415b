"""The NumPy reference judges every estimator, so it is itself held against formulas and other routes."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special, stats

from ppl_gen.errors import ProgramError
from ppl_gen.language import dist, factor, param, plate, sample, xp
from tests import reference
from tests.reference import distributions as laws
from tests.small_programs import CASES, Case

TIGHT: Any = {"rtol": 2e-6, "atol": 2e-7}


def start(case: Case):
    return reference.initial_params(case.model, case.guide, case.data)


def bound(case: Case, params):
    return reference.elbo(case.model, case.guide, case.data, params, case.breaks)


def slope(case: Case, params, **settings):
    return reference.gradient(case.model, case.guide, case.data, params, case.breaks, **settings)


def derivative(function, *values, step=1e-4):
    """Fourth-order central differences of a scalar function: another route than the reference's."""
    found = []
    for i, _ in enumerate(values):
        at = [function(*(v + k * step * (i == j) for j, v in enumerate(values))) for k in (-2, -1, 1, 2)]
        found.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step))
    return np.array(found)


def log_bernoulli(z, logit):
    return z * logit - np.logaddexp(0, logit)


# --- every case ---


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_case_gradient_is_far_from_zero(case):
    gradient = slope(case, start(case))
    assert {name: np.abs(g).max() for name, g in gradient.items() if np.abs(g).max() < 0.09} == {}


@pytest.mark.parametrize("name", ["bernoulli_chain", "lognormal", "step_through_plate", "subsampled_plate"])
def test_gradient_does_not_depend_on_the_step(name):
    params = start(CASES[name])
    fine, coarse = slope(CASES[name], params), slope(CASES[name], params, step=4e-4)
    for key in params:
        np.testing.assert_allclose(fine[key], coarse[key], **TIGHT)


def test_gradient_is_the_slope_along_a_line():
    """Simpson's rule over the gradient along a line gives the difference of two bounds: error below 1e-6."""
    case, end = CASES["nested_plates"], 0.2
    params = start(case)

    def along(t):
        return {name: value + t for name, value in params.items()}

    speeds = [sum(g.sum() for g in slope(case, along(t)).values()) for t in np.linspace(0, end, 5)]
    area = end / 12 * np.dot([1, 4, 2, 4, 1], speeds)
    np.testing.assert_allclose(area, bound(case, params) - bound(case, along(end)), atol=1e-6)


# --- closed forms ---


def test_normal_matches_closed_form():
    def minus_elbo(loc, log_scale):
        scale = np.exp(log_scale)
        prior = -np.log(1.5) - ((loc - 0.5) ** 2 + scale**2) / (2 * 1.5**2)
        likelihood = -np.log(0.7) - ((1.3 - loc) ** 2 + scale**2) / (2 * 0.7**2)
        return -(prior + likelihood + log_scale + 0.5 - 0.5 * np.log(2 * np.pi))

    case, params = CASES["normal"], start(CASES["normal"])
    assert bound(case, params) == pytest.approx(-minus_elbo(0.2, np.log(0.6)), rel=1e-9)
    by_hand = [
        (0.2 - 0.5) / 1.5**2 + (0.2 - 1.3) / 0.7**2,
        0.6**2 / 1.5**2 + 0.6**2 / 0.7**2 - 1,
    ]
    gradient = slope(case, params)
    np.testing.assert_allclose([gradient["loc"], gradient["scale"]], by_hand, **TIGHT)


def test_bernoulli_matches_closed_form():
    case, params = CASES["bernoulli"], start(CASES["bernoulli"])
    q = special.expit(0.6)
    on, off = (stats.norm.logpdf(0.8, 0.7 * z - 0.5, 0.9) + np.log([0.7, 0.3][z]) for z in (1, 0))
    assert bound(case, params) == pytest.approx(q * on + (1 - q) * off + stats.bernoulli(q).entropy(), rel=1e-9)
    gradient = slope(case, params)
    assert gradient["logit"] == pytest.approx(-q * (1 - q) * (on - off - 0.6), rel=1e-6)
    assert gradient["slope"] == pytest.approx(-q * (0.8 - 0.2) / 0.81, rel=1e-6)


def test_gamma_poisson_matches_closed_form():
    def minus_elbo(log_shape, log_rate):
        shape, rate = np.exp(log_shape), np.exp(log_rate)
        mean, mean_log = shape / rate, special.digamma(shape) - log_rate
        entropy = shape - log_rate + special.gammaln(shape) + (1 - shape) * special.digamma(shape)
        return -(mean_log - mean + 3 * mean_log - mean - np.log(6) + entropy)

    case, params = CASES["gamma_poisson"], start(CASES["gamma_poisson"])
    at = np.log([3.0, 2.5])
    assert bound(case, params) == pytest.approx(-minus_elbo(*at), rel=1e-8)
    gradient = slope(case, params)
    np.testing.assert_allclose([gradient["shape"], gradient["rate"]], derivative(minus_elbo, *at), **TIGHT)


def test_beta_bernoulli_matches_closed_form():
    def minus_elbo(log_a, log_b):
        a, b = np.exp(log_a), np.exp(log_b)
        log_z, log_rest = (
            special.digamma(a) - special.digamma(a + b),
            special.digamma(b) - special.digamma(a + b),
        )
        prior = 0.5 * log_z + 1.0 * log_rest - special.betaln(1.5, 2.0)
        return -(prior + 3 * log_z + 1 * log_rest + stats.beta(a, b).entropy())

    case, params = CASES["beta_bernoulli"], start(CASES["beta_bernoulli"])
    at = np.log([2.0, 3.0])
    assert bound(case, params) == pytest.approx(-minus_elbo(*at), rel=1e-8)
    gradient = slope(case, params)
    np.testing.assert_allclose([gradient["a"], gradient["b"]], derivative(minus_elbo, *at), **TIGHT)


def test_bernoulli_chain_matches_the_sum_by_hand():
    def minus_elbo(*theta):
        *logits, push = theta
        total = 0.0
        for z in itertools.product((0, 1), repeat=4):
            log_q = sum(log_bernoulli(z[i], logits[i] + push * (z[i - 1] if i else 0)) for i in range(4))
            prior = sum(log_bernoulli(z[i], 1.2 * (z[i - 1] if i else 1) - 0.7 + 0.1 * i) for i in range(4))
            total += np.exp(log_q) * (prior + stats.norm.logpdf(0.6, 2 * z[3] - 1, 0.8) - log_q)
        return -total

    case, params = CASES["bernoulli_chain"], start(CASES["bernoulli_chain"])
    theta = [*params["logit"], params["push"]]
    assert bound(case, params) == pytest.approx(-minus_elbo(*theta), rel=1e-9)
    gradient = slope(case, params)
    np.testing.assert_allclose([*gradient["logit"], gradient["push"]], derivative(minus_elbo, *theta), **TIGHT)


def test_nested_plates_match_the_sum_by_hand():
    # groups take dim -1, members dim -2: the data's columns are groups
    x, prior = CASES["nested_plates"].data[0].T, np.log([[0.7, 0.4], [0.3, 0.6]])

    def group_elbo(g, top, logits, push):
        total = 0.0
        for on, first, second in itertools.product((0, 1), repeat=3):
            log_q = log_bernoulli(on, top)
            log_p = prior[on, g]
            for m, z in enumerate((first, second)):
                log_q += log_bernoulli(z, logits[m] + push * on)
                log_p += log_bernoulli(z, 1.4 * on - 0.5) + stats.norm.logpdf(x[g, m], 1.6 * z - 0.5 * on, 0.7)
            total += np.exp(log_q) * (log_p - log_q)
        return total

    def minus_elbo(top0, top1, logit0, logit1, push):
        return -sum(group_elbo(g, (top0, top1)[g], (logit0, logit1), push) for g in (0, 1))

    case, params = CASES["nested_plates"], start(CASES["nested_plates"])
    theta = [*params["top"], *params["logits"].ravel(), params["push"]]
    assert bound(case, params) == pytest.approx(-minus_elbo(*theta), rel=1e-9)
    gradient = slope(case, params)
    found = [*gradient["top"], *gradient["logits"].ravel(), gradient["push"]]
    np.testing.assert_allclose(found, derivative(minus_elbo, *theta), **TIGHT)


def test_step_cost_matches_closed_form():
    def minus_elbo(loc, log_scale):
        above = stats.norm.sf(0.3, loc, np.exp(log_scale))
        divergence = 0.5 * (loc**2 + np.exp(2 * log_scale) - 1) - log_scale
        return -(0.5 * (3 * above - 1) - divergence)

    case, params = CASES["step_cost"], start(CASES["step_cost"])
    at = (0.9, np.log(1.3))
    assert bound(case, params) == pytest.approx(-minus_elbo(*at), rel=1e-8)
    gradient = slope(case, params)
    np.testing.assert_allclose([gradient["loc"], gradient["scale"]], derivative(minus_elbo, *at), **TIGHT)


def test_masked_latent_counts_in_the_data_only():
    """A masked row keeps its draw: q(z) weighs the likelihood, but neither log p(z) nor log q(z) counts."""
    case, params = CASES["masked_latents"], start(CASES["masked_latents"])
    by_hand = []
    for x, logit, used in zip(case.data[0], params["logits"], (1, 0, 1), strict=True):
        q = special.expit(logit)
        gap = stats.norm.logpdf(x, 1.4, 0.8) - stats.norm.logpdf(x, 0, 0.8)
        by_hand.append(-q * (1 - q) * (gap + used * (np.log(0.3 / 0.7) - logit)))
    np.testing.assert_allclose(slope(case, params)["logits"], by_hand, **TIGHT)


def test_factor_in_a_plate_counts_once_per_row():
    case, params = CASES["bernoulli_factor"], start(CASES["bernoulli_factor"])
    q = special.expit(-0.3)
    gap = np.log(0.4 / 0.6) - 0.6 * (0.64 - 0.04) + 3 * 0.5
    assert slope(case, params)["logit"] == pytest.approx(-q * (1 - q) * (gap + 0.3), rel=1e-6)


def test_auxiliary_site_counts_with_minus_log_q():
    case, params = CASES["auxiliary_bernoulli"], start(CASES["auxiliary_bernoulli"])
    total = 0.0
    for aux, z in itertools.product((0, 1), repeat=2):
        log_q = log_bernoulli(aux, 1.3) + log_bernoulli(z, -0.5 + 0.9 * aux)
        log_p = np.log([0.4, 0.6][z]) + stats.norm.logpdf(0.8, 2 * z - 1, 1.1)
        total += np.exp(log_q) * (log_p - log_q)
    assert bound(case, params) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize(("subsampled", "site"), [("subsampled_plate", "z"), ("subsampled_observations", "top")])
def test_subsampling_keeps_the_expectation(subsampled, site):
    """Terms of a subsample, scaled by size / subsample_size, average to the terms of the whole plate."""
    case = CASES[subsampled]
    params = start(case)

    def model(x):
        z = None
        if site == "top":
            z = sample("top", dist.Bernoulli(probs=0.45))
        with plate("data", 3):
            z = sample("z", dist.Bernoulli(probs=0.3)) if z is None else z
            shift = 0.2 if site == "top" else 0.0
            sample("x", dist.Normal(param("slope") * z - shift, 0.8), obs=x)

    def guide(x):
        if site == "top":
            sample("top", dist.Bernoulli(logits=param("logit")))
        else:
            with plate("data", 3):
                sample("z", dist.Bernoulli(logits=param("logits")))

    whole = reference.elbo(model, guide, case.data, params)
    assert bound(case, params) == pytest.approx(whole, rel=1e-10)


def test_log_joint_lists_every_site():
    joint = reference.log_joint(
        CASES["gaussian_mixture"].model,
        {"z": [0, 1, 1]},
        start(CASES["gaussian_mixture"]),
        (CASES["gaussian_mixture"].data[0],),
    )
    weights = special.log_softmax([0.4, -0.2])
    assert joint.sites["z"] == pytest.approx(weights[0] + 2 * weights[1])
    expected = stats.norm.logpdf(CASES["gaussian_mixture"].data[0], [-0.7, 1.1, 1.1], 0.8).sum()
    assert joint.sites["x"] == pytest.approx(expected)
    assert joint.total == pytest.approx(sum(joint.sites.values()))


# --- distributions and quadrature ---

FAMILIES = {
    "Normal": (laws.Normal(0.3, 0.8), stats.norm(0.3, 0.8)),
    "LogNormal": (laws.LogNormal(0.1, 0.5), stats.lognorm(0.5, scale=np.exp(0.1))),
    "Gamma": (laws.Gamma(3.0, 2.5), stats.gamma(3.0, scale=0.4)),
    "flat Gamma": (laws.Gamma(0.7, 2.5), stats.gamma(0.7, scale=0.4)),
    "Exponential": (laws.Exponential(2.0), stats.expon(scale=0.5)),
    "HalfNormal": (laws.HalfNormal(1.3), stats.halfnorm(scale=1.3)),
    "Beta": (laws.Beta(2.0, 3.0), stats.beta(2.0, 3.0)),
    "Uniform": (laws.Uniform(0.5, 2.0), stats.uniform(0.5, 1.5)),
}
DENSITIES = FAMILIES | {
    "Poisson": (laws.Poisson(1.7), stats.poisson(1.7)),
    "Laplace": (laws.Laplace(0.2, 1.3), stats.laplace(0.2, 1.3)),
    "StudentT": (laws.StudentT(4.0, 0.2, 1.3), stats.t(4.0, 0.2, 1.3)),
    "HalfCauchy": (laws.HalfCauchy(1.3), stats.halfcauchy(scale=1.3)),
}


@pytest.mark.parametrize("family", DENSITIES)
def test_density_agrees_with_scipy(family):
    ours, theirs = DENSITIES[family]
    values = np.array([1.0, 2.0, 5.0]) if family == "Poisson" else np.array([0.55, 0.71, 0.98])
    log_density = theirs.logpmf(values) if family == "Poisson" else theirs.logpdf(values)
    np.testing.assert_allclose(ours.log_prob(values), log_density, rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_quadrature_agrees_with_adaptive_integration(family):
    ours, theirs = FAMILIES[family]

    def cost(z):
        return z**2 + np.logaddexp(0, 1.5 * z) + (np.log(z) if family != "Normal" else 0)

    nodes, log_weight = ours.rule()
    found = np.sum(np.exp(log_weight + ours.log_density(nodes)) * cost(nodes))
    # in probability space, so that both ends are finite whatever the family
    truth, error = integrate.quad(lambda u: cost(theirs.ppf(u)), 0, 1, epsabs=1e-10, epsrel=1e-10, limit=500)
    assert abs(found - truth) < 2e-7 + 10 * error


def test_break_makes_a_step_exact():
    law = laws.Normal(0.6, 0.8)
    nodes, log_weight = law.rule(breaks=[0.3])
    weight = np.exp(log_weight + law.log_density(nodes))
    assert np.sum(weight * (nodes > 0.3)) == pytest.approx(stats.norm.sf(0.3, 0.6, 0.8), abs=1e-10)


def test_masks_and_events_reduce_in_order():
    law = laws.Normal(np.zeros((2, 3)), 1.0).mask([[True], [False]]).to_event(1)
    assert (law.batch_shape, law.event_shape) == ((2,), (3,))
    np.testing.assert_allclose(law.log_prob(np.zeros((2, 3))), [3 * stats.norm.logpdf(0), 0.0])
    np.testing.assert_allclose(law.log_density(np.zeros((2, 3))), 3 * stats.norm.logpdf(0) * np.ones(2))


def test_constraints_agree_with_both_libraries():
    torch = pytest.importorskip("torch")
    numpyro_transforms = pytest.importorskip("numpyro.distributions.transforms")
    from numpyro.distributions import constraints as jax_constraints
    from torch.distributions import constraints as torch_constraints

    x = np.array([-1.3, 0.2, 2.1])
    for name, bounds in [
        ("real", ()),
        ("positive", ()),
        ("unit_interval", ()),
        ("interval", (-1.0, 2.5)),
        ("greater_than", (0.5,)),
    ]:
        pick = [getattr(source, name) for source in (laws.constraints, torch_constraints, jax_constraints)]
        ours, theirs, others = (source(*bounds) if bounds else source for source in pick)
        y = ours.forward(x)
        np.testing.assert_allclose(y, torch.distributions.transform_to(theirs)(torch.tensor(x)).numpy(), rtol=1e-12)
        np.testing.assert_allclose(y, numpyro_transforms.biject_to(others)(x), rtol=1e-5)
        np.testing.assert_allclose(ours.inverse(y), x, rtol=1e-10)


# --- refusals ---


def nothing():
    """A program without statements."""


def one_bernoulli():
    sample("z", dist.Bernoulli(probs=0.3))


def two_bernoullis_unplated():
    sample("z", dist.Bernoulli(probs=xp.asarray([0.3, 0.4])))


def seen_in_the_model():
    sample("z", dist.Bernoulli(probs=0.3), obs=xp.asarray(1.0))


def simplex():
    param("p", xp.asarray([0.3, 0.7]), dist.constraints.simplex)


def stopped():
    factor("f", xp.stop_gradient(xp.asarray(1.0)))


def laplace():
    sample("z", dist.Laplace(0.0, 1.0))


def twenty_bernoullis():
    with plate("data", 20):
        sample("z", dist.Bernoulli(probs=0.3))


def plated_bernoullis():
    with plate("data", 2):
        sample("z", dist.Bernoulli(probs=0.3))


@pytest.mark.parametrize(
    ("model", "guide", "error", "message"),
    [
        (plated_bernoullis, one_bernoulli, ProgramError, "same plates and events"),
        (one_bernoulli, nothing, ProgramError, "value from the guide"),
        (nothing, one_bernoulli, ProgramError, "guide site that the model lacks"),
        (seen_in_the_model, one_bernoulli, ProgramError, "got obs"),
        (two_bernoullis_unplated, two_bernoullis_unplated, ProgramError, "batch shape"),
        (simplex, nothing, AttributeError, "simplex"),
        (stopped, nothing, NotImplementedError, "stop_gradient"),
        (laplace, laplace, TypeError, "Laplace"),
        (twenty_bernoullis, twenty_bernoullis, ValueError, "Make the program smaller"),
    ],
)
def test_what_cannot_be_judged_is_refused(model, guide, error, message):
    with pytest.raises(error, match=message):
        reference.elbo(model, guide, (), {})


def test_unknown_parameter_is_named():
    with pytest.raises(ProgramError, match="param 'logit'"):
        bound(CASES["bernoulli"], {})


def test_missed_mass_raises():
    """A concentration far beyond the stated range is too narrow for the trapezoid rule: no silent error."""
    case = CASES["gamma_poisson"]
    with pytest.raises(ArithmeticError, match="sum to 1"):
        bound(case, {"shape": np.log(400.0), "rate": np.log(2.5)})
