"""A sampler of the user's own is followed like the rest of the program; the libraries' are trusted.

Exact gradients are by quadrature in double precision; |z| < 5 of the mean of the draws (6e-7 of false alarm each).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.infer.autoguide.effect import AutoHierarchicalNormalMessenger, AutoNormalMessenger
from torch import Tensor, nn
from torch.distributions import transforms

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Pathwise, Score

X, START = torch.tensor(0.7), 0.4
GRID = torch.linspace(-8.0, 10.0, 4001, dtype=torch.float64)
QUICK: dict[str, Any] = {"steps": 3, "progress": False}


class Shifted(dist.TorchDistribution):
    """A Normal of scale one, drawn in its own way."""

    arg_constraints = {"loc": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, validate_args: Any = None) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=validate_args)

    def noise(self, shape: Any) -> Tensor:
        return torch.randn(shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.noise(torch.Size(sample_shape) + self.loc.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Normal(self.loc, 1.0).log_prob(value)


class Cut(Shifted):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape).detach()


class Mixed(Shifted):
    """Two components, taken by a comparison."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.loc.shape
        return torch.randn(shape) + 2 * (torch.rand(shape) < torch.sigmoid(self.loc)).float()

    def log_prob(self, value: Tensor) -> Tensor:
        first, second = (dist.Normal(loc, 1.0).log_prob(value) for loc in (0.0, 2.0))
        logit = nn.functional.logsigmoid
        return torch.logaddexp(logit(-self.loc) + first, logit(self.loc) + second)


class Truncated(dist.Normal):
    """To the positive, by rejection."""

    support: Any = constraints.positive

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        out = super().rsample(sample_shape)
        for _ in range(40):
            out = torch.where(out > 0, out, super().rsample(sample_shape))
        return out

    def log_prob(self, value: Tensor) -> Tensor:
        inside = dist.Normal(torch.zeros_like(self.loc), 1.0).cdf(self.loc)
        return super().log_prob(value).where(value > 0, torch.tensor(-torch.inf, dtype=value.dtype)) - inside.log()


class Subclass(dist.Normal):
    pass


