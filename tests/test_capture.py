"""A captured or compiled step is the eager step, or it is found out and not used."""

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

import ppl_gen as pg
from ppl_gen import infer
from tests.test_jax_compilation import compilations, loops

X = (np.random.default_rng(0).random((22, 6)) < 0.4).astype(np.float32)
LATENT = 2


class VAE(nn.Module):
    """The hard case: batch normalization (running averages, and rows that move one another) and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2 * LATENT)
        )
        self.decoder = nn.Sequential(nn.Linear(LATENT, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        decode(self, x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        encode(self, x)


class Half(PyroModule):
    """One of the networks as a PyroModule, whose own statements name the parameters."""

    def __init__(self, name: str, net: nn.Module, run: Callable[[Any, Tensor], None]) -> None:
        super().__init__()
        setattr(self, name, net)
        to_pyro_module_(self)
        self.run = run

    def forward(self, x: Tensor) -> None:
        self.run(self, x)


class Modules(nn.Module):
    """Model and guide as PyroModules."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.model, self.guide = Half("decoder", vae.decoder, decode), Half("encoder", vae.encoder, encode)


def decode(self: Any, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


def encode(self: Any, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def plain() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE()


def pyro_module() -> Any:
    return Modules(plain())


def train(make: Callable[[], Any], **options: Any) -> tuple[infer.Fit, dict[str, np.ndarray]]:
    """40 steps in batches of 8, 8 and 6; with the networks' buffers."""
    program = make()
    given = {"steps": 40, "batch_size": 8, "learning_rate": 0.02, "warm_start": True} | options
    fit = infer.fit(program.model, program.guide, X, backend="torch", **given)
    return fit, {
        name.removeprefix("guide.").removeprefix("model."): b.numpy().copy() for name, b in program.named_buffers()
    }


def assert_same(left: Any, right: Any, rtol: float) -> None:
    """Losses, parameters and buffers."""
    np.testing.assert_allclose(left[0].losses, right[0].losses, rtol=rtol)
    pairs = [(left[0].params, right[0].params), (left[1], right[1])]
    for one, other in pairs:
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], rtol=rtol, atol=rtol / 10, err_msg=name)


@pytest.mark.parametrize("make", [plain, pyro_module])
def test_a_captured_vae_trains_bit_for_bit_as_an_eager_one(make: Callable[[], Any]) -> None:
    fast, eager = train(make), train(make, compile=False)
    assert "steps: captured, " in fast[0].summary() and "steps: eager, as asked" in eager[0].summary()
    assert_same(fast, eager, rtol=0.0)
    assert len(fast[0].params) == 12 and len(fast[1]) == 6
    assert not np.allclose(fast[1]["encoder.1.running_mean"], 0.0)
    assert fast[0].losses[-12:].mean() < fast[0].losses[:12].mean() - 1  # it does train


def test_only_steps_move_the_running_averages() -> None:
    """Reading the program, capturing and checking run it many times; none of that is training."""
    _, buffers = train(plain, steps=0)
    moved = [name for name, buffer in buffers.items() if not name.endswith("running_var") and buffer.any()]
    assert moved == []
    _, buffers = train(plain, steps=5)
    assert buffers["encoder.1.num_batches_tracked"] == buffers["decoder.1.num_batches_tracked"] == 5


def test_a_graph_serves_every_later_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """One capture in 13 passes; the odd last batch runs eagerly and its graph is never made."""
    from ppl_gen.backends.torch import replay as steps

    made: list[int] = []
    original = steps.capture  # type: ignore[attr-defined]

    def counted(step: Any, given: Any) -> Any:
        made.append(1)
        return original(step, given)

    monkeypatch.setattr(steps, "capture", counted)
    train(plain)
    assert made == [1]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="Inductor needs a C++ compiler"
)
def test_a_compiled_vae_trains_as_an_eager_one() -> None:
    """Inductor fuses operations, so up to rounding: relative 1e-3 after 10 steps of Adam.

    A bias before batch normalization has no effect and a gradient of pure rounding, whose sign Adam follows: it and
    the running mean that absorbs it are left out.
    """
    fast, eager = train(plain, compile=True, steps=10), train(plain, compile=False, steps=10)
    assert "compiled" in fast[0].summary().splitlines()[1]
    np.testing.assert_allclose(fast[0].losses, eager[0].losses, rtol=1e-3)
    for name in fast[0].params.keys() - {"encoder.0.bias", "decoder.0.bias"}:
        np.testing.assert_allclose(fast[0].params[name], eager[0].params[name], rtol=1e-3, atol=1e-4, err_msg=name)


# -- state outside torch ---------------------------------------------------------------------------------------------

Y = torch.linspace(-1.0, 2.0, 8)


def test_a_counter_that_changes_every_step_is_never_captured() -> None:
    def fit(compile: Any) -> infer.Fit:
        calls = [0]

        def model(y: Tensor) -> None:
            calls[0] += 1
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(pyro.param("m", torch.zeros(())) + 0.01 * calls[0], 1.0), obs=y)

        return infer.fit(model, data=Y, steps=6, learning_rate=0.05, compile=compile)

    fast = fit("auto")
    assert "steps: eager, as a captured step did not repeat" in fast.summary()
    # the eager counter runs through other values (probing runs the program too), so only the trend is the same
    assert np.isfinite(fast.losses).all() and len(set(fast.losses.tolist())) == 6


def annealed(compile: Any, change: int = 20) -> tuple[infer.Fit, list[str]]:
    weight = {"now": 0.0}

    def model(y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(pyro.param("m", torch.zeros(())) + weight["now"], 1.0), obs=y)

    def anneal(state: infer.Running) -> None:
        if state.step == change:
            weight["now"] = 3.0

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = infer.fit(model, data=Y, steps=60, learning_rate=0.01, compile=compile, callbacks=[anneal])
    return fit, [str(warning.message) for warning in caught]


