"""A step on JAX: the optimiser and the look for NaN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppl_gen as pg
from ppl_gen import infer
from ppl_gen.backends.jax.optimizers import adam
from ppl_gen.errors import NonFinite

Y = np.arange(1.0, 5.0)


def test_adam_steps_as_optax_does() -> None:
    params = {"a": jnp.ones((3, 2)), "b": jnp.arange(4.0)}
    results = []
    for transform in (adam(1e-2), optax.adam(1e-2)):
        now, state = params, transform.init(params)
        for step in range(60):
            gradient = jax.tree.map(lambda leaf, step=step: jnp.sin(3 * leaf + step), now)
            updates, state = transform.update(gradient, state, now)
            now = optax.apply_updates(now, updates)
        results.append(now)
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6), *results)
    assert float(jnp.abs(results[0]["b"] - params["b"]).max()) > 1e-3


def infinite_slope(y: Any) -> None:
    """At step 3 the square root is taken at 0: the loss is finite, its gradient is not."""
    with pg.plate("data", len(y)):
        height = pg.param("height", 3.0 * pg.xp.ones(()))
        pg.sample("y", pg.dist.Normal(pg.xp.sqrt(pg.xp.clip(height, 0.0, 9.0)), 1.0), obs=y)


def fall(clip: float | None) -> optax.GradientTransformation:
    """One down a step, whatever the gradient; an infinite one is not seen in the parameters if `clip` is given."""
    first = [] if clip is None else [optax.clip(clip)]
    return optax.chain(*first, optax.stateless(lambda g, _: jax.tree.map(lambda x: -1.0 + 0.0 * x, g)))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_infinite_gradient_is_found_though_the_optimiser_clips_it(clip: float | None) -> None:
    with pytest.raises(NonFinite, match="^step 3: param 'height': expected a finite gradient") as caught:
        infer.fit(infinite_slope, data=Y, steps=8, optimizer=fall(clip), backend="jax")
    assert caught.value.fit.params["height"] == 0.0 and len(caught.value.losses) == 3


def test_adam_shows_an_infinite_gradient_at_its_step() -> None:
    def model(y: Any) -> None:
        with pg.plate("data", len(y)):
            pg.sample("y", pg.dist.Normal(pg.xp.sqrt(pg.param("height", pg.xp.zeros(()))), 1.0), obs=y)

    with pytest.raises(NonFinite, match="^step 0: param 'height': expected a finite gradient") as caught:
        infer.fit(model, data=Y, steps=8, backend="jax")
    assert caught.value.fit.params["height"] == 0.0
