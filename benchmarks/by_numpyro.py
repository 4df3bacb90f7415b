"""NumPyro's own SVI in one jitted scan: Trace_ELBO for the VAE, TraceGraph_ELBO (it has no baselines) for the net."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from by_jax import timed
from numpyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from workloads import LEARNING_RATE, Weights, Workload, batches

Array = Any


def affine(first: Weights, name: str, inputs: Array) -> Array:
    """The map of this name."""
    weight = numpyro.param(f"{name}.weight", first[f"{name}.weight"])
    return inputs @ weight + numpyro.param(f"{name}.bias", first[f"{name}.bias"])


def vae_model(first: Weights, x: Array) -> None:
    """p(z) p(x | z)."""
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(20), jnp.ones(20)).to_event(1))
        logits = affine(first, "decoder.1", jax.nn.softplus(affine(first, "decoder.0", z)))
        numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def vae_guide(first: Weights, x: Array) -> None:
    """q(z | x)."""
    hidden = jax.nn.softplus(affine(first, "encoder.0", x))
    with numpyro.plate("data", len(x)):
        scale = jax.nn.softplus(affine(first, "encoder.scale", hidden))
        numpyro.sample("z", dist.Normal(affine(first, "encoder.loc", hidden), scale).to_event(1))


def net_model(first: Weights, x: Array) -> None:
    """p(h2) p(h1 | h2) p(x | h1)."""
    with numpyro.plate("data", len(x)):
        h2 = _signs("h2", numpyro.param("top.bias", jnp.zeros(200)))
        h1 = _signs("h1", affine(first, "decoder.1", h2))
        numpyro.sample("x", dist.Bernoulli(logits=affine(first, "decoder.0", h1)).to_event(1), obs=x)


def net_guide(first: Weights, x: Array) -> None:
    """q(h1 | x) q(h2 | h1)."""
    with numpyro.plate("data", len(x)):
        _signs("h2", affine(first, "encoder.1", _signs("h1", affine(first, "encoder.0", x))))


def _signs(name: str, logits: Array) -> Array:
    return 2 * numpyro.sample(name, dist.Bernoulli(logits=logits).to_event(1)).astype(jnp.float32) - 1


class Contender:
    """SVI, from new weights in each round; see `step_time.Contender`."""

    def __init__(self, workload: Workload, x: Any, seed: int) -> None:
        self._workload, self._x, self._seed = workload, jnp.asarray(x), seed
        first = workload.initial(seed)
        model, guide, elbo = (
            (vae_model, vae_guide, Trace_ELBO())
            if workload.name == "vae"
            else (net_model, net_guide, TraceGraph_ELBO())
        )
        self._svi = SVI(partial(model, first), partial(guide, first), numpyro.optim.Adam(LEARNING_RATE), elbo)
        self._many = jax.jit(self._scan)

    def _scan(self, state: Any, x: Array, rows: Array) -> tuple[Any, Array]:
        return jax.lax.scan(lambda state, rows: self._svi.update(state, x[rows]), state, rows)

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """(seconds before the first timed step, seconds per step, loss per row in nats)."""
        begin, batch = perf_counter(), self._workload.batch
        state = self._svi.init(jax.random.key(self._seed), self._x[:batch])
        order = batches(len(self._x), batch, self._seed)
        found = timed(lambda state, rows: self._many(state, self._x, rows), state, order, begin, warm, steps)
        return found[0], found[1], found[2] / batch
