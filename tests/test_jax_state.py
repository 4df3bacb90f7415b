"""State that a NumPyro program carries from step to step, and points in its guides."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from numpyro import handlers
from numpyro.contrib.module import flax_module, random_eqx_module, random_flax_module, random_nnx_module
from numpyro.infer import autoguide
from numpyro.primitives import mutable

from ppl_gen import infer

QUIET: dict[str, Any] = {"progress": False, "learning_rate": 0.05}
X = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32) + 2
Y = X.sum(-1)


class Normed(linen.Module):
    """A linear layer behind batch normalization."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(1)(linen.BatchNorm(use_running_average=False, momentum=0.5)(x))[..., 0]


def with_batch_norm(x: Any, y: Any) -> None:
    net = flax_module("net", Normed(), mutable=["batch_stats"], input_shape=(1, 3))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(net(x), 1.0), obs=y)


def test_batch_norm_keeps_running_averages(tmp_path: Path) -> None:
    fit = infer.fit(with_batch_norm, None, (X, Y), steps=20, checkpoint=tmp_path / "fit", **QUIET)
    state = fit._trainer.values.buffers["net$state"]["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(state["mean"], X.mean(0), rtol=1e-3)
    assert fit.losses[-1] < fit.losses[0]
    loaded = infer.load(tmp_path / "fit", with_batch_norm)
    jax.tree.map(np.testing.assert_allclose, loaded._trainer.values.buffers, fit._trainer.values.buffers)


def test_batch_norm_may_have_random_weights() -> None:
    def model(x: Any, y: Any) -> None:
        net = random_flax_module("net", Normed(), dist.Normal(0.0, 1.0), mutable=["batch_stats"], input_shape=(1, 3))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Normal(net(x), 1.0), obs=y)

    fit = infer.fit(model, autoguide.AutoNormal(model), (X, Y), steps=10, **QUIET)
    assert {type(row.estimator).__name__ for row in fit.plan.rows.values()} == {"Pathwise"}
    state = fit._trainer.values.buffers["net$state"]["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(state["mean"], X.mean(0), rtol=1e-2)
    assert not any(name.startswith("net.") for name in fit.params if "loc" not in name and "scale" not in name)


def test_weights_that_are_sample_sites_are_no_parameters() -> None:
    linear, layer = nnx.Linear(3, 1, rngs=nnx.Rngs(0)), eqx.nn.Linear(3, 1, key=jax.random.key(0))

    def model(x: Any, y: Any) -> None:
        one = random_nnx_module("one", linear, dist.Normal(0.0, 1.0))
        two = random_eqx_module("two", layer, {"weight": dist.Normal(0.0, 1.0)})
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Normal((one(x) + jax.vmap(two)(x))[:, 0], 1.0), obs=y)

    def guide(x: Any, y: Any) -> None:
        for name, shape in (("one/kernel", (3, 1)), ("one/bias", (1,)), ("two/weight", (1, 3))):
            loc = numpyro.param(f"{name}.loc", jnp.zeros(shape))
            numpyro.sample(name, dist.Normal(loc, 0.1).to_event())

    fit = infer.fit(model, guide, (X, Y), steps=1, **QUIET)  # a warning would be an error
    assert set(fit.params) == {"one/kernel.loc", "one/bias.loc", "two/weight.loc", "two.bias"}


STARTS = {
    "dict": lambda: {"count": 0},
    "nested": lambda: {"deep": [jnp.zeros(()), {"count": 0}]},
    "list": lambda: [0],
}


def counted(kind: str) -> Any:
    def model(y: Any) -> None:
        holder: Any = mutable("state", STARTS[kind]())
        place, key = (holder["deep"][1], "count") if kind == "nested" else (holder, 0 if kind == "list" else "count")
        place[key] = place[key] + 1
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(numpyro.param("loc", 0.0), 1.0), obs=y)

    return model


@pytest.mark.parametrize("kind", STARTS)
def test_mutable_state_of_any_form_counts_the_steps(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "fit"
    counts = []
    for steps in (3, 7):
        fit = infer.fit(counted(kind), None, Y, steps=steps, checkpoint=path, **QUIET)
        counts.append(max(int(leaf) for leaf in jax.tree.leaves(fit._trainer.values.buffers)))
    assert counts[1] - counts[0] == 4


def test_state_that_changes_its_type_is_refused() -> None:
    def model(y: Any) -> None:
        holder: Any = mutable("state", {"mean": jnp.zeros(1)})
        holder["mean"] = jnp.concatenate([holder["mean"], jnp.ones(1)])
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(numpyro.param("loc", 0.0), 1.0), obs=y)

    with pytest.raises(ValueError, match="mutable 'state': expected state of one form at every step"):
        infer.fit(model, None, Y, steps=3, **QUIET)


# -- points ----------------------------------------------------------------------------------------------------------

LEVEL = np.arange(6, dtype=np.float32)


def in_a_plate(y: Any) -> None:
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 3):
        mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(jnp.repeat(mean, 2), spread), obs=y)


def by_hand(y: Any) -> None:
    numpyro.sample("spread", dist.Delta(numpyro.param("s", 1.0, constraint=dist.constraints.positive)))
    with numpyro.plate("groups", 3):
        numpyro.sample("mean", dist.Delta(numpyro.param("m", jnp.zeros(3))))


def listed() -> Any:
    guide = autoguide.AutoGuideList(in_a_plate)
    guide.append(autoguide.AutoDelta(handlers.block(handlers.seed(in_a_plate, 0), hide=["spread"])))
    guide.append(autoguide.AutoNormal(handlers.block(handlers.seed(in_a_plate, 0), hide=["mean"])))
    return guide


GUIDES = (
    "AutoDelta",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
    "AutoLaplaceApproximation",
    "AutoIAFNormal",
)


@pytest.mark.parametrize("name", ["by hand", "list", *GUIDES])
def test_points_with_a_batch_shape_are_pathwise(name: str) -> None:
    own = {"by hand": by_hand, "list": listed()}
    plan = infer.plan(in_a_plate, own.get(name) or getattr(autoguide, name)(in_a_plate), LEVEL)
    assert {type(row.estimator).__name__ for row in plan.rows.values()} == {"Pathwise"}


def test_the_gradient_at_a_point_is_that_of_the_joint_density() -> None:
    def joint(m: Any, s: Any) -> Any:
        prior = dist.Normal(0.0, 2.0).log_prob(m).sum() + dist.HalfNormal(1.0).log_prob(jnp.exp(s))
        return -prior - dist.Normal(jnp.repeat(m, 2), jnp.exp(s)).log_prob(LEVEL).sum()

    start = {"m": np.arange(3.0), "s": np.array(0.2)}
    found = infer.gradient(in_a_plate, by_hand, LEVEL, params=start)
    expected = jax.grad(joint, argnums=(0, 1))(*map(jnp.asarray, start.values()))
    for name, value in zip(start, expected, strict=True):
        np.testing.assert_allclose(found[name][0], value, rtol=1e-5)
