"""The variational autoencoder for binary pixels."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from ppl_gen.language import dist, plate, sample, xp
from ppl_gen.models.pixels import Pixels, whole, widths
from ppl_gen.nn import linear
from ppl_gen.program.arrays import Array


class VAE:
    r"""Variational autoencoder: Gaussian code, Bernoulli pixels, an inference network as the guide.

    .. math::
        z \sim N(0, I), \quad p(x_i = 1 \mid z) = g(z)_i, \quad q(z \mid x) = N(m(x), \mathrm{diag}\, s(x)^2)

    g, m and s are multilayer perceptrons with softplus units; training maximizes the lower bound of
    eq. 20.76-20.78. Sites: latent "z" (latent_dim,) and observed "x" (data_dim,) in the plate "data".
    Parameters: "decoder.0.weight", ... and "encoder.0.weight", ..., "encoder.loc.weight",
    "encoder.scale.weight", each with its bias.

    Args:
        data_dim: pixels per row.
        latent_dim: length of the code z.
        hidden: widths of the encoder's hidden layers, from the data on; the decoder has them in reverse.
        data_mean: each pixel's mean in the training data, shape (data_dim,). With it the output biases start
            at the marginals (kept within 0.001 .. 0.999) and the encoder sees x - data_mean.

    Raises:
        TypeError: a size is not a whole number.
        ValueError: a size below one, or a `data_mean` of another shape or outside 0 .. 1.

    Source: book eq. 20.74-20.78; Kingma and Welling 2014.
    """

    def __init__(
        self, data_dim: int, latent_dim: int, hidden: Sequence[int] = (400,), data_mean: ArrayLike | None = None
    ) -> None:
        self._pixels = Pixels("models.VAE", data_dim, data_mean)
        self.data_dim, self.latent_dim = self._pixels.data_dim, whole("models.VAE", "latent_dim", latent_dim)
        self.hidden = widths("models.VAE", "hidden", hidden)

    def __repr__(self) -> str:
        """Sizes."""
        return f"VAE(data_dim={self.data_dim}, latent_dim={self.latent_dim}, hidden={self.hidden})"

    def __call__(self, x: Array) -> None:
        """The model, p(z) p(x | z).

        Args:
            x: zeros and ones, shape (rows, data_dim).

        Raises:
            ValueError: another shape.
        """
        rows = self._pixels.rows(x)
        with plate("data", len(x)):
            z = sample("z", dist.Normal(xp.zeros(self.latent_dim), xp.ones(self.latent_dim)).to_event(1))
            code = _softplus_layers("decoder", z, self.hidden[::-1])
            logits = linear(f"decoder.{len(self.hidden)}", code, self.data_dim, bias=self._pixels.bias)
            sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=rows)

    def guide(self, x: Array) -> None:
        """The inference network, q(z | x); arguments as for the model."""
        features = _softplus_layers("encoder", self._pixels.centred(x), self.hidden)
        with plate("data", len(x)):
            loc = linear("encoder.loc", features, self.latent_dim)
            scale = xp.softplus(linear("encoder.scale", features, self.latent_dim))
            sample("z", dist.Normal(loc, scale).to_event(1))


def _softplus_layers(name: str, inputs: Array, widths: Sequence[int]) -> Array:
    """Hidden layers ``name.0``, ``name.1``, ... of softplus units."""
    for depth, width in enumerate(widths):
        inputs = xp.softplus(linear(f"{name}.{depth}", inputs, width))
    return inputs
