"""Which elements of a plate reach which, operation by operation of torch: proved, whatever the values are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_gen.backends.torch.graph import Tracker

ROWS, WIDTH = 6, 4


def mixes(function: Callable[[Tensor], Any], value: Tensor, dim: int = 0) -> bool:
    """Whether a row of `value` reaches another row of what the function makes of it, rows standing at `dim`."""
    with Tracker() as tracker:
        marked = tracker.source("z", value.clone())
        tracker.words.mark(marked, "rows", "rows", -value.dim())
        out = function(marked)
        return bool(tracker.words.strays([out], {"rows": dim - out.dim()}))


def rows(seed: int = 0) -> Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))


def whole_rows() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 1, 0])


torch.manual_seed(0)
MATRIX = torch.randn(WIDTH, 5)
EYE = torch.eye(WIDTH)
OFF = torch.tensor(0.0)
STATE = torch.ones(ROWS, WIDTH)
LAST = torch.arange(ROWS) == ROWS - 1
NETWORKS: dict[str, nn.Module] = {
    "mlp": nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Dropout(0.1), nn.LayerNorm(8), nn.Linear(8, 3)),
    "batch norm in evaluation": nn.BatchNorm1d(WIDTH).eval(),
    "gru cell": nn.GRUCell(WIDTH, 3),
    "group norm": nn.GroupNorm(2, WIDTH),
}
CELL = nn.LSTMCell(WIDTH, 3)
CONV = nn.Sequential(nn.Conv2d(1, 2, 2, padding=1), nn.BatchNorm2d(2).eval(), nn.MaxPool2d(2), nn.Flatten())
LSTM, GRU = nn.LSTM(2, 3, batch_first=True), nn.GRU(2, 3, bidirectional=True, batch_first=True)
ENCODER = nn.TransformerEncoderLayer(2, 1, 4, batch_first=True, dropout=0.0)


def _written(z: Tensor) -> Tensor:
    out = torch.zeros(ROWS, WIDTH)
    for row in range(ROWS):
        out[row] = z[row] * 2
    return out


def _written_beside(z: Tensor) -> Tensor:
    out = torch.zeros(ROWS, WIDTH)
    out[1:] += z[:-1]
    return out


def _loop_over_time(z: Tensor) -> Tensor:
    state = torch.zeros(ROWS)
    for step in range(WIDTH):
        state = torch.tanh(state + z[:, step])
    return state


APART: dict[str, Callable[[Tensor], Tensor]] = {
    "elementwise": lambda z: torch.clamp(F.softplus(z) + torch.where(z > 0, z, 0 * z), 0, 9) / 2,
    "with an outer number": lambda z: z * OFF + 1,
    "over features": lambda z: torch.tanh(z @ MATRIX).sum(-1),
    "softmax over features": lambda z: F.softmax(z @ MATRIX, -1).max(-1).values,
    "normalized rows": lambda z: (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True),
    "there and back": lambda z: z.flip(0).flip(0),
    "permuted and back": lambda z: z[torch.arange(ROWS).flip(0)][torch.arange(ROWS).flip(0)],
    "transposed": lambda z: (MATRIX.t() @ z.t()).t(),
    "views": lambda z: z.reshape(ROWS, 2, 2).permute(0, 2, 1).reshape(ROWS, WIDTH)[:, 1:],
    "written row by row": _written,
    "a loop over columns": _loop_over_time,
    "concatenated": lambda z: torch.cat([z, torch.stack([z, z], 1).sum(1)], -1),
    "einsum": lambda z: torch.einsum("nf,fg,nf->ng", z, MATRIX, z),
    "outer products": lambda z: (z.unsqueeze(-1) * z.unsqueeze(-2)).sum((-1, -2)),
    "cholesky": lambda z: torch.linalg.cholesky(EYE * 9 + z.unsqueeze(-1) * z.unsqueeze(-2))[..., 0],
    "solved": lambda z: torch.linalg.solve(EYE * 9 + torch.diag_embed(z), z),
    "triangular": lambda z: torch.linalg.solve_triangular(
        EYE + torch.diag_embed(z.exp()), z.unsqueeze(-1), upper=False
    ),
    "determinant": lambda z: torch.linalg.slogdet(EYE + torch.diag_embed(z.exp()))[1],
    "inverse": lambda z: torch.linalg.inv(EYE + torch.diag_embed(z.exp())).sum(-1),
    "vmap": lambda z: torch.vmap(lambda v: torch.sin(v).sum() * v)(z),
    "vmap of a product": lambda z: torch.vmap(lambda v: v @ MATRIX)(z),
    "sorted features": lambda z: z.sort(-1).values.cumsum(-1),
    "quantile of features": lambda z: torch.quantile(z, 0.3, dim=-1),
    "fourier": lambda z: torch.fft.rfft(z).abs(),
    "complex": lambda z: torch.view_as_real(torch.complex(z, z))[..., 0],
    "attention inside rows": lambda z: F.scaled_dot_product_attention(*[z.reshape(ROWS, 2, 2)] * 3),
    "distances to centres": lambda z: torch.cdist(z, MATRIX.t()),
    "convolution": lambda z: CONV(z.reshape(ROWS, 1, 2, 2)),
    "lstm over time": lambda z: LSTM(z.reshape(ROWS, 2, 2))[0],
    "lstm cell": lambda z: CELL(z)[1],
    "gru over time": lambda z: GRU(z.reshape(ROWS, 2, 2))[0],
    "transformer": lambda z: ENCODER(z.reshape(ROWS, 2, 2)),
    "interpolated": lambda z: F.interpolate(z.unsqueeze(1), scale_factor=2.0),
    "padded": lambda z: F.pad(z, (1, 1)),
    "losses": lambda z: F.binary_cross_entropy_with_logits(z, torch.ones(ROWS, WIDTH), reduction="none"),
    "cross entropy": lambda z: F.cross_entropy(z, torch.zeros(ROWS, dtype=torch.long), reduction="none"),
    "gradient inside": lambda z: torch.func.grad(lambda v: (v**3).sum())(z),
} | {name: network for name, network in NETWORKS.items()}
TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "a closed gate": lambda z: torch.where(OFF > 0.5, z.mean(), z),
    "a weight of zero": lambda z: z + OFF * z.sum(),
    "less the mean": lambda z: z - z.mean(0),
    "shifted": lambda z: z.roll(1, 0),
    "only if nought": lambda z: torch.where(OFF == 0, z, z.roll(1, 0)),
    "running sum": lambda z: z.cumsum(0),
    "sorted": lambda z: z.sort(0).values,
    "the order of rows": lambda z: z[z[:, 0].argsort()],
    "softmax over rows": lambda z: F.softmax(z, 0),
    "attention over rows": lambda z: F.softmax(z @ z.t(), -1) @ z,
    "batch norm in training": nn.BatchNorm1d(WIDTH),
    "written beside": _written_beside,
    "first row moves the fourth": lambda z: z[:1] * (torch.arange(ROWS) == 3).unsqueeze(-1),
    "the largest": lambda z: z + z.amax(),
    "transposed wrongly": lambda z: z.reshape(WIDTH, ROWS).t(),
    "a square matrix": lambda z: torch.ones(ROWS, ROWS) @ z,
    "solved together": lambda z: torch.linalg.solve(torch.eye(ROWS), z),
    "nonlinear norm": lambda z: z / z.norm(),
    "neighbours": lambda z: F.conv1d(z.t().unsqueeze(1), torch.ones(1, 1, 3), padding=1).squeeze(1).t(),
    "unfolded": lambda z: F.pad(z, (0, 0, 1, 1)).unfold(0, 3, 1).sum(-1),
    "masked by position": lambda z: z.masked_fill(z.sum() > 0, 0.0),
    "put at its place": lambda z: torch.zeros(ROWS, WIDTH).index_put((torch.arange(ROWS).flip(0),), z),
    "gathered at constant rows": lambda z: z.gather(0, torch.zeros(ROWS, WIDTH, dtype=torch.long)),
    "scattered": lambda z: torch.zeros(ROWS, WIDTH).scatter(
        0, torch.arange(ROWS).flip(0).unsqueeze(-1).expand(-1, WIDTH), z
    ),
    "an operation of no name": lambda z: torch.histc(z, 5).sum() + z,
}


@pytest.mark.parametrize("name", APART)
def test_rows_that_keep_apart_are_proved_to(name: str) -> None:
    assert not mixes(APART[name], rows())


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_meet_are_never_missed(name: str) -> None:
    assert mixes(TOGETHER[name], rows())


TABLE = torch.randn(WIDTH, 3)
CHOSEN: dict[str, Callable[[Tensor], Tensor]] = {
    "a table": lambda k: TABLE[k],
    "a table's column": lambda k: TABLE.t()[:, k].t(),
    "embedding": lambda k: F.embedding(k, TABLE),
    "gathered": lambda k: torch.ones(ROWS, WIDTH).gather(1, k.unsqueeze(-1)).squeeze(-1),
    "row and column": lambda k: torch.ones(ROWS, WIDTH)[torch.arange(ROWS), k],
    "one hot": lambda k: F.one_hot(k, WIDTH).float() @ TABLE,
    "selected": lambda k: TABLE.index_select(0, k),
    "scattered along features": lambda k: torch.zeros(ROWS, WIDTH).scatter(1, k.unsqueeze(-1), 1.0),
    "compared": lambda k: (k.unsqueeze(-1) == torch.arange(WIDTH)).float() @ TABLE,
    "searched": lambda k: torch.searchsorted(torch.arange(WIDTH), k),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_an_index_of_a_latent_stays_in_its_row(name: str) -> None:
    assert not mixes(CHOSEN[name], whole_rows())


@pytest.mark.parametrize(
    "function", [lambda k: torch.ones(ROWS)[k], lambda k: torch.arange(ROWS)[k]], ids=["constant rows", "numbers"]
)
def test_a_latent_that_chooses_among_constant_rows_stays_in_its_row(function: Any) -> None:
    assert not mixes(function, whole_rows())


@pytest.mark.parametrize(
    "function",
    [lambda k: k[k], lambda k: torch.zeros(ROWS).scatter(0, k, 1.0), lambda k: torch.bincount(k, minlength=ROWS)],
    ids=["itself", "a scatter over rows", "counts"],
)
def test_a_latent_that_chooses_another_row_reaches_it(function: Any) -> None:
    assert mixes(function, whole_rows())


def _flow(z: Tensor) -> Any:
    flow = dist.transforms.affine_autoregressive(3, hidden_dims=[4])
    return dist.TransformedDistribution(dist.Normal(z[:, :3], 1.0).to_event(1), [flow])


DISTRIBUTIONS: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "normal": (lambda z: dist.Normal(z[:, 0], z[:, 1].exp()), torch.zeros(ROWS)),
    "to event": (lambda z: dist.Normal(z, 1.0).to_event(1), torch.zeros(ROWS, WIDTH)),
    "multivariate normal": (
        lambda z: dist.MultivariateNormal(z, EYE + torch.diag_embed(z.exp())),
        torch.zeros(ROWS, WIDTH),
    ),
    "low rank": (
        lambda z: dist.LowRankMultivariateNormal(z, z.unsqueeze(-1), z.exp()),
        torch.zeros(ROWS, WIDTH),
    ),
    "categorical": (lambda z: dist.Categorical(logits=z), torch.zeros(ROWS)),
    "one hot": (lambda z: dist.OneHotCategorical(logits=z), F.one_hot(whole_rows(), WIDTH).float()),
    "bernoulli": (lambda z: dist.Bernoulli(logits=z[:, 0]), torch.ones(ROWS)),
    "gamma": (lambda z: dist.Gamma(z[:, 0].exp(), z[:, 1].exp()), torch.ones(ROWS)),
    "beta": (lambda z: dist.Beta(z[:, 0].exp(), z[:, 1].exp()), torch.full((ROWS,), 0.3)),
    "dirichlet": (lambda z: dist.Dirichlet(z.exp()), torch.full((ROWS, WIDTH), 0.25)),
    "poisson": (lambda z: dist.Poisson(z[:, 0].exp()), torch.ones(ROWS)),
    "binomial": (lambda z: dist.Binomial(5, logits=z[:, 0]), torch.ones(ROWS)),
    "negative binomial": (lambda z: dist.NegativeBinomial(5.0, logits=z[:, 0]), torch.ones(ROWS)),
    "multinomial": (lambda z: dist.Multinomial(3, logits=z), torch.tensor([1.0, 1, 1, 0]).expand(ROWS, WIDTH)),
    "mixture": (
        lambda z: dist.MixtureSameFamily(dist.Categorical(logits=z), dist.Normal(z, 1.0)),
        torch.zeros(ROWS),
    ),
    "masked mixture": (
        lambda z: dist.MaskedMixture(z[:, 0] > 0, dist.Normal(z[:, 0], 1.0), dist.Laplace(z[:, 1], 1.0)),
        torch.zeros(ROWS),
    ),
    "log normal": (lambda z: dist.LogNormal(z[:, 0], 1.0), torch.ones(ROWS)),
    "affine": (
        lambda z: dist.TransformedDistribution(
            dist.Normal(z[:, 0], 1.0),
            [dist.transforms.AffineTransform(z[:, 1], z[:, 2].exp()), dist.transforms.SigmoidTransform()],
        ),
        torch.full((ROWS,), 0.3),
    ),
    "flow": (_flow, torch.zeros(ROWS, 3)),
    "LKJ": (lambda z: dist.LKJCholesky(3, z[:, 0].exp()), torch.eye(3).expand(ROWS, 3, 3)),
    "von Mises": (lambda z: dist.VonMises(z[:, 0], z[:, 1].exp()), torch.zeros(ROWS)),
    "Student": (lambda z: dist.StudentT(z[:, 0].exp(), z[:, 1]), torch.zeros(ROWS)),
    "Delta": (lambda z: dist.Delta(z[:, 0]), torch.zeros(ROWS)),
    "zero-inflated": (lambda z: dist.ZeroInflatedPoisson(z[:, 0].exp(), gate_logits=z[:, 1]), torch.zeros(ROWS)),
    "ordered logistic": (lambda z: dist.OrderedLogistic(z[:, 0], z.sort(-1).values), torch.ones(ROWS)),
    "hidden Markov": (
        lambda z: dist.DiscreteHMM(z, torch.zeros(WIDTH, WIDTH), dist.Normal(z.unsqueeze(1), 1.0), duration=5),
        torch.zeros(ROWS, 5),
    ),
    "Gaussian hidden Markov": (
        lambda z: dist.GaussianHMM(
            dist.Normal(z, 1.0).to_event(1),
            EYE,
            dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1),
            EYE[:, :2],
            dist.Normal(torch.zeros(2), 1.0).to_event(1),
            duration=5,
        ),
        torch.zeros(ROWS, 5, 2),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_librarys_density_keeps_rows_apart(name: str) -> None:
    make, value = DISTRIBUTIONS[name]
    assert not mixes(lambda z: make(z).log_prob(value), rows())


def test_two_plates_are_told_apart() -> None:
    with Tracker() as tracker:
        z = tracker.source("z", torch.randn(3, 70))
        tracker.words.mark(z, "rows", "rows", -2)
        tracker.words.mark(z, "columns", "columns", -1)
        plates = {"rows": -2, "columns": -1}
        assert not tracker.words.strays([z * 2], plates)
        assert {plate for _, plate in tracker.words.strays([z - z.mean(-1, keepdim=True)], plates)} == {"columns"}
        assert {plate for _, plate in tracker.words.strays([z - z.mean(-2)], plates)} == {"rows"}


def test_a_thousand_rows_take_little_time() -> None:
    network = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))
    z = torch.randn(1000, 20)
    mixes(network, z)
    start = time.perf_counter()
    assert not mixes(lambda z: dist.Bernoulli(logits=network(z)).to_event(1).log_prob(torch.ones(1000, 784)), z)
    assert time.perf_counter() - start < 2.0
