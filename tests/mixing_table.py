"""Ways from the rows of a plate to one another's cost, and ways that keep the rows apart.

Each way makes the means of three rows, shape (3,), from bits z (3, 2) of that plate; `s` is a bit outside it, `w` a parameter that
starts at zero, `d` zeros of the data, shape (3,). What hides a mixing at first: a gate that is closed, a weight of zero, data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

Way = Callable[[Any, Any, Any, Any], Any]
TABLE = np.array([[0.3, -0.8], [1.1, 0.4]], np.float32)
SQUARE = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.3, 0.0, 1.0]], np.float32)
GROUPS = np.array([0, 0, 1])


@dataclass(frozen=True)
class Ways:
    """One way in each library's words; None where it has no such words.

    Attributes:
        torch: of (z, s, w, d).
        jax: of the same.
        mixes: whether an element's value can reach another element's mean, for any values at all.
    """

    torch: Way | None
    jax: Way | None
    mixes: bool

    @property
    def summed_plates(self) -> frozenset[str]:
        """What the plan must say on both backends."""
        return frozenset({"data"} if self.mixes else ())


def alike(way: Callable[..., Any], mixes: bool) -> Ways:
    """A way whose text is the same on both: `way(xp, z, s, w, d)`."""
    return Ways(lambda *a: way(torch, *a), lambda *a: way(jnp, *a), mixes)


def constant(xp: Any, values: Any) -> Any:
    """Made in the run from plain numbers: to torch's reading an array of NumPy's may be data, other ones in the next run."""
    return torch.tensor(np.asarray(values).tolist()) if xp is torch else jnp.array(values)


def t_added(z: Any, s: Any, w: Any, d: Any) -> Any:
    out = z[:, 0].clone()
    out[1:] += z[:-1, 1]
    return out


def t_put(z: Any, s: Any, w: Any, d: Any) -> Any:
    places = (torch.arange(3) + s.long()) % 3
    return torch.zeros(3).index_put((places,), z[:, 0])


def t_by_row(z: Any, s: Any, w: Any, d: Any) -> Any:
    rows = []
    before = torch.zeros(())
    for i in range(3):
        before = 0.5 * before + z[i, 0]
        rows.append(before)
    return torch.stack(rows)


def j_by_row(z: Any, s: Any, w: Any, d: Any) -> Any:
    rows = []
    before = jnp.zeros(())
    for i in range(3):
        before = 0.5 * before + z[i, 0]
        rows.append(before)
    return jnp.stack(rows)


def t_lstm(rows_first: bool) -> Way:
    """Rows as time steps, or as the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.LSTM(1 if rows_first else 2, 2, batch_first=rows_first)

    def way(z: Any, s: Any, w: Any, d: Any) -> Any:
        if rows_first:
            return net(z[:, :, None])[0][:, -1].sum(-1)
        return net(z[:, None, :])[0][:, 0].sum(-1)

    return way


def t_columns(z: Any, s: Any, w: Any, d: Any) -> Any:
    out = torch.zeros(3, 2)
    out[:, 1] = z[:, 0]
    out[:, 0] -= z[:, 1]
    return out.sum(-1)


def t_no_norm(z: Any, s: Any, w: Any, d: Any) -> Any:
    return F.batch_norm(z, torch.zeros(2), torch.ones(2), training=False).sum(-1)