class Sinh(transforms.Transform):
    domain = codomain = constraints.real
    bijective = True
    sign = +1

    def _call(self, x: Tensor) -> Tensor:
        return torch.sinh(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.asinh(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.log(torch.cosh(x))


class Swap(Sinh):
    """(0, 1) and (1, 2) change places: a bijection that jumps."""

    def _call(self, x: Tensor) -> Tensor:
        return torch.where((x > 0) & (x < 1), x + 1, torch.where((x >= 1) & (x < 2), x - 1, x))

    def _inverse(self, y: Tensor) -> Tensor:
        return self._call(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)


def after(transform: Any) -> Callable[[Tensor], Any]:
    return lambda t: dist.TransformedDistribution(dist.Normal(t, torch.ones_like(t)), [transform])


JUMPS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "a detached sampler": (Cut, dist.Normal(0.0, 1.0)),
    "components by a comparison": (Mixed, dist.Normal(0.0, 1.0)),
    "rejection": (lambda t: Truncated(t, torch.ones_like(t)), dist.Exponential(1.0)),
    "a transform that jumps": (after(Swap()), dist.Normal(0.0, 1.0)),
    "its inverse": (after(Swap().inv), dist.Normal(0.0, 1.0)),
}
SMOOTH: dict[str, Callable[[Tensor], Any]] = {
    "a sampler": Shifted,
    "a subclass": lambda t: Subclass(t, 1.0),
    "a transform": after(Sinh()),
    "an inverse": after(Sinh().inv),
    "transforms in a row": after(transforms.ComposeTransform([Sinh(), transforms.AffineTransform(0.0, 2.0)])),
}


def program(proposal: Callable[[Tensor], Any], prior: Any) -> tuple[Callable[..., None], Callable[..., None]]:
    def model(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(0.7 * pyro.sample("v", prior), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("v", proposal(pyro.param("t", torch.tensor(START))))

    return model, guide


def exact(proposal: Callable[[Tensor], Any], prior: Any) -> float:
    """The gradient of minus the ELBO, by quadrature; densities alone, no sampler."""
    t = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    grid = GRID[GRID > 0] if prior.support is constraints.nonnegative else GRID
    log_q = proposal(t.expand(len(grid))).log_prob(grid)
    cost = log_q - prior.log_prob(grid) - dist.Normal(0.7 * grid, 1.0).log_prob(X.double())
    torch.trapezoid(log_q.exp() * cost, grid).backward()
    assert t.grad is not None
    return float(t.grad)


@pytest.mark.parametrize("kind", JUMPS)
def test_a_sampler_that_jumps_is_scored_whatever_it_says(kind: str) -> None:
    proposal, prior = JUMPS[kind]
    model, guide = program(proposal, prior)
    assert isinstance(infer.plan(model, guide, X)["v"].estimator, Score)
    drawn = infer.gradient(model, guide, X, num_samples=4000)["t"]
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - exact(proposal, prior)) < 5 * error


def test_the_pathwise_gradient_of_such_a_sampler_is_far_off() -> None:
    """Power: what was trusted before stands many standard errors away."""
    proposal, prior = JUMPS["components by a comparison"]
    drawn = infer.gradient(*program(proposal, prior), X, num_samples=4000)["t"]
    assert abs(0.0 - exact(proposal, prior)) > 10 * drawn.std() / np.sqrt(len(drawn))


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_smooth_sampler_stays_pathwise(kind: str) -> None:
    model, guide = program(SMOOTH[kind], dist.Normal(0.0, 1.0))
    assert isinstance(infer.plan(model, guide, X)["v"].estimator, Pathwise)


class Floored(Shifted):
    """A likelihood whose density jumps with its location."""

    has_rsample = False

    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Normal(torch.floor(self.loc), 1.0).log_prob(value)


class Squared(Floored):
    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Normal(self.loc**2, 1.0).log_prob(value)


class Detached(Floored):
    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Normal(self.loc.detach() ** 2, 1.0).log_prob(value)


class Tilted(dist.Normal):
    """A prior whose density jumps with the value."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - 1.5 * (value > 0.3)


Likelihood = Callable[[Tensor], Any]
DENSITIES: dict[str, tuple[Any, Likelihood, type]] = {
    "smooth": (dist.Normal(0.0, 1.0), Squared, Pathwise),
    "a location that jumps": (dist.Normal(0.0, 1.0), Floored, Score),
    "a location that is cut off": (dist.Normal(0.0, 1.0), Detached, Score),
    "a prior that jumps": (Tilted(0.0, 1.0), Squared, Score),
}


@pytest.mark.parametrize("kind", DENSITIES)
def test_a_density_of_the_users_own_is_followed(kind: str) -> None:
    prior, likelihood, expected = DENSITIES[kind]

    def model(x: Tensor) -> None:
        pyro.sample("x", likelihood(1.0 * pyro.sample("v", prior)), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("v", dist.Normal(pyro.param("t", torch.tensor(START)), 1.0))

    assert isinstance(infer.plan(model, guide, X)["v"].estimator, expected)
    t = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    log_q = dist.Normal(t, 1.0).log_prob(GRID)
    cost = log_q - prior.log_prob(GRID) - likelihood(GRID).log_prob(X.double())
    (truth,) = torch.autograd.grad(torch.trapezoid(log_q.exp() * cost, GRID), t)
    drawn = infer.gradient(model, guide, X, num_samples=4000)["t"]
    assert abs(drawn.mean() - float(truth)) < 5 * drawn.std() / np.sqrt(len(drawn))


def test_a_parameter_that_reaches_a_density_by_a_jump_alone_is_refused() -> None:
    def model(x: Tensor) -> None:
        pyro.sample("x", Floored(pyro.param("t", torch.tensor(START))), obs=x)

    with pytest.raises(ProgramError, match="'t'"):
        infer.fit(model, None, X, **QUICK)


class Net(nn.Module):
    def __init__(self, before: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.before = nn.Linear(1, 8), nn.Linear(8, 2), before

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.second(torch.relu(self.first(self.before(x))))
        return found[..., :1], torch.tanh(found[..., 1:])


@pytest.mark.parametrize(("before", "kind"), [(torch.tanh, Pathwise), (torch.sign, Score)])
def test_a_users_network_inside_a_librarys_flow_is_followed(before: Any, kind: type) -> None:
    flow = dist.transforms.AffineCoupling(1, Net(before))

    def model(x: Tensor) -> None:
        v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(v.sum(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        base = dist.Normal(pyro.param("t", torch.zeros(2)), 1.0).to_event(1)
        pyro.sample("v", dist.TransformedDistribution(base, [flow]))

    assert isinstance(infer.plan(model, guide, X)["v"].estimator, kind)


@pytest.mark.parametrize("flow", [dist.transforms.planar, dist.transforms.radial])
def test_flows_without_an_inverse_train(flow: Any) -> None:
    def model(x: Tensor) -> None:
        v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(v.sum(), 1.0), obs=x)

    with pyro.get_param_store().scope():
        fit = infer.fit(model, AutoNormalizingFlow(model, flow), X, **QUICK)
    assert np.isfinite(fit.losses).all()


@pytest.mark.parametrize("kind", [AutoNormalMessenger, AutoHierarchicalNormalMessenger])
def test_guides_that_run_the_model_beneath_a_handler_train(kind: Any) -> None:
    """The loss settles near minus log p, which has a closed form; it cannot fall below that but by noise."""
    y = torch.tensor([1.2, 0.3, 2.1, 0.8])
    cov = 2 * torch.eye(4) + 1
    least = -float(dist.MultivariateNormal(torch.zeros(4), cov).log_prob(y))

    def model(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(m, 1.0)), 1.0), obs=y)

    with pyro.get_param_store().scope():
        fit = infer.fit(model, kind(model), y, steps=600, learning_rate=0.05, progress=False)
    assert least - 0.1 < fit.losses[-200:].mean() < least + 0.6


def test_a_straight_through_bernoulli_is_refused_by_what_is_wrong_with_it() -> None:
    def model(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("v", dist.Bernoulli(0.4)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("t", torch.zeros(()))
        pyro.sample("v", dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=logits))

    with pytest.raises(ProgramError, match="log density is of another value"):
        infer.plan(model, guide, X)
