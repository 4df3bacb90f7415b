"""Smooth is what is shown to be; what is partial, or unknown to the list, is a possible jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from pyro.infer.reparam import StableReparam
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_gen import infer
from ppl_gen.backends.torch.graph import Tracker
from ppl_gen.estimators import Pathwise

MATRIX = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
SHIFT = torch.tensor([[0.0, 0.3], [0.3, 0.0]])


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def jump(function: Callable[[Tensor], Any]) -> str | None:
    """Where the function of a latent of three rows and two columns may jump; None where it is shown to be smooth."""
    with Tracker() as tracker:
        z = tracker.source("z", seeded(lambda: torch.randn(3, 2)).requires_grad_())
        return tracker.reach(function(z))["z"].jump


def pencil(z: Tensor) -> Tensor:
    """A matrix that is singular for some z."""
    return MATRIX * z[0, 0] + SHIFT


JUMPS: dict[str, Callable[[Tensor], Any]] = {
    "inverse": lambda z: torch.tanh(torch.linalg.inv(pencil(z))),
    "solve": lambda z: torch.tanh(torch.linalg.solve(pencil(z), torch.ones(2))),
    "pseudoinverse": lambda z: torch.tanh(torch.linalg.pinv(pencil(z))),
    "triangular solve": lambda z: torch.linalg.solve_triangular(pencil(z).tril(), MATRIX, upper=False),
    "logarithm of a determinant": lambda z: torch.slogdet(pencil(z))[1],
    "digamma": lambda z: torch.tanh(torch.digamma(z)),
    "polygamma": lambda z: torch.tanh(torch.polygamma(1, z)),
    "lgamma": lambda z: torch.tanh(torch.lgamma(z)),
    "xlogy": lambda z: torch.nan_to_num(torch.xlogy(z, z)),
    "logit": lambda z: torch.nan_to_num(torch.logit(z)),
    "erfinv": lambda z: torch.nan_to_num(torch.erfinv(z)),
    "acos": lambda z: torch.nan_to_num(torch.acos(z)),
    "root": lambda z: torch.nan_to_num(torch.sqrt(z - 0.2)),
    "power": lambda z: torch.nan_to_num(z**0.5),
    "tangent": lambda z: torch.tanh(torch.tan(z)),
    "eight bits": lambda z: z.to(torch.float8_e4m3fn).float(),
    "whole numbers": lambda z: z.to(torch.int32).float(),
    "over its size": lambda z: z / z.abs(),
    "over its size, kept from zero": lambda z: z / (z.abs() + 1e-8),
    "over its own length, in one dimension": lambda z: F.normalize(z[:, :1] * torch.ones(2)),
    "over a sum": lambda z: torch.tanh(1 / z.sum()),
    "over what parameters and data make": lambda z: z / (z.abs() + MATRIX[0]),
    "a density with edges": lambda z: dist.Uniform(0.0, 1.0, validate_args=False).log_prob(z).clamp(-5, 5),
    "pieces with a gap": lambda z: torch.where(z > 0, z, 0 * z + 0.1),
    "an indicator of another place": lambda z: z * (z > 1),
    "another tensor's order": lambda z: z.gather(-1, (z * z).argsort(-1)),
    "a function of no list": lambda z: torch.special.bessel_j0(z),
}
SMOOTH: dict[str, Callable[[Tensor], Any]] = {
    "batch norm": lambda z: nn.BatchNorm1d(2)(z),
    "batch norm in evaluation": lambda z: nn.BatchNorm1d(2).eval()(z),
    "layer norm": lambda z: nn.LayerNorm(2)(z),
    "rms norm": lambda z: F.rms_norm(z, (2,)),
    "LSTM cell": lambda z: seeded(lambda: nn.LSTMCell(2, 3))(z)[0],
    "GRU cell": lambda z: seeded(lambda: nn.GRUCell(2, 3))(z),
    "LSTM": lambda z: seeded(lambda: nn.LSTM(2, 3))(z[None])[0],
    "GRU": lambda z: seeded(lambda: nn.GRU(2, 3))(z[None])[0],
    "RNN": lambda z: seeded(lambda: nn.RNN(2, 3))(z[None])[0],
    "attention": lambda z: F.scaled_dot_product_attention(z[None], z[None], z[None]),
    "Pyro's clamp": lambda z: clamp_preserve_gradients(z, -1.0, 1.0),
    "autoregressive flow": lambda z: seeded(lambda: dist.transforms.affine_autoregressive(2, [4]))(z),
    "planar flow": lambda z: seeded(lambda: dist.transforms.planar(2))(z),
    "spline": lambda z: seeded(lambda: dist.transforms.spline(2))(z),
    "soft sign": lambda z: z / (1 + z.abs()),
    "over its exponential": lambda z: z / z.exp() + 1 / F.softplus(z),
    "logarithms of positive numbers": lambda z: (
        torch.log(torch.sigmoid(z)) + torch.log1p(z * z) + torch.log(z.exp() + 1)
    ),
    "root of positive numbers": lambda z: torch.sqrt(1e-3 + z**2),
    "logarithm kept from zero": lambda z: torch.log(torch.sigmoid(z).clamp(1e-6, 1 - 1e-6)),
    "its direction": lambda z: F.normalize(z, dim=-1) + z / z.norm() + z / torch.sqrt((z * z).sum()),
    "two directions": lambda z: F.cosine_similarity(z, torch.ones(2), dim=-1),
    "quantile": lambda z: torch.quantile(z, 0.3),
    "median": lambda z: z.median() + z.kthvalue(1, -1).values.sum(),
    "put in order by hand": lambda z: z.gather(-1, z.argsort(-1)),
    "relu in pieces": lambda z: torch.where(z > 0, z, 0 * z),
    "huber in pieces": lambda z: torch.where(z.abs() < 1, 0.5 * z**2, z.abs() - 0.5),
    "an indicator": lambda z: z * (z > 0) + z * (z > 0).float(),
    "masked where it is zero": lambda z: z.masked_fill(z < 0, 0.0),
    "cholesky": lambda z: torch.cholesky_solve(
        torch.ones(3, 2, 1), torch.linalg.cholesky(torch.eye(2) + z[:, :, None] * z[:, None, :])
    ),
    "a density without edges": lambda z: dist.Normal(0.0, z.exp()).log_prob(torch.tensor(1.0)),
}


@pytest.mark.parametrize("name", JUMPS)
def test_what_is_not_shown_to_be_smooth_is_a_jump(name: str) -> None:
    assert jump(JUMPS[name]) is not None


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_smooth_is_shown_to_be(name: str) -> None:
    assert jump(SMOOTH[name]) is None


def test_what_is_known_of_a_latent_is_its_support() -> None:
    """A positive latent may be divided by, a probability may be taken the logarithm of, and a simplex too."""

    def model(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        parts = pyro.sample("parts", dist.Dirichlet(torch.ones(3)))
        pyro.sample("x", dist.Normal(share.log() / scale + torch.logit(share) + parts.log().sum(), 1.0), obs=x)

    plan = infer.plan(model, None, torch.tensor(0.3))
    assert all(isinstance(row.estimator, Pathwise) for row in plan.rows.values()), plan


def test_a_libraries_reparametrization_is_smooth() -> None:
    def model(x: Tensor) -> None:
        with pyro.poutine.reparam(config={"z": StableReparam()}):
            z = pyro.sample("z", dist.Stable(1.5, 0.1, 1.0, 0.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    plan = infer.plan(model, None, torch.tensor(0.3))
    assert all(isinstance(row.estimator, Pathwise) for row in plan.rows.values()), plan


def test_sorted_cut_points_are_smooth() -> None:
    def model(x: Tensor) -> None:
        cuts = pyro.sample("cuts", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.OrderedLogistic(torch.zeros(len(x)), cuts.sort(-1).values), obs=x)

    row = infer.plan(model, None, torch.tensor([0.0, 1.0, 2.0, 3.0]))["cuts"]
    assert isinstance(row.estimator, Pathwise), row.reason
