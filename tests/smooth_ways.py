"""Ways from a normal latent to the data that are continuous, though a list of operations may not show it.

`MEANS`: name -> backend -> the mean of an observation as a function of a scalar latent; `PROGRAMS`: name -> backend -> whole
programs (model, guide, data) whose latents are all pathwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as nd
import pyro
import pyro.distributions as pd
import torch
from jax.experimental.ode import odeint
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LatentStableReparam, StableReparam
from torch import nn

Means = dict[str, Callable[[Any], Any]]
Triple = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]
PLACES, HEIGHTS = [-1.0, 0.0, 2.0], [0.5, -1.0, 1.5]


def seeded(make: Callable[[], Any]) -> Any:
    """A network of fixed first weights; the global random state stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


CLAMP = sys.modules[
    affine_autoregressive.__module__
].clamp_preserve_gradients  # the name of a function hides its module
CELL = seeded(lambda: nn.LSTMCell(2, 3))
LSTM = seeded(lambda: nn.LSTM(2, 3, batch_first=True))
GRU = seeded(lambda: nn.GRU(2, 3))


def torch_argsort(z: Any) -> Any:
    v = torch.stack([z, 0.3 + 0 * z, -z])
    return v[v.argsort()] @ torch.tensor([1.0, -2.0, 0.5])


def jax_argsort(z: Any) -> Any:
    v = jnp.stack([z, 0.3 + 0 * z, -z])
    return v[jnp.argsort(v)] @ jnp.array([1.0, -2.0, 0.5])


def along_axis(z: Any) -> Any:
    v = torch.stack([z, 0.3 + 0 * z, -z])
    return torch.gather(v, 0, torch.argsort(v, descending=True)) @ torch.tensor([1.0, -2.0, 0.5])


def jax_along_axis(z: Any) -> Any:
    v = jnp.stack([z, 0.3 + 0 * z, -z])
    return jnp.take_along_axis(v, jnp.argsort(-v), axis=0) @ jnp.array([1.0, -2.0, 0.5])


def cell(z: Any) -> Any:
    h, c = CELL(torch.stack([z, -z])[None])
    h, _ = CELL(torch.stack([z, z])[None], (h, c))
    return h.sum()


def spring(z: Any) -> Any:
    """The position at time one of a damped spring that starts at z."""
    path = odeint(lambda y, t: jnp.array([y[1], -y[0] - 0.1 * y[1]]), jnp.array([z, 0.0]), jnp.array([0.0, 1.0]))
    return path[-1, 0]


MEANS: dict[str, Means] = {
    "kink by where": {
        "torch": lambda z: torch.where(z > 0, z, 0 * z),
        "jax": lambda z: jnp.where(z > 0, z, 0 * z),
    },
    "kink by where, two slopes": {
        "torch": lambda z: torch.where(z >= 0, 2 * z, -0.5 * z),
        "jax": lambda z: jnp.where(z >= 0, 2 * z, -0.5 * z),
    },
    "product with its sign": {"torch": lambda z: z * (z > 0), "jax": lambda z: z * (z > 0)},
    "median": {
        "torch": lambda z: torch.quantile(torch.stack([z, -z, 0.5 + 0 * z]), 0.5),
        "jax": lambda z: jnp.quantile(jnp.stack([z, -z, 0.5 + 0 * z]), 0.5),
    },
    "quantile": {
        "torch": lambda z: torch.quantile(torch.stack([z, -z, 0.5 + 0 * z]), 0.3),
        "jax": lambda z: jnp.quantile(jnp.stack([z, -z, 0.5 + 0 * z]), 0.3),
    },
    "gather by argsort": {"torch": torch_argsort, "jax": jax_argsort},
    "gather along argsort": {"torch": along_axis, "jax": jax_along_axis},
    "sort": {
        "torch": lambda z: torch.sort(torch.stack([z, -z])).values @ torch.tensor([1.0, 2.0]),
        "jax": lambda z: jnp.sort(jnp.stack([z, -z])) @ jnp.array([1.0, 2.0]),
    },
    "interp": {"jax": lambda z: jnp.interp(z, jnp.array(PLACES), jnp.array(HEIGHTS))},
    "LSTMCell": {"torch": cell},
    "LSTM": {"torch": lambda z: LSTM(torch.stack([z, -z, z * z, z]).reshape(1, 2, 2))[0].sum()},
    "GRU": {"torch": lambda z: GRU(torch.stack([z, -z, z * z, z]).reshape(2, 1, 2))[0].sum()},
    "clamp that keeps gradients": {"torch": lambda z: CLAMP(z, -2.0, 3.0)},
    "odeint": {"jax": spring},
}


def torch_batch_norm() -> Triple:
    """A decoder with batch normalization, in training mode."""
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)))

    def model(x: Any) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pd.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", pd.Normal(net(z), 1.0).to_event(1), obs=x)

    return model, amortized, (torch.linspace(-1.0, 1.0, 12).reshape(4, 3),)


