"""Small portable programs whose ELBO and gradient the reference computes: what estimators are judged on.

Every parameter starts where its gradient is far from zero, and no two elements are alike, so that a missing
or misplaced term shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_gen import nn
from ppl_gen import testing as contract
from ppl_gen.language import deterministic, dist, factor, param, plate, sample, xp


@dataclass(frozen=True)
class Case:
    """One program with its guide and data.

    Attributes:
        name: the name of the function that makes it.
        model: portable program.
        guide: portable program.
        data: positional arguments of both.
        note: what it is there to catch.
        breaks: Normal site -> steps of the cost in its value, for the reference's quadrature.
    """

    name: str
    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: tuple[Any, ...]
    note: str
    breaks: Mapping[str, Sequence[float]] = field(default_factory=dict)


CASES: dict[str, Case] = {}

X2 = np.array([0.7, -1.1])
X3 = np.array([0.9, -0.6, 1.8])
ROWS = np.array([[0.5, -1.0], [1.5, 0.3], [-0.4, 0.8]])  # three rows of two features
AUXILIARY = {"is_auxiliary": True}


def case(*data: Any, **breaks: Sequence[float]) -> Callable[[Callable[[], tuple[Any, ...]]], Callable[[], Any]]:
    """Add the (model, guide) pair that the function returns; its docstring is the note."""

    def add(make: Callable[[], tuple[Any, ...]]) -> Callable[[], Any]:
        model, guide, *_ = make()
        CASES[make.__name__] = Case(make.__name__, model, guide, data, str(make.__doc__), breaks)
        return make

    return add


def start(name: str, value: Any, constraint: Any = None) -> Any:
    """A parameter that starts at a literal."""
    return param(name, xp.asarray(value), constraint)


def positive(name: str, value: Any) -> Any:
    """A positive parameter that starts at a literal."""
    return start(name, value, dist.constraints.positive)


def real(z: Any) -> Any:
    """A discrete value as a float: Bernoulli draws are integers on JAX."""
    return xp.astype(z, xp.float32)


# --- one site ---


bernoulli = case(*contract.bernoulli().data)(contract.bernoulli)


categorical = case(*contract.categorical().data)(contract.categorical)


normal = case(*contract.normal().data)(contract.normal)


@case(1.0)
def lognormal():
    """Pathwise through exp, with a Gamma prior (a logarithm of the latent)."""

    def model(x):
        z = sample("z", dist.Gamma(2.0, 1.5))
        sample("x", dist.Normal(2.0 * z, 0.8), obs=xp.asarray(x))

    def guide(x):
        sample("z", dist.LogNormal(start("loc", 0.1), positive("scale", 0.5)))

    return model, guide


@case(X3)
def latent_noise():
    """A latent standard deviation with a heavy-tailed prior; StudentT observations in a plate."""

    def model(x):
        scale = sample("scale", dist.HalfCauchy(1.5))
        with plate("data", 3):
            sample("x", dist.StudentT(4.0, start("loc", 0.1), scale), obs=x)

    def guide(x):
        sample("scale", dist.LogNormal(start("log_scale", -0.6), positive("spread", 0.8)))

    return model, guide


@case(0.7)
def exponential():
    """A positive latent with mass at zero, as the scale of a Laplace."""

    def model(x):
        z = sample("z", dist.Exponential(1.5))
        sample("x", dist.Laplace(start("loc", 0.2), z + 0.5), obs=xp.asarray(x))

    def guide(x):
        sample("z", dist.Exponential(positive("rate", 0.8)))

    return model, guide


@case(1.0)
def moving_support():
    """The guide's support moves with its parameters: pathwise is right, the score function is not."""

    def model(x):
        z = sample("z", dist.Normal(0.5, 1.0))
        sample("x", dist.Normal(z, 0.8), obs=xp.asarray(x))

    def guide(x):
        low = start("low", -0.8)
        sample("z", dist.Uniform(low, low + positive("width", 1.5)))

    return model, guide


