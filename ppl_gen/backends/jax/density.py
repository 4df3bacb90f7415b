"""A density that a program states as a function, with a function that draws from it: `ppl_gen.density`."""

from __future__ import annotations

from collections.abc import Callable

import jax
from numpyro import handlers
from numpyro.distributions import Distribution, constraints


def _is_own(message: dict[str, object]) -> bool:
    """Whether a statement inside a draw is nobody else's: all but parameters."""
    return message["type"] != "param"


class Density(Distribution):
    """A distribution made of two functions; its shapes are those of a value and of that value's log density.

    Args:
        density: value -> log density, nats, one number per batch element.
        draw: gives a value; its sample statements are its own.
        like: a value, of whatever numbers; None takes the shapes of a draw.
    """

    pytree_aux_fields = ("_density", "_draw")

    def __init__(
        self, density: Callable[[jax.Array], jax.Array], draw: Callable[[], jax.Array], like: jax.Array | None
    ) -> None:
        self._density, self._draw = density, draw
        value = jax.eval_shape(self.sample, jax.random.key(0)) if like is None else like
        batch = jax.eval_shape(density, value).shape
        super().__init__(batch, value.shape[len(batch) :], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Any real value: what else the density excludes is its own matter."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """A draw, which passes no gradient.

        Raises:
            NotImplementedError: more than one at once.
        """
        if sample_shape:
            raise NotImplementedError(f"one draw at a time; got sample_shape {tuple(sample_shape)}")
        with handlers.block(hide_fn=_is_own), handlers.seed(rng_seed=key):
            return jax.lax.stop_gradient(self._draw())

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The log density, nats, shaped like the batch."""
        return self._density(value)
