"""A deep latent-variable model whose layers are of several kinds: binary, Gaussian, categorical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from ppl_gen.language import Distribution, dist, plate, sample, xp
from ppl_gen.models.pixels import Pixels, whole
from ppl_gen.nn import linear
from ppl_gen.program.arrays import Array


@dataclass(frozen=True)
class Binary:
    """A layer of `size` Bernoulli units."""

    size: int

    def distribution(self, name: str, inputs: Array) -> Distribution:
        """Given the layer above (or below), shape (rows, inputs)."""
        return dist.Bernoulli(logits=linear(f"{name}.logits", inputs, self.size)).to_event(1)

    def features(self, value: Array) -> Array:
        """The layer's values as floats, shape (rows, features)."""
        return xp.astype(value, xp.float32)


@dataclass(frozen=True)
class Gaussian:
    """A layer of `size` normal units with learned means and standard deviations."""

    size: int

    def distribution(self, name: str, inputs: Array) -> Distribution:
        """Given the layer above (or below), shape (rows, inputs)."""
        loc = linear(f"{name}.loc", inputs, self.size)
        return dist.Normal(loc, xp.softplus(linear(f"{name}.scale", inputs, self.size, bias=0.5))).to_event(1)

    def features(self, value: Array) -> Array:
        """The layer's values, shape (rows, features)."""
        return value


@dataclass(frozen=True)
class Categories:
    """A layer of `size` units with `levels` values each."""

    size: int
    levels: int

    def distribution(self, name: str, inputs: Array) -> Distribution:
        """Given the layer above (or below), shape (rows, inputs)."""
        logits = linear(f"{name}.logits", inputs, self.size * self.levels)
        return dist.Categorical(logits=xp.reshape(logits, (-1, self.size, self.levels))).to_event(1)

    def features(self, value: Array) -> Array:
        """The levels as zeros and ones, shape (rows, size * levels)."""
        return xp.reshape(xp.one_hot(value, self.levels), (-1, self.size * self.levels))


Layer = Binary | Gaussian | Categories


class StochasticLayers:
    r"""Binary pixels under layers of stochastic units, each layer of its own kind.

    .. math:: p(x, h) = p(h^L) \prod_l p(h^{l} \mid h^{l+1}) \, p(x \mid h^1)

    Each conditional is linear in the features of the layer above; the inference network goes up the same way.
    Every site gets the gradient estimator that its kind calls for: the plan of one program holds several.
    Sites in the plate "data": "h1" (next to the data) to "hL", and "x".

    Args:
        data_dim: pixels per row.
        layers: the kinds and sizes, the layer next to the data first; at least one.
        data_mean: each pixel's mean in the training data, shape (data_dim,).

    Raises:
        TypeError: a layer is none of `Binary`, `Gaussian`, `Categories`.
        ValueError: no layer.

    Source: book sections 20.10.1-20.10.3; Rezende et al. 2014 for Gaussian layers.

    Example:
        >>> StochasticLayers(64, (Binary(20), Gaussian(5)))
        StochasticLayers(data_dim=64, layers=(Binary(size=20), Gaussian(size=5)))
    """

    def __init__(self, data_dim: int, layers: Sequence[Layer], data_mean: ArrayLike | None = None) -> None:
        where = "models.StochasticLayers"
        self._pixels, self.layers = Pixels(where, data_dim, data_mean), tuple(layers)
        self.data_dim = self._pixels.data_dim
        if not self.layers:
            raise ValueError(f"{where}: expected one layer or more; got none. Use layers=(Binary(20),).")
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"{where}: expected layers such as Binary(20) or Gaussian(5); got {layer!r}.")
            whole(where, "a layer's size", layer.size)

    def __repr__(self) -> str:
        """Sizes."""
        return f"StochasticLayers(data_dim={self.data_dim}, layers={self.layers})"

    def __call__(self, x: Array) -> None:
        """The model, from the top layer down; x: zeros and ones, shape (rows, data_dim)."""
        rows = self._pixels.rows(x)
        with plate("data", len(x)):
            above = xp.zeros((len(x), 0))
            for number in range(len(self.layers), 0, -1):
                layer = self.layers[number - 1]
                above = layer.features(sample(f"h{number}", layer.distribution(f"decoder.{number}", above)))
            logits = linear("decoder.0", above, self.data_dim, bias=self._pixels.bias)
            sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=rows)

    def guide(self, x: Array) -> None:
        """The inference network, q(h1 | x) q(h2 | h1) ...; arguments as for the model."""
        below = self._pixels.centred(x)
        with plate("data", len(x)):
            for number, layer in enumerate(self.layers, start=1):
                below = layer.features(sample(f"h{number}", layer.distribution(f"encoder.{number}", below)))