@case(3.0)
def gamma_poisson():
    """Implicit reparametrization of a Gamma; conjugate."""

    def model(x):
        z = sample("z", dist.Gamma(2.0, 1.0))
        sample("x", dist.Poisson(z), obs=xp.asarray(x))

    def guide(x):
        sample("z", dist.Gamma(positive("shape", 3.0), positive("rate", 2.5)))

    return model, guide


@case(np.array([1.0, 0.0, 1.0, 1.0]))
def beta_bernoulli():
    """Implicit reparametrization of a Beta; conjugate, observations in a plate."""

    def model(x):
        z = sample("z", dist.Beta(1.5, 2.0))
        with plate("data", 4):
            sample("x", dist.Bernoulli(probs=z), obs=x)

    def guide(x):
        sample("z", dist.Beta(positive("a", 2.0), positive("b", 3.0)))

    return model, guide


# --- several sites ---


@case(0.6)
def bernoulli_chain():
    """Four steps; each guide site depends on the one before, the last is seen."""

    def model(x):
        z = 1.0
        for step in range(4):
            z = real(sample(f"z{step}", dist.Bernoulli(logits=1.2 * z - 0.7 + 0.1 * step)))
        sample("x", dist.Normal(2.0 * z - 1.0, 0.8), obs=xp.asarray(x))

    def guide(x):
        logit, push, z = start("logit", [0.9, -0.8, 0.2, -0.3]), start("push", 0.9), 0.0
        for step in range(4):
            z = real(sample(f"z{step}", dist.Bernoulli(logits=logit[step] + push * z)))

    return model, guide


@case(0.4)
def discrete_to_continuous():
    """A Bernoulli moves the mean of a Normal, in model and guide."""

    def model(x):
        k = real(sample("k", dist.Bernoulli(probs=0.4)))
        z = sample("z", dist.Normal(2.0 * k - 1.0, 0.8))
        sample("x", dist.Normal(z, 0.6), obs=xp.asarray(x))

    def guide(x):
        k = real(sample("k", dist.Bernoulli(logits=start("logit", 1.2))))
        sample("z", dist.Normal(start("low", -0.2) + start("gap", 0.5) * k, positive("scale", 0.7)))

    return model, guide


@case(0.9)
def continuous_to_discrete():
    """The Normal reaches the cost pathwise and through the probabilities of a later score site."""

    def model(x):
        z = sample("z", dist.Normal(0.3, 1.0))
        k = real(sample("k", dist.Bernoulli(logits=1.5 * z)))
        sample("x", dist.Normal(z + 1.5 * k, 0.9), obs=xp.asarray(x))

    def guide(x):
        z = sample("z", dist.Normal(start("loc", -0.4), positive("scale", 0.7)))
        sample("k", dist.Bernoulli(logits=start("bias", -1.0) + start("slope", 0.5) * z))

    return model, guide


@case(0.5)
def two_branches():
    """Only one of two latents counts, and a third chooses which: its branch may go unused."""

    def model(x):
        switch = sample("switch", dist.Bernoulli(probs=0.6))
        left, right = sample("left", dist.Bernoulli(probs=0.3)), sample("right", dist.Bernoulli(probs=0.7))
        loc = xp.where(real(switch) > 0.5, 1.5 * real(left), -2.0 * real(right))
        sample("x", dist.Normal(loc, 0.9), obs=xp.asarray(x))

    def guide(x):
        sample("switch", dist.Bernoulli(logits=start("switch_logit", -0.3)))
        sample("left", dist.Bernoulli(logits=start("left_logit", 0.4)))
        sample("right", dist.Bernoulli(logits=start("right_logit", -0.2)))

    return model, guide


@case(0.7)
def shared_parameter():
    """One guide parameter moves two sites of different kinds, and the model reads it too."""

    def model(x):
        k = real(sample("k", dist.Bernoulli(probs=0.35)))
        z = sample("z", dist.Normal(0.0, 1.2))
        sample("x", dist.Normal(z + k + start("theta", 0.4), 0.8), obs=xp.asarray(x))

    def guide(x):
        theta = start("theta", 0.4)
        sample("k", dist.Bernoulli(logits=2.0 * theta))
        sample("z", dist.Normal(-theta, 0.7))

    return model, guide


