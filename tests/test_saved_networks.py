"""What a network learned comes back from a file, in a fresh model object, whatever library the network is from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen
import jax
import numpy as np
import numpyro
import numpyro.distributions
import pyro
import pyro.distributions
import pyro.nn
import pytest
import torch
from flax import nnx
from numpyro.contrib.module import eqx_module, flax_module, nnx_module
from torch import nn

from ppl_gen import infer
from ppl_gen.errors import NonFinite
from tests.test_checkpoint import assert_same

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = (X.sum(1) + np.random.default_rng(1).normal(size=12)).astype(np.float32)
Model = Callable[[Any, Any], Any]


def observe(mean: Any, y: Any) -> None:
    """Pyro's last lines."""
    with pyro.plate("data", len(mean)):
        pyro.sample("y", pyro.distributions.Normal(mean, 1.0), obs=y)


def see(mean: Any, y: Any) -> None:
    """NumPyro's."""
    with numpyro.plate("data", len(mean)):
        numpyro.sample("y", numpyro.distributions.Normal(mean, 1.0), obs=y)


def plain(seed: int) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        observe(net(x)[:, 0], y)

    return model


def of_pyro(seed: int) -> Model:
    class Regression(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = pyro.nn.PyroModule[nn.Linear](3, 1)  # type: ignore[call-arg,arg-type]
            self.scale = pyro.nn.PyroParam(torch.tensor(1.0), pyro.distributions.constraints.positive)

        def forward(self, x: Any, y: Any) -> None:
            observe(self.linear(x)[:, 0] * self.scale, y)

    torch.manual_seed(seed)
    model: Model = Regression()
    return model


def unregistered(seed: int) -> Model:
    """A network of random features that nothing registers, whose output a registered one reads."""
    torch.manual_seed(seed)
    features, net = nn.Sequential(nn.Linear(3, 5), nn.Tanh()), nn.Linear(5, 1)

    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        observe(net(features(x))[:, 0], y)

    return model


def parameters_alone(seed: int) -> Model:
    """A network that is never called: its parameters are closed over, and stated one by one."""
    torch.manual_seed(seed)
    net = nn.Linear(3, 1)

    def model(x: Any, y: Any) -> None:
        weight, bias = pyro.param("w", net.weight), pyro.param("b", net.bias)
        observe((x @ weight.T + bias)[:, 0], y)

    return model


def normalized(seed: int) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))

    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        observe(net(x)[:, 0], y)

    return model


def tied(seed: int) -> Model:
    torch.manual_seed(seed)
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    net = nn.Sequential(first, nn.Tanh(), second)

    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        observe(net(x).sum(1), y)

    return model


def of_equinox(seed: int) -> Model:
    net = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(seed))

    def model(x: Any, y: Any) -> None:
        see(jax.vmap(eqx_module("net", net))(x)[:, 0], y)

    return model


def of_linen(seed: int) -> Model:
    class Net(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x: Any) -> Any:
            return flax.linen.Dense(1)(flax.linen.BatchNorm(use_running_average=False)(x))

    def model(x: Any, y: Any) -> None:
        net = flax_module("net", Net(), mutable=["batch_stats"], input_shape=(12, 3))
        see(net(x)[:, 0], y)

    return model


def of_nnx(seed: int) -> Model:
    net = nnx.Linear(3, 1, rngs=nnx.Rngs(seed))

    def model(x: Any, y: Any) -> None:
        see(nnx_module("net", net)(x)[:, 0], y)

    return model


NETWORKS = [plain, of_pyro, unregistered, parameters_alone, normalized, tied, of_equinox, of_linen, of_nnx]


def trained(model: Model, **options: Any) -> infer.Fit:
    return infer.fit(model, data=(X, Y), **{"steps": 6, "learning_rate": 0.1, "compile": False, **options})


def answers(fit: infer.Fit) -> list[np.ndarray]:
    return [fit.log_prob((X, Y)).value, fit.predict((X, Y), 2, seed=5)["y"]]