MIXING: dict[str, Ways] = {
    "a gate before the mean": alike(lambda xp, z, s, w, d: xp.where(s > 0.5, z.mean(), z[:, 0]), True),
    "a gate before a shift": alike(lambda xp, z, s, w, d: xp.where(s > 0.5, xp.roll(z[:, 0], 1), z[:, 0]), True),
    "a gate as a factor": alike(lambda xp, z, s, w, d: s * z.sum() + (1 - s) * z[:, 0], True),
    "a gate before a softmax": Ways(
        lambda z, s, w, d: torch.where(s > 0.5, z.softmax(0), z)[:, 0],
        lambda z, s, w, d: jnp.where(s > 0.5, jax.nn.softmax(z, axis=0), z)[:, 0],
        True,
    ),
    "a gate before flip": alike(lambda xp, z, s, w, d: xp.where(s > 0.5, xp.flip(z, (0,)), z)[:, 0], True),
    "a conditional": Ways(
        None, lambda z, s, w, d: jax.lax.cond(s > 0.5, lambda v: v[::-1, 0], lambda v: v[:, 0], z), True
    ),
    "a switch": Ways(
        None, lambda z, s, w, d: jax.lax.switch(s.astype(int), [lambda v: v[:, 0], lambda v: v[::-1, 0]], z), True
    ),
    "a gate of its own row": alike(lambda xp, z, s, w, d: xp.where(z[:, 1] > 0.5, z[:, 0].sum(), z[:, 0]), True),
    "a weight that starts at zero": alike(lambda xp, z, s, w, d: z[:, 0] + w * z[:, 1].sum(), True),
    "a matrix that starts at one": alike(lambda xp, z, s, w, d: (xp.eye(3) + w * xp.ones((3, 3))) @ z[:, 0], True),
    "attention that starts at zero": Ways(
        lambda z, s, w, d: z[:, 0] + w * (torch.softmax(z @ z.T, -1) @ z)[:, 1],
        lambda z, s, w, d: z[:, 0] + w * (jax.nn.softmax(z @ z.T, -1) @ z)[:, 1],
        True,
    ),
    "zeros of the data": alike(lambda xp, z, s, w, d: z[:, 0] + d * z[:, 1].sum(), True),
    "a mask of the data": alike(lambda xp, z, s, w, d: xp.where(d > 0.5, z.mean(), z[:, 0]), True),
    "a shift by the data": Ways(
        lambda z, s, w, d: z[(torch.arange(3) + d.long()) % 3, 0],
        lambda z, s, w, d: z[(jnp.arange(3) + d.astype(int)) % 3, 0],
        True,
    ),
    "a shift by a latent": Ways(
        lambda z, s, w, d: z[(torch.arange(3) + s.long()) % 3, 0],
        lambda z, s, w, d: z[(jnp.arange(3) + s.astype(int)) % 3, 0],
        True,
    ),
    "an order by a latent": Ways(
        lambda z, s, w, d: z[torch.argsort(s * torch.tensor([2.0, 0.0, 1.0]) + torch.arange(3.0) * 0.1), 0],
        lambda z, s, w, d: z[jnp.argsort(s * jnp.array([2.0, 0.0, 1.0]) + jnp.arange(3.0) * 0.1), 0],
        True,
    ),
    "a gather by rows' own bits": Ways(
        lambda z, s, w, d: z[:, 0][z[:, 1].long()], lambda z, s, w, d: z[:, 0][z[:, 1].astype(int)], True
    ),
    "sorting": Ways(
        lambda z, s, w, d: torch.sort(z, dim=0).values[:, 0], lambda z, s, w, d: jnp.sort(z, axis=0)[:, 0], True
    ),
    "ranks": Ways(
        lambda z, s, w, d: torch.argsort(torch.argsort(z[:, 0])) * 0.1,
        lambda z, s, w, d: jnp.argsort(jnp.argsort(z[:, 0])) * 0.1,
        True,
    ),
    "the largest": alike(lambda xp, z, s, w, d: z[:, 0] - 0.1 * z.max(), True),
    "a running sum": alike(lambda xp, z, s, w, d: xp.cumsum(z[:, 0], 0), True),
    "a running product": alike(lambda xp, z, s, w, d: xp.cumprod(1 + z[:, 0], 0), True),
    "a running maximum": Ways(
        lambda z, s, w, d: torch.cummax(z, 0).values[:, 0], lambda z, s, w, d: jax.lax.cummax(z, 0)[:, 0], True
    ),
    "a running loop": Ways(t_by_row, j_by_row, True),
    "a scan over rows": Ways(
        None, lambda z, s, w, d: jax.lax.scan(lambda h, v: (h + v[0], h + v[1]), jnp.zeros(()), z)[1], True
    ),
    "rows as steps of an LSTM": Ways(t_lstm(False), None, True),
    "attention": Ways(
        lambda z, s, w, d: (torch.softmax(z @ z.T, -1) @ z)[:, 0],
        lambda z, s, w, d: (jax.nn.softmax(z @ z.T, -1) @ z)[:, 0],
        True,
    ),
    "fused attention": Ways(
        lambda z, s, w, d: F.scaled_dot_product_attention(z[None], z[None], z[None])[0, :, 0], None, True
    ),
    "batch statistics": alike(lambda xp, z, s, w, d: ((z - z.mean(0)) / (1 + xp.var(z, 0)))[:, 0], True),
    "batch normalization": Ways(
        lambda z, s, w, d: F.batch_norm(z, None, None, training=True, eps=1.0).sum(-1), None, True
    ),
    "vmap over features": Ways(
        lambda z, s, w, d: torch.vmap(lambda v: v - v.mean(), in_dims=1, out_dims=1)(z)[:, 0],
        lambda z, s, w, d: jax.vmap(lambda v: v - v.mean(), in_axes=1, out_axes=1)(z)[:, 0],
        True,
    ),
    "einsum over rows": alike(lambda xp, z, s, w, d: xp.einsum("nf,mf->n", z, z), True),
    "a matrix over rows": alike(lambda xp, z, s, w, d: constant(xp, SQUARE) @ z[:, 0], True),
    "means of groups": Ways(
        lambda z, s, w, d: torch.zeros(2).index_add(0, torch.as_tensor(GROUPS), z[:, 0])[torch.as_tensor(GROUPS)],
        lambda z, s, w, d: jax.ops.segment_sum(z[:, 0], jnp.asarray(GROUPS), 2)[jnp.asarray(GROUPS)],
        True,
    ),
    "scatter": Ways(
        lambda z, s, w, d: torch.zeros(3).scatter_add(0, torch.tensor([1, 1, 2]), z[:, 0]),
        lambda z, s, w, d: jnp.zeros(3).at[jnp.array([1, 1, 2])].add(z[:, 0]),
        True,
    ),
    "a write at places that a latent moves": Ways(
        t_put, lambda z, s, w, d: jnp.zeros(3).at[(jnp.arange(3) + s.astype(int)) % 3].set(z[:, 0]), True
    ),
    "a write in place": Ways(t_added, lambda z, s, w, d: z[:, 0].at[1:].add(z[:-1, 1]), True),
    "a view of another shape": alike(lambda xp, z, s, w, d: z.reshape(-1)[:3] + z.reshape(-1)[3:], True),
    "a transposed view": alike(lambda xp, z, s, w, d: z.T.reshape(3, 2)[:, 0], True),
    "a convolution over rows": Ways(
        lambda z, s, w, d: F.conv1d(z.T[None], torch.ones(1, 2, 3), padding=1)[0, 0],
        lambda z, s, w, d: jnp.convolve(z[:, 0], jnp.ones(3), mode="same"),
        True,
    ),
    "a norm over all": alike(lambda xp, z, s, w, d: z[:, 0] / xp.sqrt(1 + (z * z).sum()), True),
    "differences of rows": alike(lambda xp, z, s, w, d: (z[:, None, 0] - z[None, :, 0] > 0.5).sum(1) * 1.0, True),
    "a Fourier transform": alike(lambda xp, z, s, w, d: xp.fft.fft(z[:, 0]).real, True),
    "log of a sum over rows": Ways(
        lambda z, s, w, d: z[:, 0] - torch.logsumexp(z[:, 0], 0),
        lambda z, s, w, d: z[:, 0] - jax.nn.logsumexp(z[:, 0]),
        True,
    ),
    "the first row": alike(lambda xp, z, s, w, d: z[:, 0] * z[0, 1], True),
}