@case(0.8)
def auxiliary_bernoulli():
    """A guide site that the model lacks counts with -log q, and a later site depends on it."""

    def model(x):
        z = real(sample("z", dist.Bernoulli(probs=0.6)))
        sample("x", dist.Normal(2.0 * z - 1.0, 1.1), obs=xp.asarray(x))

    def guide(x):
        aux = real(sample("aux", dist.Bernoulli(logits=start("aux_logit", 1.3)), infer=AUXILIARY))
        sample("z", dist.Bernoulli(logits=start("logit", -0.5) + start("push", 0.9) * aux))

    return model, guide


@case(0.8)
def auxiliary_normal():
    """A continuous auxiliary site feeds a discrete one."""

    def model(x):
        z = real(sample("z", dist.Bernoulli(probs=0.6)))
        sample("x", dist.Normal(2.0 * z - 1.0, 1.1), obs=xp.asarray(x))

    def guide(x):
        aux = sample("aux", dist.Normal(start("loc", 0.4), positive("scale", 0.6)), infer=AUXILIARY)
        sample("z", dist.Bernoulli(logits=1.5 * aux - 0.9))

    return model, guide


# --- plates ---


@case(X3)
def gaussian_mixture():
    """Discrete assignments of three points; means and weights are the model's parameters."""

    def model(x):
        logits, loc = start("weights", [0.4, -0.2]), start("locs", [-0.7, 1.1])
        with plate("data", 3):
            z = sample("z", dist.Categorical(logits=logits))
            sample("x", dist.Normal(xp.take(loc, z, axis=0), 0.8), obs=x)

    def guide(x):
        with plate("data", 3):
            sample("z", dist.Categorical(logits=start("logits", [[0.5, -0.1], [-0.3, 0.6], [0.2, -0.7]])))

    return model, guide


@case(ROWS)
def amortized_categorical():
    """Guide logits are a linear map of each row, so all rows share the parameters."""

    def model(x):
        loc = start("loc", [[0.2, -0.9], [1.0, 0.4]])
        with plate("data", 3):
            z = sample("z", dist.Categorical(probs=xp.asarray([0.35, 0.65])))
            sample("x", dist.Normal(xp.take(loc, z, axis=0), 0.8).to_event(1), obs=x)

    def guide(x):
        logits = nn.linear("q", x, 2, bias=[0.3, -0.2])
        with plate("data", 3):
            sample("z", dist.Categorical(logits=logits))

    return model, guide


