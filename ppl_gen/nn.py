"""Portable layers: plain functions of `param` statements, the same weights on both backends for one seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ppl_gen.language import active, initial_generator, param, xp
from ppl_gen.program.arrays import Array


def linear(name: str, inputs: Array, size: int, *, scale: float = 1.0, bias: ArrayLike = 0.0) -> Array:
    """Affine map ``inputs @ weight + bias`` with parameters ``name.weight`` (in, out) and ``name.bias`` (out,).

    Args:
        name: prefix of both parameters.
        inputs: shape (..., in).
        size: number of outputs.
        scale: multiplies the initial weights, which are normal with variance 1 / in.
        bias: initial bias, a number or an array (out,).

    Returns:
        Shape (..., size).
    """

    def initial_weight() -> Array:
        draw = initial_generator(f"{name}.weight").standard_normal((width, size))
        return xp.asarray((scale / np.sqrt(max(width, 1)) * draw).astype(np.float32), dtype=inputs.dtype)

    def initial_bias() -> Array:
        start = np.broadcast_to(np.asarray(bias, dtype=np.float32), (size,))
        return xp.asarray(start.copy(), dtype=inputs.dtype)

    width = inputs.shape[-1]
    weight = param(f"{name}.weight", initial_weight)
    return xp.matmul(inputs, weight) + param(f"{name}.bias", initial_bias)


def mlp(
    name: str, inputs: Array, hidden: Sequence[int], size: int, *, activation: Callable[[Array], Array] | None = None
) -> Array:
    """Multilayer perceptron: linear layers ``name.0``, ``name.1``, ... with `activation` between them.

    Args:
        name: prefix of all parameters.
        inputs: shape (..., in).
        hidden: widths of the hidden layers; empty means one linear layer.
        size: number of outputs.
        activation: function of an array; None means softplus, which is smooth.

    Returns:
        Shape (..., size), without a final activation.
    """
    activation = activation or active(f"mlp '{name}'").xp.softplus
    for depth, width in enumerate(hidden):
        inputs = activation(linear(f"{name}.{depth}", inputs, width))
    return linear(f"{name}.{len(hidden)}", inputs, size)
