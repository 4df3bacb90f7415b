"""NumPyro's annealed guides, whose factor goes with draws of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

numpyro = pytest.importorskip("numpyro")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
import optax  # noqa: E402
from numpyro.infer import SVI, Trace_ELBO, autoguide  # noqa: E402

from ppl_gen import infer  # noqa: E402
from ppl_gen.errors import ProgramError  # noqa: E402

X = np.random.default_rng(0).standard_normal(12).astype(np.float32)


def model(x: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    numpyro.sample("x", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=x)


def surrogate(*args: Any) -> None:
    numpyro.sample("x", dist.Normal(numpyro.param("seen", 0.0), 1.0), obs=0.0)


def test_an_annealed_guide_trains_as_under_svi() -> None:
    """The bound is tight to 0.1 nats here; a run's mean over 100 steps has a standard error below 0.03."""
    found = infer.fit(model, autoguide.AutoDAIS(model), (X,), steps=300, learning_rate=0.02, progress=False)
    svi = SVI(model, autoguide.AutoDAIS(model), optax.adam(0.02), Trace_ELBO())
    expected = svi.run(jax.random.key(0), 300, X, progress_bar=False).losses
    assert float(found.losses[-100:].mean()) == pytest.approx(float(expected[-100:].mean()), abs=0.2)
    exact = -dist.MultivariateNormal(jnp.zeros(12), jnp.eye(12) + 4 * jnp.ones((12, 12))).log_prob(X)
    assert float(found.losses[-100:].mean()) > float(exact) - 0.1
    assert "no likelihood: site 'auto_factor' (factor)" in str(found.plan)
    with pytest.raises(ProgramError, match="auto_factor"):
        found.log_prob((X,))


def test_other_prefixes_and_kinds_are_known_too() -> None:
    for guide in (
        autoguide.AutoDAIS(model, prefix="own"),
        autoguide.AutoSurrogateLikelihoodDAIS(model, surrogate),
    ):
        assert set(infer.plan(model, guide, (X,))) >= {"mean", f"{guide.prefix}_z_0"}


def test_a_factor_of_the_users_by_the_same_name_is_refused_as_ever() -> None:
    def guide(x: Any) -> None:
        numpyro.sample("mean", dist.Normal(numpyro.param("loc", 0.0), 1.0))
        numpyro.factor("auto_factor", jnp.zeros(()))

    with pytest.raises(ProgramError, match="expected a guide of normalized densities"):
        infer.plan(model, guide, (X,))