@case(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
def discrete_through_mlp():
    """Two Bernoullis decode to a discrete likelihood through a hidden layer."""

    def model(x):
        with plate("data", 2):
            z = sample("z", dist.Bernoulli(probs=xp.asarray([0.3, 0.6])).to_event(1))
            sample("x", dist.Bernoulli(logits=nn.mlp("p", 2.0 * real(z) - 1.0, [2], 3)).to_event(1), obs=x)

    def guide(x):
        with plate("data", 2):
            sample("z", dist.Bernoulli(logits=start("logits", [[0.7, -0.4], [-0.6, 0.5]])).to_event(1))

    return model, guide


@case(X3)
def observed_and_latent_in_one_plate():
    """Each row has its own signal; one observation in the plate does not see the latent at all."""

    def model(x):
        with plate("data", 3):
            z = real(sample("z", dist.Bernoulli(probs=0.4)))
            sample("y", dist.Normal(start("mean", 0.1), 2.0), obs=x * x)
            sample("x", dist.Normal(1.5 * z - 0.3, 0.7), obs=x)

    def guide(x):
        with plate("data", 3):
            sample("z", dist.Bernoulli(logits=start("logits", [0.3, -0.9, -0.2])))

    return model, guide


@case(X3)
def global_normal():
    """A global latent with a plate of observations: its signal sums over the plate."""

    def model(x):
        mean = sample("mean", dist.Normal(0.0, 2.0))
        with plate("data", 3):
            sample("x", dist.Normal(mean, positive("noise", 0.9)), obs=x)

    def guide(x):
        sample("mean", dist.Normal(start("loc", -0.3), positive("scale", 0.4)))

    return model, guide


@case(X3)
def global_and_local():
    """A global Bernoulli above a plate of Bernoullis; the guide's rows depend on the global one."""

    def model(x):
        top = real(sample("top", dist.Bernoulli(probs=0.45)))
        with plate("data", 3):
            z = real(sample("z", dist.Bernoulli(logits=1.6 * top - 0.8)))
            sample("x", dist.Normal(1.8 * z - 0.4, 0.8), obs=x)

    def guide(x):
        top = real(sample("top", dist.Bernoulli(logits=start("top_logit", -0.6))))
        with plate("data", 3):
            sample("z", dist.Bernoulli(logits=start("logits", [0.4, 0.9, -0.5]) + start("push", 0.8) * top))

    return model, guide


@case(np.array([[0.4, -0.8], [1.3, 0.2]]))
def nested_plates():
    """One latent per group, one per member; data of shape (members, groups)."""

    def model(x):
        with plate("groups", 2):
            group = real(sample("group", dist.Bernoulli(probs=xp.asarray([0.3, 0.6]))))
            with plate("members", 2):
                z = real(sample("z", dist.Bernoulli(logits=1.4 * group - 0.5)))
                sample("x", dist.Normal(1.6 * z - 0.5 * group, 0.7), obs=x)

    def guide(x):
        with plate("groups", 2):
            group = real(sample("group", dist.Bernoulli(logits=start("top", [0.5, -0.4]))))
            with plate("members", 2):
                sample("z", dist.Bernoulli(logits=start("logits", [[0.6], [-0.7]]) + start("push", 0.7) * group))

    return model, guide


@case(X3, X2)
def sibling_plates():
    """Two plates of different sizes at the same dimension below one global latent."""

    def model(x, y):
        top = real(sample("top", dist.Bernoulli(probs=0.4)))
        with plate("first", 3):
            z = real(sample("z", dist.Bernoulli(logits=top - 0.3)))
            sample("x", dist.Normal(1.4 * z, 0.9), obs=x)
        with plate("second", 2):
            w = real(sample("w", dist.Bernoulli(logits=0.4 - top)))
            sample("y", dist.Normal(top - 1.2 * w, 0.6), obs=y)

    def guide(x, y):
        sample("top", dist.Bernoulli(logits=start("top_logit", 0.4)))
        with plate("first", 3):
            sample("z", dist.Bernoulli(logits=start("z_logits", [0.2, 0.6, -0.8])))
        with plate("second", 2):
            sample("w", dist.Bernoulli(logits=start("w_logits", [0.5, -0.3])))

    return model, guide


@case(X2)
def crossed_plates():
    """Two plates at given dimensions; one latent in each, both meet in the data."""

    def model(x):
        rows, columns = plate("rows", 2, dim=-2), plate("columns", 2, dim=-1)
        with rows:
            a = real(sample("a", dist.Bernoulli(probs=0.4)))
        with columns:
            b = real(sample("b", dist.Bernoulli(probs=0.7)))
        with rows, columns:
            sample("x", dist.Normal(1.3 * a - 0.9 * b, 0.8), obs=xp.stack([x, x + 1.0]))

    def guide(x):
        with plate("rows", 2, dim=-2):
            sample("a", dist.Bernoulli(logits=start("a_logits", [[0.5], [-0.6]])))
        with plate("columns", 2, dim=-1):
            sample("b", dist.Bernoulli(logits=start("b_logits", [0.3, -0.5])))

    return model, guide


@case(X3)
def subsampled_plate():
    """Local latents of a random two rows out of three, scaled by 3/2."""

    def model(x):
        with plate("data", 3, subsample_size=2) as rows:
            z = real(sample("z", dist.Bernoulli(probs=0.3)))
            sample("x", dist.Normal(start("slope", 1.3) * z, 0.8), obs=xp.take(x, rows, axis=0))

    def guide(x):
        with plate("data", 3, subsample_size=2) as rows:
            sample("z", dist.Bernoulli(logits=xp.take(start("logits", [0.4, 0.8, -0.6]), rows, axis=0)))

    return model, guide


@case(X3)
def subsampled_observations():
    """A global latent; only the model has the subsampled plate."""

    def model(x):
        top = real(sample("top", dist.Bernoulli(probs=0.45)))
        with plate("data", 3, subsample_size=2) as rows:
            sample("x", dist.Normal(start("slope", 1.1) * top - 0.2, 0.8), obs=xp.take(x, rows, axis=0))

    def guide(x):
        sample("top", dist.Bernoulli(logits=start("logit", -0.7)))

    return model, guide


# --- latents that mix ---


sum_over_plate = case(*contract.sum_over_plate().data)(contract.sum_over_plate)


@case(X3)
def centered_rows():
    """``z - mean(z)`` inside the plate: every row's latent moves every row's cost."""

    def model(x):
        with plate("data", 3):
            z = real(sample("z", dist.Bernoulli(probs=0.4)))
            sample("x", dist.Normal(2.0 * (z - xp.mean(z, axis=0)), 0.6), obs=x)

    def guide(x):
        with plate("data", 3):
            sample("z", dist.Bernoulli(logits=start("logits", [0.4, -0.2, 0.7])))

    return model, guide


@case(X2)
def centered_normals():
    """The same with reparametrized rows."""

    def model(x):
        with plate("data", 2):
            z = sample("z", dist.Normal(0.5, 1.0))
            sample("x", dist.Normal(z - xp.mean(z, axis=0), 0.7), obs=x)

    def guide(x):
        with plate("data", 2):
            sample("z", dist.Normal(start("locs", [0.3, 0.1]), positive("scale", 0.5)))

    return model, guide


@case(X2)
def latent_index():
    """One plate's latents, indexed by another's: mixing by `take`."""

    def model(x):
        with plate("components", 2):
            on = real(sample("on", dist.Bernoulli(probs=0.6)))
        with plate("data", 2):
            k = sample("k", dist.Categorical(probs=xp.asarray([0.45, 0.55])))
            sample("x", dist.Normal(2.0 * xp.take(on, k, axis=0) - 1.0, 0.7), obs=x)

    def guide(x):
        with plate("components", 2):
            sample("on", dist.Bernoulli(logits=start("on_logits", [0.6, -0.5])))
        with plate("data", 2):
            sample("k", dist.Categorical(logits=start("logits", [[0.9, -0.6], [-1.1, 0.7]])))

    return model, guide


@case(1.1)
def vector_normal():
    """Two correlated-by-the-data latents in one event."""

    def model(x):
        z = sample("z", dist.Normal(xp.asarray([0.5, -0.5]), 1.0).to_event(1))
        sample("x", dist.Normal(xp.sum(z * xp.asarray([1.5, -0.8])), 0.7), obs=xp.asarray(x))

    def guide(x):
        sample("z", dist.Normal(start("loc", [-0.2, 0.4]), positive("scale", [0.5, 0.9])).to_event(1))

    return model, guide


# --- masks and factors ---


@case(X3)
def masked_observations():
    """The second observation is missing: its row keeps the prior and the entropy only."""

    def model(x):
        seen = xp.asarray([True, False, True])
        with plate("data", 3):
            z = real(sample("z", dist.Bernoulli(probs=0.3)))
            sample("x", dist.Normal(start("slope", 0.5) * z, 0.8).mask(seen), obs=x)

    def guide(x):
        with plate("data", 3):
            sample("z", dist.Bernoulli(logits=start("logits", [0.4, 0.8, -0.6])))

    return model, guide


@case(X3)
def masked_latents():
    """Masked in both programs, yet drawn: the second row's score term stays, as its draw moves the data."""

    def model(x):
        used = xp.asarray([True, False, True])
        with plate("data", 3):
            z = real(sample("z", dist.Bernoulli(probs=0.3).mask(used)))
            sample("x", dist.Normal(1.4 * z, 0.8), obs=x)

    def guide(x):
        used = xp.asarray([True, False, True])
        with plate("data", 3):
            sample("z", dist.Bernoulli(logits=start("logits", [0.4, 0.8, -0.6])).mask(used))

    return model, guide


@case(ROWS[:2])
def masked_elements():
    """Masks inside an event, and another mask in the guide's."""

    def model(x):
        seen = xp.asarray([[True, False], [True, True]])
        with plate("data", 2):
            z = real(sample("z", dist.Bernoulli(probs=xp.asarray([0.3, 0.6])).to_event(1)))
            sample("x", dist.Normal(1.5 * z - 0.4, 0.7).mask(seen).to_event(1), obs=x)

    def guide(x):
        used = xp.asarray([[True, True], [False, True]])
        with plate("data", 2):
            sample("z", dist.Bernoulli(logits=start("logits", [[0.5, -0.7], [0.9, 1.1]])).mask(used).to_event(1))

    return model, guide


@case(0.6)
def bernoulli_factor():
    """No observation: two factors, one outside and one inside a plate, which counts once per row."""

    def model(x):
        z = real(sample("z", dist.Bernoulli(probs=0.4)))
        deterministic("twice", 2.0 * z)
        factor("outside", -x * (z - 0.2) ** 2)
        with plate("rows", 3):
            factor("inside", 0.5 * z)

    def guide(x):
        sample("z", dist.Bernoulli(logits=start("logit", -0.3)))

    return model, guide


# --- costs with a jump ---


@case(0.5, z=[0.3])
def step_cost():
    """A continuous latent whose pathwise gradient misses the step: only the score function is right."""

    def model(x):
        z = sample("z", dist.Normal(0.0, 1.0))
        factor("cost", xp.where(z > 0.3, xp.asarray(2.0), xp.asarray(-1.0)) * x)

    def guide(x):
        sample("z", dist.Normal(start("loc", 0.9), positive("scale", 1.3)))

    return model, guide


@case(0.9, z=[0.0])
def step_through_plate():
    """The step decides the probabilities of plated sites below it."""

    def model(x):
        z = sample("z", dist.Normal(0.2, 1.0))
        with plate("data", 2):
            k = real(sample("k", dist.Bernoulli(probs=xp.where(z > 0.0, xp.asarray(0.8), xp.asarray(0.3)))))
            sample("x", dist.Normal(1.7 * k, 0.8), obs=xp.asarray(x) * xp.asarray([1.0, -0.7]))

    def guide(x):
        sample("z", dist.Normal(start("loc", -0.5), positive("scale", 0.9)))
        with plate("data", 2):
            sample("k", dist.Bernoulli(logits=start("logits", [-0.4, 0.6])))

    return model, guide


@case(X2, z=[0.3])
def plated_steps():
    """A step in every row of a plate: score sites with one signal per row."""

    def model(x):
        with plate("data", 2):
            z = sample("z", dist.Normal(0.4, 1.0))
            sample("x", dist.Normal(xp.where(z > 0.3, xp.asarray(1.5), xp.asarray(-0.5)), 0.8), obs=x)

    def guide(x):
        with plate("data", 2):
            sample("z", dist.Normal(start("loc", -0.2) + 0.9 * x, 0.7))

    return model, guide


# --- constraints ---


@case(0.7)
def constrained_parameters():
    """Positive, unit-interval and interval parameters, each in model or guide."""

    def model(x):
        z = real(sample("z", dist.Bernoulli(probs=start("prior", 0.3, dist.constraints.unit_interval))))
        sample("x", dist.Normal(1.5 * z, positive("noise", 0.6)), obs=xp.asarray(x))

    def guide(x):
        sample("z", dist.Bernoulli(probs=start("probs", 0.6, dist.constraints.unit_interval)))

    return model, guide