def amortized(x: Any) -> None:
    """Two latents per row."""
    with pyro.plate("data", len(x)):
        loc = pyro.param("loc", lambda: torch.full((len(x), 2), 0.3))
        pyro.sample("z", pd.Normal(loc, 0.5).to_event(1))


def jax_batch_norm() -> Triple:
    """The same by hand: each feature less its mean over the rows."""

    def model(x: Any) -> None:
        w = numpyro.param("w", jnp.array([[0.5, -1.0, 0.3], [1.0, 0.2, -0.4]]))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", nd.Normal(jnp.zeros(2), 1.0).to_event(1))
            h = z @ w
            h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
            numpyro.sample("x", nd.Normal(jax.nn.relu(h), 1.0).to_event(1), obs=x)

    def guide(x: Any) -> None:
        loc = numpyro.param("loc", jnp.full((len(x), 2), 0.3))
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", nd.Normal(loc, 0.5).to_event(1))

    return model, guide, (jnp.linspace(-1.0, 1.0, 12).reshape(4, 3),)


def autoregressive() -> Triple:
    """A guide pushed through Pyro's autoregressive flow, which clamps its scales and keeps their gradients."""
    flow = seeded(lambda: pd.transforms.affine_autoregressive(2, hidden_dims=[4]))

    def model(x: Any) -> None:
        z = pyro.sample("z", pd.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", pd.Normal(z.sum(), 1.0), obs=x)

    def guide(x: Any) -> None:
        pyro.module("flow", flow)
        base = pd.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1)
        pyro.sample("z", pd.TransformedDistribution(base, [flow]))

    return model, guide, (torch.tensor(0.7),)


def torch_ordered() -> Triple:
    """Ordered answers: a latent taste, and latent cut points in order."""

    def model(y: Any) -> None:
        taste = pyro.sample("taste", pd.Normal(0.0, 1.0))
        order = pd.transforms.OrderedTransform()
        cuts = pyro.sample("cuts", pd.TransformedDistribution(pd.Normal(torch.zeros(2), 1.0).to_event(1), [order]))
        with pyro.plate("data", len(y)):
            pyro.sample("y", pd.OrderedLogistic(taste, cuts), obs=y)

    def guide(y: Any) -> None:
        pyro.sample("taste", pd.Normal(pyro.param("m", torch.tensor(0.2)), 0.5))
        base = pd.Normal(pyro.param("c", torch.tensor([-0.5, 0.1])), 0.3).to_event(1)
        pyro.sample("cuts", pd.TransformedDistribution(base, [pd.transforms.OrderedTransform()]))

    return model, guide, (torch.tensor([0, 2, 1, 1]),)


def jax_ordered() -> Triple:
    """The same in NumPyro."""

    def model(y: Any) -> None:
        taste = numpyro.sample("taste", nd.Normal(0.0, 1.0))
        order = nd.transforms.OrderedTransform()
        cuts = numpyro.sample("cuts", nd.TransformedDistribution(nd.Normal(jnp.zeros(2), 1.0).to_event(1), order))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", nd.OrderedLogistic(taste, cuts), obs=y)

    def guide(y: Any) -> None:
        numpyro.sample("taste", nd.Normal(numpyro.param("m", jnp.array(0.2)), 0.5))
        base = nd.Normal(numpyro.param("c", jnp.array([-0.5, 0.1])), 0.3).to_event(1)
        numpyro.sample("cuts", nd.TransformedDistribution(base, nd.transforms.OrderedTransform()))

    return model, guide, (jnp.array([0, 2, 1, 1]),)


def stable(reparam: Any) -> Callable[[], Triple]:
    """A stable latent, rewritten by Pyro's own reparametrizer, with an automatic guide."""

    def build() -> Triple:
        def plain(x: Any) -> None:
            z = pyro.sample("z", pd.Stable(1.7, 0.2, 1.0, 0.3))
            pyro.sample("x", pd.Normal(z, 0.5), obs=x)

        model = poutine.reparam(plain, config={"z": reparam()})
        return model, seeded_guide(model, torch.tensor(0.7)), (torch.tensor(0.7),)

    return build


def seeded_guide(model: Any, *data: Any) -> Any:
    """An automatic guide that is set up."""
    guide = AutoNormal(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide(*data)
    return guide


def normals(name: str) -> tuple[str, ...]:
    """What the automatic guide draws for the two parts of a stable value."""
    return f"{name}_uniform_unconstrained", f"{name}_exponential_unconstrained"


PROGRAMS: dict[str, tuple[dict[str, Callable[[], Triple]], tuple[str, ...]]] = {
    "batch normalization": ({"torch": torch_batch_norm, "jax": jax_batch_norm}, ("z",)),
    "autoregressive flow": ({"torch": autoregressive}, ("z",)),
    "ordered answers": ({"torch": torch_ordered, "jax": jax_ordered}, ("taste", "cuts")),
    "StableReparam": ({"torch": stable(StableReparam)}, ("z_unconstrained", *normals("z_z"), *normals("z_t"))),
    "LatentStableReparam": ({"torch": stable(LatentStableReparam)}, normals("z")),
}
