"""Loops written by hand in JAX: one jitted scan, with the data on the device."""

from __future__ import annotations

from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from workloads import BASELINE_DECAY, BASELINE_UNITS, LEARNING_RATE, Workload, batches

Array = Any


def affine(params: Any, name: str, inputs: Array) -> Array:
    """The map of this name."""
    return inputs @ params[f"{name}.weight"] + params[f"{name}.bias"]


def bits(logits: Array, values: Array) -> Array:
    """Log-probability of the bits of each row, shape (rows,)."""
    return jnp.sum(values * logits - jax.nn.softplus(logits), axis=-1)


def vae(params: Any, averages: Any, key: Array, x: Array) -> tuple[Array, Any]:
    """(surrogate, (minus the bound in nats per row, averages))."""
    hidden = jax.nn.softplus(affine(params, "encoder.0", x))
    loc, scale = affine(params, "encoder.loc", hidden), jax.nn.softplus(affine(params, "encoder.scale", hidden))
    noise = jax.random.normal(key, loc.shape)
    z = loc + scale * noise
    log_prior_ratio = jnp.sum(-0.5 * z**2 + 0.5 * noise**2 + jnp.log(scale), axis=-1)
    logits = affine(params, "decoder.1", jax.nn.softplus(affine(params, "decoder.0", z)))
    loss = -jnp.mean(bits(logits, x) + log_prior_ratio)
    return loss, (loss, averages)


def advantage(params: Any, name: str, averages: Array, signal: Array, features: Array) -> tuple[Array, Array, Array]:
    """(signal minus baseline, loss of the baseline, new averages): see `by_torch.Baseline`."""
    mean, square, mass = averages
    mass = jnp.where(mass > 0, mass, 1.0)
    mean, variance = mean / mass, square / mass - (mean / mass) ** 2
    spread = jnp.sqrt(jnp.where(variance > 1e-8, variance, 1.0))
    output = affine(params, f"{name}.second", jnp.tanh(affine(params, f"{name}.first", features)))[..., 0]
    error = (signal - mean) / spread - output
    new = jnp.stack([jnp.mean(signal), jnp.mean(signal * signal), jnp.ones(())])
    moved = BASELINE_DECAY * averages + (1 - BASELINE_DECAY) * new
    return signal - mean - spread * jax.lax.stop_gradient(output), jnp.mean(error * error), moved


def belief_net(params: Any, averages: Any, key: Array, x: Array) -> tuple[Array, Any]:
    """(surrogate, (minus the bound in nats per row, averages)); as `by_torch.belief_net`."""
    stop, key1, key2 = jax.lax.stop_gradient, *jax.random.split(key)
    logits1 = affine(params, "encoder.0", x)
    h1 = jax.random.bernoulli(key1, jax.nn.sigmoid(stop(logits1))).astype(jnp.float32)
    logits2 = affine(params, "encoder.1", 2 * h1 - 1)
    h2 = jax.random.bernoulli(key2, jax.nn.sigmoid(stop(logits2))).astype(jnp.float32)
    log_q1, log_q2 = bits(logits1, h1), bits(logits2, h2)
    log_x, log_h1 = bits(affine(params, "decoder.0", 2 * h1 - 1), x), bits(affine(params, "decoder.1", 2 * h2 - 1), h1)
    log_h2 = bits(params["top.bias"], h2)
    total, upper = stop(log_x + log_h1 + log_h2 - log_q1 - log_q2), stop(log_h1 + log_h2 - log_q2)
    gap1, loss1, first = advantage(params, "baseline.1", averages[0], total, stop(logits1))
    gap2, loss2, second = advantage(params, "baseline.2", averages[1], upper, stop(logits2))
    surrogate = -jnp.mean(log_x + log_h1 + log_h2 + log_q1 * gap1 + log_q2 * gap2)
    return surrogate + loss1 + loss2, (-jnp.mean(total), jnp.stack([first, second]))


LOSSES = {"vae": vae, "belief_net": belief_net}


def initial(workload: Workload, seed: int) -> dict[str, Array]:
    """First weights, those of the baselines included."""
    params = dict(workload.initial(seed))
    if workload.name == "belief_net":
        params["top.bias"] = np.zeros(200, np.float32)
        for name in ("baseline.1", "baseline.2"):
            first = np.random.default_rng(seed).standard_normal((200, BASELINE_UNITS)) / np.sqrt(200)
            params |= {f"{name}.first.weight": first, f"{name}.first.bias": np.zeros(BASELINE_UNITS)}
            params |= {f"{name}.second.weight": np.zeros((BASELINE_UNITS, 1)), f"{name}.second.bias": np.zeros(1)}
    return {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}


class Contender:
    """The loop, from new weights in each round; see `step_time.Contender`."""

    def __init__(self, workload: Workload, x: Any, seed: int) -> None:
        self._workload, self._x, self._seed = workload, jnp.asarray(x), seed
        self._adam, self._many = optax.adam(LEARNING_RATE), jax.jit(self._scan)

    def _scan(self, state: Any, x: Array, rows: Array) -> tuple[Any, Array]:
        return jax.lax.scan(partial(self._step, x), state, rows)

    def _step(self, x: Array, state: Any, rows: Array) -> tuple[Any, Array]:
        params, moments, averages, key = state
        key, now = jax.random.split(key)
        loss = jax.grad(LOSSES[self._workload.name], has_aux=True)
        gradient, (value, averages) = loss(params, averages, now, x[rows])
        updates, moments = self._adam.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments, averages, key), value

    def run(self, warm: int, steps: int) -> tuple[float, float, float]:
        """(seconds before the first timed step, seconds per step, loss per row in nats)."""
        begin = perf_counter()
        params = initial(self._workload, self._seed)
        state = (params, self._adam.init(params), jnp.zeros((2, 3)), jax.random.key(self._seed))
        order = batches(len(self._x), self._workload.batch, self._seed)
        return timed(lambda state, rows: self._many(state, self._x, rows), state, order, begin, warm, steps)


def timed(many: Any, state: Any, order: Any, begin: float, warm: int, steps: int) -> tuple[float, float, float]:
    """Chunks of `warm` steps, the first of them (and its compilation) apart; `warm` divides `steps`."""
    state, losses = many(state, jnp.asarray(np.stack(list(islice(order, warm)))))
    losses.block_until_ready()
    start, found = perf_counter(), []
    for _ in range(steps // warm):
        state, losses = many(state, jnp.asarray(np.stack(list(islice(order, warm)))))
        found.append(np.asarray(losses))
    return start - begin, (perf_counter() - start) / steps, float(np.concatenate(found).mean())
