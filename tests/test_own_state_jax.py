"""What a JAX program brings along: double precision, reads on the host, keys and derivatives of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

numpyro = pytest.importorskip("numpyro")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro import handlers  # noqa: E402

from ppl_gen import infer  # noqa: E402

X = np.float32(0.7)

DOUBLE = """
import jax, numpy as np, numpyro, numpyro.distributions as dist
from ppl_gen import infer
{switch}

def model(x):
    with numpyro.plate("data", len(x)):
        b = numpyro.sample("b", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(2.0 * b, 1.0), obs=x)

def guide(x):
    weight = numpyro.param("weight", 0.3)
    with numpyro.plate("data", len(x)):
        numpyro.sample("b", dist.Bernoulli(logits=weight * x))

x = np.array([0.1, 1.9, 2.2])
fit = infer.fit(model, guide, x, steps=3, progress=False)
assert "Score" in str(fit.plan) and "one jitted loop" in fit._trainer.how
assert fit.params["weight"].dtype == np.float64 and np.isfinite(fit.losses).all()
"""


@pytest.mark.parametrize("switch", ["numpyro.enable_x64()", 'jax.config.update("jax_enable_x64", True)'])
def test_a_discrete_latent_trains_in_double_precision(switch: str) -> None:
    """In a process of its own, as the switch is global."""
    done = subprocess.run([sys.executable, "-c", DOUBLE.format(switch=switch)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_long_fit_whose_batches_are_read_on_the_host_goes_on_unjitted() -> None:
    y = np.linspace(-1.0, 1.0, 8, dtype=np.float32)

    def model(y: Any) -> None:
        centre = float(np.mean(y))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(numpyro.param("loc", 0.5) + 0.0 * centre, 1.0), obs=y)

    fit = infer.fit(model, None, y, batch_size=4, steps=200, learning_rate=0.05, progress=False)
    assert len(fit.losses) == 200
    assert fit._trainer.how.startswith("un-jitted, as data that change from step to step are read on the host")
    assert abs(float(fit.params["loc"])) < 0.2  # the mean of all rows is 0


# -- keys of the program's own ---------------------------------------------------------------------------------------


def conjugate(x: Any) -> None:
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def proposal(x: Any) -> None:
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.3), 0.8))


def seeded_inside(x: Any) -> None:
    with handlers.seed(rng_seed=0):
        proposal(x)


def own_key(x: Any) -> None:
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.3), 0.8), rng_key=jax.random.key(0))


KEYED: dict[str, Callable[..., Any]] = {
    "a seeded guide": handlers.seed(proposal, jax.random.key(4)),
    "a seed inside": seeded_inside,
    "a key at the site": own_key,
}


@pytest.mark.parametrize("name", KEYED)
def test_a_program_with_a_key_of_its_own_draws_anew(name: str) -> None:
    """The gradient of minus the ELBO by the mean is loc - (x - loc); 5 standard errors, a false alarm in two million."""
    draws = infer.gradient(conjugate, KEYED[name], (X,), num_samples=4000)["loc"]
    assert len(np.unique(draws)) > 3900
    error = draws.std() / len(draws) ** 0.5
    assert abs(draws.mean() - (2 * 0.3 - X)) < 5 * error
    found = infer.fit(conjugate, KEYED[name], (X,), steps=20, progress=False)
    assert len(np.unique(found.losses)) == 20


def test_a_seeded_model_draws_other_rows_at_every_step() -> None:
    """Of 6 rows a plate shows 2: the gradient's mean is that of all rows."""
    rows = jnp.arange(6.0)

    def model(x: Any) -> None:
        loc = numpyro.param("loc", 0.5)
        with numpyro.plate("data", len(x), subsample_size=2) as index:
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=x[index])

    draws = infer.gradient(handlers.seed(model, jax.random.key(3)), None, (rows,), num_samples=4000)["loc"]
    assert len(np.unique(draws.round(3))) > 5
    assert abs(draws.mean() - float((0.5 - rows).sum())) < 5 * draws.std() / len(draws) ** 0.5


# -- derivatives of the program's own --------------------------------------------------------------------------------


@jax.custom_vjp
def halved(w: Any) -> Any:
    """The identity, whose derivative is said to be a half."""
    return w


halved.defvjp(lambda w: (w, None), lambda _, g: (0.5 * g,))
WAYS: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "custom_vjp": (lambda w: w + halved(w), "custom_vjp_call"),
    "stop_gradient": (lambda w: w + jax.lax.stop_gradient(w), "stop_gradient"),
    "a library's": (lambda w: w + jax.nn.relu(w) + jax.nn.logsumexp(jnp.stack([w, w])), None),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_parameter_with_one_way_by_the_programs_word_is_said(name: str) -> None:
    way, what = WAYS[name]

    def model(x: Any) -> None:
        numpyro.sample("x", dist.Normal(way(numpyro.param("w", 0.3)), 1.0), obs=x)

    notes = [note for note in infer.plan(model, None, (X,)).notes if "what the program declares" in note]
    assert len(notes) == (what is not None)
    for note in notes:
        assert note.startswith("param 'w': on one way to the cost") and "test_own_state_jax.py:" in note
        assert note.endswith(f": {what})")
