"""The sigmoid belief network with layers of binary units."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from ppl_gen.language import dist, param, plate, sample, xp
from ppl_gen.models.pixels import Pixels, widths
from ppl_gen.nn import linear
from ppl_gen.program.arrays import Array


class SigmoidBeliefNet:
    r"""Layered sigmoid belief network, with a bottom-up inference network as the guide.

    .. math::
        p(h^L_i = 1) = \sigma(b^L_i), \quad
        p(h^{l}_i = 1 \mid h^{l+1}) = \sigma\Big(\sum_j W^l_{ji} s^{l+1}_j + b^l_i\Big), \quad s = 2h - 1, \quad h^0 = x

    A layer enters the next as signs: the same family as with zeros and ones (half the weights, another bias), but
    the pull on a weight is then nearly free of that on the bias, and the same steps lead further.

    Sites in the plate "data": latents "h1" (next to the data) to "hL", observed "x". Parameters:
    "top.bias" (log-odds of hL), "decoder.0.weight" (h1 to x), "decoder.1.weight" (h2 to h1), ... and
    "encoder.0.weight" (x to h1), "encoder.1.weight" (h1 to h2), ..., each weight with its bias.

    Args:
        data_dim: pixels per row.
        hidden: numbers of units of the layers, the one next to the data first; at least one layer.
        data_mean: each pixel's mean in the training data, shape (data_dim,). With it the output biases start
            at the marginals (kept within 0.001 .. 0.999) and the guide sees x - data_mean.

    Raises:
        TypeError: a size is not a whole number.
        ValueError: no layer, a size below one, or a `data_mean` of another shape or outside 0 .. 1.

    Source: book eq. 20.70; Neal 1992; for the inference network, Mnih and Gregor 2014; for the signs, Tucker et al. 2017.
    """

    def __init__(self, data_dim: int, hidden: Sequence[int] = (200, 200), data_mean: ArrayLike | None = None) -> None:
        self._pixels = Pixels(f"models.{type(self).__name__}", data_dim, data_mean)
        self.data_dim = self._pixels.data_dim
        self.hidden = widths(f"models.{type(self).__name__}", "hidden", hidden)
        if not self.hidden:
            raise ValueError(
                f"models.{type(self).__name__}: expected one hidden layer or more; got none. Use hidden=(200,)."
            )

    def __repr__(self) -> str:
        """Sizes."""
        return f"{type(self).__name__}(data_dim={self.data_dim}, hidden={self.hidden})"

    def __call__(self, x: Array) -> None:
        """The model, from the top layer down to the pixels.

        Args:
            x: zeros and ones, shape (rows, data_dim).

        Raises:
            ValueError: another shape.
        """
        rows = self._pixels.rows(x)
        with plate("data", len(x)):
            logits = param("top.bias", lambda: xp.zeros(self.hidden[-1]))
            for layer in range(len(self.hidden), 1, -1):
                units = _signs(f"h{layer}", logits)
                logits = linear(f"decoder.{layer - 1}", units, self.hidden[layer - 2])
            logits = linear("decoder.0", _signs("h1", logits), self.data_dim, bias=self._pixels.bias)
            sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=rows)

    def guide(self, x: Array) -> None:
        """The inference network, q(h1 | x) q(h2 | h1) ...; arguments as for the model."""
        units = self._pixels.centred(x)
        with plate("data", len(x)):
            for layer, size in enumerate(self.hidden, start=1):
                units = _signs(f"h{layer}", linear(f"encoder.{layer - 1}", units, size))


def _signs(name: str, logits: Array) -> Array:
    """A layer of binary units, as it enters the next: -1 for zero, 1 for one."""
    return 2 * xp.astype(sample(name, dist.Bernoulli(logits=logits).to_event(1)), xp.float32) - 1