APART: dict[str, Ways] = {
    "a network per row": alike(
        lambda xp, z, s, w, d: (xp.tanh(z @ constant(xp, TABLE)) @ constant(xp, TABLE))[:, 0], False
    ),
    "a gate before a row's own": alike(lambda xp, z, s, w, d: xp.where(s > 0.5, z[:, 0], z[:, 1]), False),
    "a gate as a factor of a row's own": alike(lambda xp, z, s, w, d: s * z[:, 0] + w * z[:, 1] + d, False),
    "an embedding": Ways(
        lambda z, s, w, d: F.embedding(z[:, 0].long(), torch.as_tensor(TABLE)).sum(-1),
        lambda z, s, w, d: jnp.asarray(TABLE)[z[:, 0].astype(int)].sum(-1),
        False,
    ),
    "an entry of a table": Ways(
        lambda z, s, w, d: torch.as_tensor(TABLE)[z[:, 0].long(), z[:, 1].long()],
        lambda z, s, w, d: jnp.asarray(TABLE)[z[:, 0].astype(int), z[:, 1].astype(int)],
        False,
    ),
    "a gather along features": Ways(
        lambda z, s, w, d: torch.gather(z, 1, z[:, :1].long())[:, 0],
        lambda z, s, w, d: jnp.take_along_axis(z, z[:, :1].astype(int), axis=1)[:, 0],
        False,
    ),
    "one-hot": Ways(
        lambda z, s, w, d: F.one_hot(z[:, 0].long(), 2).float() @ torch.tensor([0.3, -0.8]),
        lambda z, s, w, d: jax.nn.one_hot(z[:, 0].astype(int), 2) @ jnp.array([0.3, -0.8]),
        False,
    ),
    "Cholesky per row": alike(
        lambda xp, z, s, w, d: xp.linalg.cholesky(xp.eye(2) + z[:, :, None] * z[:, None, :])[:, 1, 0], False
    ),
    "a solution per row": alike(
        lambda xp, z, s, w, d: xp.linalg.solve(xp.eye(2) + z[:, :, None] * z[:, None, :], z[:, :, None])[:, 0, 0], False
    ),
    "a determinant per row": alike(
        lambda xp, z, s, w, d: xp.linalg.det(xp.eye(2) + z[:, :, None] * z[:, None, :]), False
    ),
    "layer normalization": Ways(
        lambda z, s, w, d: F.layer_norm(z, (2,), eps=1.0)[:, 0],
        lambda z, s, w, d: ((z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1.0))[:, 0],
        False,
    ),
    "softmax over features": Ways(
        lambda z, s, w, d: z.softmax(-1)[:, 0], lambda z, s, w, d: jax.nn.softmax(z, axis=-1)[:, 0], False
    ),
    "log of a sum over features": Ways(
        lambda z, s, w, d: torch.logsumexp(z, 1), lambda z, s, w, d: jax.nn.logsumexp(z, axis=1), False
    ),
    "a permutation and back": alike(
        lambda xp, z, s, w, d: z[constant(xp, np.array([2, 0, 1]))][constant(xp, np.array([1, 2, 0]))][:, 0], False
    ),
    "flip and back": alike(lambda xp, z, s, w, d: xp.flip(xp.tanh(xp.flip(z, (0,))), (0,))[:, 0], False),
    "shift and back": alike(lambda xp, z, s, w, d: xp.roll(xp.roll(z[:, 0], 1), -1), False),
    "flattened and back": alike(lambda xp, z, s, w, d: xp.tanh(z.reshape(-1)).reshape(3, 2)[:, 0], False),
    "transposed and back": alike(lambda xp, z, s, w, d: (2 * z.T).T[:, 0], False),
    "axes more and less": alike(lambda xp, z, s, w, d: (z[:, None, :, None] + z[:, :, None, None])[:, 0, 0, 0], False),
    "a convolution per row": Ways(
        lambda z, s, w, d: F.conv1d(z[:, None], torch.ones(1, 1, 2))[:, 0, 0],
        lambda z, s, w, d: jax.lax.conv(z[:, None], jnp.ones((1, 1, 2)), (1,), "VALID")[:, 0, 0],
        False,
    ),
    "vmap over rows": Ways(
        lambda z, s, w, d: torch.vmap(lambda v: (v - v.mean()).abs().sum())(z),
        lambda z, s, w, d: jax.vmap(lambda v: jnp.abs(v - v.mean()).sum())(z),
        False,
    ),
    "einsum per row": alike(lambda xp, z, s, w, d: xp.einsum("nf,fg,ng->n", z, constant(xp, TABLE), z), False),
    "a product of matrices per row": alike(lambda xp, z, s, w, d: (z[:, None, :] @ z[:, :, None])[:, 0, 0], False),
    "sorting features": Ways(
        lambda z, s, w, d: torch.sort(z, dim=1).values[:, 0], lambda z, s, w, d: jnp.sort(z, axis=1)[:, 0], False
    ),
    "a running sum over features": alike(lambda xp, z, s, w, d: xp.cumsum(z, 1)[:, 1], False),
    "a shift of features": alike(lambda xp, z, s, w, d: xp.roll(z, 1, 1)[:, 0], False),
    "features chosen by place": alike(lambda xp, z, s, w, d: z[:, constant(xp, np.array([1, 0]))][:, 0], False),
    "features written in place": Ways(
        t_columns, lambda z, s, w, d: jnp.zeros((3, 2)).at[:, 1].set(z[:, 0]).at[:, 0].add(-z[:, 1]).sum(-1), False
    ),
    "rows one by one": alike(lambda xp, z, s, w, d: xp.stack([xp.tanh(z[i]).sum() for i in range(3)]), False),
    "parts joined along features": Ways(
        lambda z, s, w, d: torch.cat([z[:, 1:], z[:, :1]], 1)[:, 0],
        lambda z, s, w, d: jnp.concatenate([z[:, 1:], z[:, :1]], 1)[:, 0],
        False,
    ),
    "rows as the batch of an LSTM": Ways(t_lstm(True), None, False),
    "a scan over features": Ways(
        None, lambda z, s, w, d: jax.lax.scan(lambda h, v: (jnp.tanh(h + v), h), jnp.zeros(3), z.T)[0], False
    ),
    "a loop that shifts nothing": Ways(
        None, lambda z, s, w, d: jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h + z[:, 0]), jnp.zeros(3)), False
    ),
    "normalization by running statistics": Ways(t_no_norm, None, False),
    "attention over features": Ways(
        lambda z, s, w, d: (torch.softmax(z[:, :, None] * z[:, None, :], -1) @ z[:, :, None])[:, 0, 0],
        lambda z, s, w, d: (jax.nn.softmax(z[:, :, None] * z[:, None, :], -1) @ z[:, :, None])[:, 0, 0],
        False,
    ),
    "a sum of the data": alike(lambda xp, z, s, w, d: z[:, 0] + d.sum() + w * d.mean(), False),
}

WAYS: dict[str, Ways] = {**MIXING, **APART}