def test_an_annealed_float_is_found_out() -> None:
    """The change at step 20 shows at the next check (step 32); then all goes on eagerly, with a warning."""
    (fast, said), (eager, silent) = annealed("auto"), annealed(False)
    assert silent == [] and len(said) == 1 and "a captured step no longer repeats an eager one" in said[0]
    np.testing.assert_array_equal(fast.losses[:20], eager.losses[:20])
    assert abs(fast.losses[25] - eager.losses[25]) > 1  # the stale steps, of which the warning speaks
    assert abs(fast.losses[40] - eager.losses[40]) < 0.2 * eager.losses[40]
    assert "steps: eager, as a captured step did not repeat" in fast.summary()


def test_a_captured_step_is_checked_at_powers_of_two_and_at_the_last() -> None:
    """What changes at step 40 shows at no power of two before the run ends at step 60, and yet it is told."""
    (fast, late) = annealed("auto", change=40)
    (_, early), (_, middle) = annealed("auto", change=10), annealed("auto", change=20)
    assert "up to 8 steps" in early[0] and "up to 16 steps" in middle[0] and "up to 27 steps" in late[0]
    assert "steps: eager, as a captured step did not repeat" in fast.summary()


def branching(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    shift = 1.0 if z > 0 else -1.0
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z + shift, 1.0), obs=y)


def leaving(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z + float(z.item() > 0), 1.0), obs=y)


def proposal(y: Tensor) -> None:
    scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), scale))


@pytest.mark.parametrize("model", [branching, leaving])
def test_a_program_that_leaves_torch_runs_eagerly_and_the_plan_says_why(model: Callable[..., None]) -> None:
    fit = infer.fit(model, proposal, Y, steps=5)
    assert "steps: eager, as values leave torch at test_capture.py:" in fit.summary()
    assert "test_capture.py:" in fit.plan["z"].reason and "Score" in str(fit.plan)
    np.testing.assert_array_equal(fit.losses, infer.fit(model, proposal, Y, steps=5, compile=False).losses)


def test_flags_of_a_batch_are_not_burnt_in(backend: str) -> None:
    """Batches of one shape and another flag: each needs its own step."""

    def model(y: Any, far: bool) -> None:
        with pg.plate("data", len(y)):
            pg.sample("y", pg.dist.Normal(pg.param("m", pg.xp.zeros(())) + (10.0 if far else 0.0), 1.0), obs=y)

    batches = [(Y.numpy(), False), (Y.numpy(), True)]
    fast, eager = (infer.fit(model, data=batches, backend=backend, steps=4, compile=c).losses for c in ("auto", False))
    np.testing.assert_allclose(fast, eager, rtol=1e-5)


# -- JAX -------------------------------------------------------------------------------------------------------------


def bits(x: Any) -> None:
    with pg.plate("data", len(x)):
        h = pg.sample("h", pg.dist.Bernoulli(logits=pg.param("top", pg.xp.zeros(2))).to_event(1))
        pg.sample("x", pg.dist.Bernoulli(logits=pg.nn.linear("down", h * 1.0, 6)).to_event(1), obs=x)


def bits_proposal(x: Any) -> None:
    with pg.plate("data", len(x)):
        pg.sample("h", pg.dist.Bernoulli(logits=pg.nn.linear("up", x, 2)).to_event(1))


def test_the_jitted_loop_trains_as_single_steps_do() -> None:
    """The same draws and the same steps, the smaller last batch included, up to rounding: relative 1e-4."""
    runs = [
        infer.fit(bits, bits_proposal, X, backend="jax", steps=3, batch_size=8, learning_rate=0.05, compile=compile)
        for compile in ("auto", False)
    ]
    assert "one jitted loop" in runs[0].summary() and "un-jitted, as asked" in runs[1].summary()
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-4)
    for name, value in runs[0].params.items():
        np.testing.assert_allclose(value, runs[1].params[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_jitted_loop_serves_every_later_pass() -> None:
    with compilations() as names:
        infer.fit(bits, bits_proposal, X, backend="jax", steps=9, batch_size=8)
    assert loops(names) == 2  # batches of 8 and of 6


def test_a_table_indexed_by_a_state_is_captured() -> None:
    """torch reads a whole number without dimensions on the host; a captured step does not."""

    def model(x: Tensor) -> None:
        table = pyro.param("table", torch.tensor([[0.7, 0.3], [0.2, 0.8]]), constraint=dist.constraints.simplex)
        state = pyro.sample("first", dist.Categorical(torch.ones(2)))
        state = pyro.sample("second", dist.Categorical(table[state]))
        pyro.sample("x", dist.Normal(table[state, state], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        for name in ("first", "second"):
            pyro.sample(name, dist.Categorical(logits=pyro.param(f"{name}.logits", torch.zeros(2))))

    fits = [infer.fit(model, guide, torch.tensor(0.7), steps=5, compile=how, progress=False) for how in ("auto", False)]
    assert fits[0]._trainer.how.startswith("captured")
    np.testing.assert_allclose(fits[0].losses, fits[1].losses, rtol=1e-5)


def test_a_prior_made_outside_of_the_program_is_captured() -> None:
    """It has been told to check its values, which a graph cannot."""
    prior = dist.Normal(torch.zeros(2), 1.0, validate_args=True).to_event(1)

    def model(x: Tensor) -> None:
        pyro.sample("x", dist.Normal(pyro.sample("z", prior).sum(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(2)), 1.0).to_event(1))

    fit = infer.fit(model, guide, torch.tensor(0.7), steps=3, progress=False)
    assert fit._trainer.how.startswith("captured") and prior.base_dist._validate_args