@pytest.mark.parametrize("make", NETWORKS)
def test_what_a_network_learned_is_saved(make: Callable[[int], Model], tmp_path: Path) -> None:
    """Into a fresh object of other weights; saved again from there, into the one that was trained."""
    model, path = make(0), tmp_path / "fit"
    fit = trained(model)
    before = trained(model, steps=0).params  # the user's own network has not learned
    assert any(np.abs(fit.params[name] - before[name]).max() > 0.05 for name in before)  # there is something to lose
    fit.save(path)
    loaded = infer.load(path, make(1))
    assert_same(loaded, fit)
    for mine, theirs in zip(answers(loaded), answers(fit), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    loaded.save(path)
    assert_same(infer.load(path, model), fit)


@pytest.mark.parametrize("make", [plain, normalized, unregistered, of_equinox])
def test_a_save_amid_does_not_harm_a_checkpoint_that_is_continued(make: Callable[[int], Model], tmp_path: Path) -> None:
    """Written by `checkpoint=`, then over it by `Fit.save`, then continued in a fresh object: as in one go, bit by bit."""
    path = tmp_path / "run"
    whole = trained(make(0), steps=8)
    half = trained(make(0), steps=4, checkpoint=path)
    half.save(path)
    assert_same(infer.load(path, make(3)), half)
    assert_same(trained(make(4), steps=8, checkpoint=path), whole)
    loaded = infer.load(path, make(5))
    loaded.save(path)
    assert_same(trained(make(6), steps=10, checkpoint=path), trained(make(0), steps=10))


def test_a_state_is_the_same_in_a_session_and_outside() -> None:
    """The user's own tensors, which have not learned, are never taken for ours."""
    model = plain(0)
    fit = trained(model)
    trainer, session = fit._trainer, fit._prepared.session
    outside = trainer.state()
    with session():
        inside = trainer.state()
    assert outside.keys() == inside.keys()
    for name, value in outside.items():
        np.testing.assert_array_equal(value, inside[name], err_msg=name)
    assert all(np.array_equal(fit._prepared.program.constrain()[n], v) for n, v in fit.params.items())
    changed = {name: value + 1 if name.startswith("params/") else value for name, value in outside.items()}
    before = torch.random.get_rng_state()
    trainer.load(changed)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_allclose(fit.params["net.2.bias"], outside["params/net.2.bias"] + 1)
    fit._prepared.program.write_back({})
    np.testing.assert_allclose(trained(model, steps=0).params["net.2.bias"], outside["params/net.2.bias"] + 1)


def test_the_users_own_networks_keep_their_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 1)

    def model(x: Any, y: Any) -> None:
        pyro.module("net", net)
        observe(net(x)[:, 0], y)

    before = net.weight.detach().clone()
    fit = trained(model)
    fit.save(tmp_path / "fit")
    infer.load(tmp_path / "fit", model)
    assert torch.equal(net.weight, before)


def test_an_error_leaves_the_last_good_state_to_be_saved(tmp_path: Path) -> None:
    """The fit that comes with NonFinite is saved as it is."""
    with pytest.raises(NonFinite) as caught:
        infer.fit(
            plain(0),
            data=[(X, Y)] * 3 + [(X, np.full(12, 1e38, np.float32))],
            steps=6,
            learning_rate=0.1,
            compile=False,
        )
    caught.value.fit.save(tmp_path / "fit")
    assert_same(infer.load(tmp_path / "fit", plain(1)), caught.value.fit)


def test_best_parameters_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    """With validation the fit is the best state, not the last one: so is what a checkpoint gives, and a run goes on from the last."""
    options: dict[str, Any] = {"validation": (X[:5], -Y[:5]), "steps": 8}
    path = tmp_path / "run"
    fit = trained(plain(0), checkpoint=path, **options)
    assert_same(infer.load(path, plain(1)), fit)
    fit.save(path)
    assert_same(infer.load(path, plain(1)), fit)
    longer = {**options, "steps": 12}
    assert_same(trained(plain(2), checkpoint=path, **longer), trained(plain(0), **longer))
