"""What is asked for is used, or refused by name: learning rates, optimizers, seeds, programs and data in their places."""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions
import numpyro.optim
import optax
import pyro
import pyro.distributions
import pyro.optim
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import ppl_gen as pg
from ppl_gen import infer, models
from ppl_gen.errors import Interrupted, ProgramError
from ppl_gen.estimators import Pathwise, Score

Y = np.arange(1.0, 5.0)
SGD = torch.optim.SGD
OF_PYRO: Any = pyro.optim  # which makes its names as it is imported


def model(y: Any) -> None:
    """The loss at m is 2 (m - 2.5)^2 and a constant: the gradient at 0 is -10."""
    with pg.plate("data", len(y)):
        pg.sample("y", pg.dist.Normal(pg.param("m", pg.xp.zeros(())), 1.0), obs=y)


def moved(backend: str, **options: Any) -> float:
    """Where the mean is after one step."""
    return float(infer.fit(model, data=Y, backend=backend, steps=1, compile=False, **options).params["m"])


def own(leaves: Any) -> Any:
    return SGD(leaves, lr=0.1)


USED: dict[str, tuple[str, dict[str, Any], float]] = {
    "the default": ("torch", {}, 0.001),
    "the default on JAX": ("jax", {}, 0.001),
    "Adam": ("torch", {"learning_rate": 0.1}, 0.1),
    "a partial of Adam": (
        "torch",
        {"optimizer": functools.partial(torch.optim.Adam, betas=(0.8, 0.9)), "learning_rate": 0.1},
        0.1,
    ),
    "a bare partial": ("torch", {"optimizer": functools.partial(SGD), "learning_rate": 0.1}, 1.0),
    "a bare partial, by default": ("torch", {"optimizer": functools.partial(SGD)}, 0.01),
    "a partial with a rate": ("torch", {"optimizer": functools.partial(SGD, lr=0.1)}, 1.0),
    "the same rate twice": ("torch", {"optimizer": functools.partial(SGD, lr=0.1), "learning_rate": 0.1}, 1.0),
    "partials of partials": (
        "torch",
        {"optimizer": functools.partial(functools.partial(SGD, lr=0.3), lr=0.1)},
        1.0,
    ),
    "a function": ("torch", {"optimizer": own}, 1.0),
    "Pyro's": ("torch", {"optimizer": OF_PYRO.SGD({"lr": 0.1})}, 1.0),
    "Pyro's without a rate": ("torch", {"optimizer": OF_PYRO.SGD({"momentum": 0.9}), "learning_rate": 0.1}, 1.0),
    "Pyro's own": ("torch", {"optimizer": OF_PYRO.ClippedAdam({"lr": 0.1})}, 0.1),
    "Pyro's by name": ("torch", {"optimizer": OF_PYRO.SGD(lambda n: {"lr": 0.1 if n == "m" else 9.0})}, 1.0),
    "Pyro's clipping": ("torch", {"optimizer": OF_PYRO.SGD({"lr": 0.1}, {"clip_norm": 2.0})}, 0.2),
    "optax": ("jax", {"optimizer": optax.sgd(0.1)}, 1.0),
    "NumPyro's": ("jax", {"optimizer": numpyro.optim.SGD(0.1)}, 1.0),
    "NumPyro's Adam": ("jax", {"optimizer": numpyro.optim.Adam(0.1)}, 0.1),
    "NumPyro's of optax": ("jax", {"optimizer": numpyro.optim.optax_to_numpyro(optax.sgd(0.1))}, 1.0),
    "a NumPy rate": ("torch", {"learning_rate": np.float32(0.1)}, 0.1),
}


@pytest.mark.parametrize("what", USED)
def test_a_rate_that_is_asked_for_is_used(what: str) -> None:
    backend, options, expected = USED[what]
    np.testing.assert_allclose(moved(backend, **options), expected, rtol=1e-4)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "two rates": (
        "torch",
        {"optimizer": functools.partial(SGD, lr=0.1), "learning_rate": 0.2},
        "its own, 0.1 .SGD.; got 0.2",
    ),
    "two rates, one the default's": (
        "torch",
        {"optimizer": functools.partial(SGD, lr=0.1), "learning_rate": 1e-3},
        "its own, 0.1 .SGD.; got 0.001",
    ),
    "a function's": ("torch", {"optimizer": own, "learning_rate": 0.1}, "its own .own.; got 0.1"),
    "Pyro's": (
        "torch",
        {"optimizer": OF_PYRO.Adam({"lr": 0.1}), "learning_rate": 0.2},
        "its own, 0.1 .Adam.; got 0.2",
    ),
    "optax": ("jax", {"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, "optimizer that has its own .*got 0.1"),
    "NumPyro's": ("jax", {"optimizer": numpyro.optim.Adam(0.1), "learning_rate": 0.2}, "its own .Adam.; got 0.2"),
    "LBFGS": ("torch", {"optimizer": torch.optim.LBFGS}, "got LBFGS, which asks for the loss again"),
    "a partial of LBFGS": ("torch", {"optimizer": functools.partial(torch.optim.LBFGS, lr=1)}, "got LBFGS"),
    "optax's LBFGS": ("jax", {"optimizer": optax.lbfgs()}, "asks for the loss again"),
    "NumPyro's minimizer": ("jax", {"optimizer": numpyro.optim.Minimize()}, "got Minimize"),
    "Pyro's schedule": (
        "torch",
        {"optimizer": OF_PYRO.ExponentialLR({"optimizer": SGD, "optim_args": {"lr": 0.1}, "gamma": 0.1})},
        "got PyroLRScheduler of SGD",
    ),
    "a built one": ("torch", {"optimizer": SGD([torch.zeros(1)], lr=0.1)}, "expected a torch.optim class"),
    "a maker of Pyro's": ("torch", {"optimizer": OF_PYRO.Adam}, "expected a function of the parameters"),
    "a class of NumPyro's": ("jax", {"optimizer": numpyro.optim.Adam}, "expected an optax transformation"),
    "the other library's": ("jax", {"optimizer": SGD}, "expected an optax transformation"),
    "rates by name": (
        "torch",
        {"learning_rate": {"w": 1}},
        "learning_rate: expected one positive number; got {'w': 1}",
    ),
    "rates by name on JAX": ("jax", {"learning_rate": {"w": 1}}, "learning_rate: expected one positive number"),
    "a schedule": (
        "jax",
        {"learning_rate": optax.constant_schedule(0.1)},
        "learning_rate: expected one positive number",
    ),
    "a truth": ("torch", {"learning_rate": True}, "learning_rate: expected one positive number; got True"),
    "a negative one": ("torch", {"learning_rate": -1}, "learning_rate: expected a positive number; got -1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_rate_or_optimizer_that_cannot_be_used_is_refused(what: str) -> None:
    backend, options, named = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=named):
        moved(backend, **options)


@pytest.mark.parametrize("optimizer", [numpyro.optim.Adam(0.1), OF_PYRO.Adam({"lr": 0.1})], ids=["NumPyro", "Pyro"])
def test_a_librarys_own_adam_is_adam(optimizer: Any) -> None:
    backend = "torch" if isinstance(optimizer, pyro.optim.PyroOptim) else "jax"
    options: dict[str, Any] = {"data": Y, "backend": backend, "steps": 20, "compile": False}
    theirs, ours = infer.fit(model, optimizer=optimizer, **options), infer.fit(model, learning_rate=0.1, **options)
    np.testing.assert_allclose(theirs.losses, ours.losses, rtol=1e-5)


# -- seeds -----------------------------------------------------------------------------------------------------------


def bayes(y: Any) -> None:
    z = pg.sample("z", pg.dist.Normal(0.0, 1.0))
    with pg.plate("data", len(y)):
        pg.sample("y", pg.dist.Normal(z, 1.0), obs=y)


def proposal(y: Any) -> None:
    pg.sample("z", pg.dist.Normal(pg.param("m", pg.xp.zeros(())), 1.0))


def test_a_key_is_a_seed(backend: str) -> None:
    """An old or a new one of n means n; keys that were split off differ."""
    split = jax.random.split(jax.random.key(5))
    seeds: list[Any] = [5, jax.random.key(5), jax.random.PRNGKey(5), np.int64(5), split[0], split[1]]
    fits = [infer.fit(bayes, proposal, Y, steps=2, backend=backend, compile=False, seed=seed) for seed in seeds]
    for fit in fits[1:4]:
        np.testing.assert_array_equal(fit.losses, fits[0].losses)
    assert len({float(fit.losses[0]) for fit in fits}) == 3 and all(type(fit.seed) is int for fit in fits)
    draws = [fits[0].posterior(Y, 3, seed=seed)["z"] for seed in seeds[:3]]
    assert all(np.array_equal(draws[0], other) for other in draws)
    gradients = [infer.gradient(bayes, proposal, Y, backend=backend, seed=seed)["m"] for seed in seeds[:3]]
    assert all(np.array_equal(gradients[0], other) for other in gradients)


@pytest.mark.parametrize(
    "seed", [-1, 2**32, 1.5, "a", True, None, torch.Generator(), jax.random.split(jax.random.key(0))]
)
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="seed: expected a whole number"):
        infer.fit(bayes, proposal, Y, steps=1, backend="torch", seed=seed)


# -- things in other things' places ----------------------------------------------------------------------------------


def slope(x: Any, y: Any) -> None:
    with pg.plate("data", len(y)):
        pg.sample("y", pg.dist.Normal(pg.param("m", pg.xp.zeros(())) * pg.xp.exp(x), 1.0), obs=y)


NUMBERS = [1.0, 2.0, 3.0]
MISPLACED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "data as the guide": ((bayes, Y), {}, r"guide: expected a program.*got ndarray of shape \(4,\).*data=x"),
    "a tensor as the guide": ((bayes, torch.ones(3)), {}, "guide: expected a program.*looks like data"),
    "a dict as the guide": ((bayes, {"y": Y}), {}, "guide: expected a program.*looks like data"),
    "data and guide exchanged": ((bayes, Y, proposal), {}, "guide: expected a program.*looks like data"),
    "a name as the guide": ((bayes, "auto", Y), {}, "guide: expected a program that proposes.*got 'auto'"),
    "a guide as the data": ((bayes, None, proposal), {}, "data: expected arrays"),
    "no model": ((None,), {}, "model: expected a program.*got None"),
    "data as the model": ((Y,), {}, r"model: expected a program.*got ndarray of shape \(4,\)"),
    "a class of models": ((models.VAE, None, Y), {}, r"model: expected a program or a built object; got the class VAE"),
    "a class of guides": (
        (bayes, AutoNormal, Y),
        {},
        r"guide: expected a program or a built object; got the class AutoNormal",
    ),
    "a list of numbers": ((bayes, proposal, NUMBERS), {}, "data: expected an array.*plain numbers.*numpy.array"),
    "a list of lists of numbers": ((bayes, proposal, [NUMBERS, NUMBERS]), {}, "data: expected an array.*plain numbers"),
    "a list of numbers as an argument": (
        (bayes, proposal, (NUMBERS,)),
        {},
        "site 'y' .Normal.: expected an array of observations; got a list",
    ),
    "a list of numbers by name": (
        (bayes, proposal, {"y": NUMBERS}),
        {},
        "site 'y' .Normal.: expected an array of observations; got a list",
    ),
    "a list of numbers that is computed with": (
        (slope, None, (NUMBERS, Y)),
        {},
        r"data\[0\]: expected an array; got a list",
    ),
    "numbers to validate on": (
        (bayes, proposal, Y),
        {"validation": NUMBERS},
        "validation: expected an array.*plain numbers",
    ),
    "text": ((bayes, proposal, "rows.csv"), {}, "data: expected arrays.*got 'rows.csv'"),
    "one callback": ((bayes, proposal, Y), {"callbacks": print}, "callbacks: expected a list of functions"),
    "one estimator": ((bayes, proposal, Y), {"estimators": pg.estimators.Score()}, "estimators: expected a dict"),
    "half a particle": ((bayes, proposal, Y), {"num_particles": 1.5}, "num_particles: expected a whole number"),
    "half a row": ((bayes, proposal, Y), {"batch_size": 2.5}, "batch_size: expected a whole number"),
    "a number as the device": ((bayes, proposal, Y), {"device": 0}, "device: expected a name"),
    "a number as the path": ((bayes, proposal, Y), {"checkpoint": 3}, "checkpoint: expected a path"),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_what_is_in_another_things_place_is_named(what: str, backend: str) -> None:
    args, options, named = MISPLACED[what]
    with pytest.raises((TypeError, ProgramError), match=named):
        infer.fit(*args, steps=1, backend=backend, **options)
    verbs = [verb for verb in (infer.plan, infer.gradient) if not options]
    for verb in verbs:
        with pytest.raises((TypeError, ProgramError), match=named):
            verb(*args, backend=backend)


def test_an_unused_parameter_warns_whoever_states_it(backend: str) -> None:
    def guide(y: Any) -> None:
        pg.param("idle", pg.xp.zeros(2))
        proposal(y)

    def idle_layer(y: Any) -> None:
        pg.nn.linear("spare", pg.xp.ones((2, 3)), 2)
        proposal(y)

    for program, name in ((guide, "idle"), (idle_layer, "spare")):
        with pytest.warns(
            UserWarning, match=f"param '{name}.*: expected a way to the loss; got none, no site depends on it"
        ):
            fit = infer.fit(bayes, program, Y, steps=3, backend=backend, learning_rate=0.1, compile=False)
        assert all(not value.any() for key, value in fit.params.items() if key == "idle") and fit.params["m"] != 0


# -- fingerprints ----------------------------------------------------------------------------------------------------


class Square(torch.autograd.Function):
    """A function with a derivative of its own, which is right."""

    @staticmethod
    def forward(ctx: Any, z: Any) -> Any:
        ctx.save_for_backward(z)
        return z.detach() ** 2

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * slope


@jax.custom_vjp
def square(z: Any) -> Any:
    """The same."""
    return z**2


square.defvjp(lambda z: (z**2, z), lambda z, slope: (2 * z * slope,))


def test_a_declared_derivative_is_trusted_where_the_user_says_so(backend: str) -> None:
    """The mean of 20,000 draws is within 5 standard errors (7e-7 of false alarm; 10 % are 7) of 2 m^3 + (7 - 2 x) m."""
    own = Square.apply if backend == "torch" else square

    def before(x: Any) -> None:
        pg.sample("x", pg.dist.Normal(own(pg.sample("z", pg.dist.Normal(0.0, 1.0))), 1.0), obs=x)

    def after(x: Any) -> None:
        pg.sample("z", pg.dist.Normal(pg.param("m", pg.xp.ones(())), 1.0))

    x: Any = np.float32(0.7)
    assert isinstance(infer.plan(before, after, (x,), backend=backend)["z"].estimator, Score)
    with pytest.raises(ProgramError, match=r"Pathwise\(\), but (the cost jumps|no gradient passes)"):
        infer.plan(before, after, (x,), backend=backend, estimators={"z": Pathwise()})
    trusting = {"z": Pathwise(trusted=True)}
    drawn = infer.gradient(before, after, (x,), backend=backend, estimators=trusting, num_samples=20_000)["m"]
    assert abs(drawn.mean() - (2 + 7 - 2 * 0.7)) < 5 * drawn.std() / np.sqrt(len(drawn))
    fit = infer.fit(before, after, (x,), backend=backend, estimators=trusting, steps=3, progress=False)
    assert "Pathwise(trusted=True)" in str(fit.plan) and "as asked" in str(fit.plan)


def test_likelihoods_of_other_data_do_not_meet() -> None:
    """Those of the same do, on either backend, whatever type of array they came in."""
    fits = [infer.fit(model, data=Y, backend=b, steps=1, compile=False) for b in ("torch", "jax")]
    same = [fits[0].log_prob(data) for data in (Y, Y.astype(np.float32), torch.as_tensor(Y), (Y,), {"y": Y})]
    same.append(fits[1].log_prob(Y))
    assert same[0].fingerprint is not None and len({one.fingerprint for one in same}) == 1
    np.testing.assert_allclose(same[-1] - same[0], 0.0, atol=1e-5)
    for other in (Y + 1, Y[:3], Y[::-1].copy()):
        with pytest.raises(ValueError, match="expected two of the same data"):
            _ = fits[0].log_prob(other) - same[0]
    assert fits[0].log_prob(Y)[0].fingerprint == same[0].fingerprint


def test_conditional_likelihoods_know_evidence_and_values() -> None:
    nade = models.OrderAgnosticNADE(3, hidden=(2,))
    x = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    fit = infer.fit(nade, data=x, backend="torch", steps=1)
    ask = fit.query([0], given={2: 1}).log_prob
    assert ask(x[:, :1]) - ask(x[:, :1]) is not None and fit.log_prob(x).fingerprint is not None
    for other in (
        ask(1 - x[:, :1]),
        fit.query([0], given={2: 0}).log_prob(x[:, :1]),
        fit.query([0]).log_prob(x[:, :1]),
    ):
        with pytest.raises(ValueError, match="expected two of the same data"):
            _ = other - ask(x[:, :1])


# -- threads ---------------------------------------------------------------------------------------------------------


def in_pyro(y: Any) -> None:
    with pyro.plate("data", len(y)):
        pyro.sample("y", pyro.distributions.Normal(pyro.param("m", torch.zeros(())), 1.0), obs=y)


def in_numpyro(y: Any) -> None:
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", numpyro.distributions.Normal(numpyro.param("m", 0.0), 1.0), obs=y)


def test_fits_in_threads_take_turns() -> None:
    """Two on each backend at once: each is what it is alone, and the user's own random state is untouched."""
    jobs: list[tuple[Callable[..., Any], float]] = [(p, shift) for p in (in_pyro, in_numpyro) for shift in (0.0, 1.0)]

    def run(program: Callable[..., Any], shift: float) -> infer.Fit:
        data = torch.as_tensor(Y + shift) if program is in_pyro else jax.numpy.asarray(Y + shift)
        fit = infer.fit(program, data=data, steps=30, learning_rate=0.1, compile=False)
        fit.log_prob(data)
        return fit

    alone, found = [run(*job) for job in jobs], dict[int, Any]()
    gate = threading.Barrier(len(jobs))

    def work(number: int) -> None:
        gate.wait()
        try:
            found[number] = run(*jobs[number])
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, fit in enumerate(alone):
        np.testing.assert_array_equal(found[number].losses, fit.losses)


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[None]:
    """Ctrl-C is heard, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("how", ["signal", "raised"])
def test_ctrl_c_keeps_what_there_is(how: str, backend: str, tmp_path: Any) -> None:
    path = tmp_path / "run"

    def press(state: infer.Running) -> None:
        if state.step == 4:
            if how == "raised":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    options: dict[str, Any] = {"backend": backend, "compile": False, "learning_rate": 0.1}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="step 4 of 10") as caught:
        infer.fit(bayes, proposal, Y, steps=10, callbacks=[press], checkpoint=path, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert isinstance(caught.value, Interrupted)
    short, whole = (infer.fit(bayes, proposal, Y, steps=steps, **options) for steps in (4, 10))
    for fit in (caught.value.fit, infer.load(path, bayes, proposal)):
        np.testing.assert_array_equal(fit.losses, short.losses)
        np.testing.assert_array_equal(fit.params["m"], short.params["m"])
    continued = infer.fit(bayes, proposal, Y, steps=10, checkpoint=path, **options)
    np.testing.assert_array_equal(continued.losses, whole.losses)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_amid_a_long_stretch_ends_with_the_step(backend: str) -> None:
    """Pressed within a step, long before the next report: the step is done, and losses and parameters belong together."""
    runs, at = [0], [10**9]

    def pressing(y: Any) -> None:
        runs[0] += 1
        if runs[0] == at[0]:
            os.kill(os.getpid(), signal.SIGINT)
        model(y)

    def run(steps: int) -> infer.Fit:
        runs[0] = 0
        return infer.fit(pressing, data=Y, steps=steps, backend=backend, learning_rate=0.1, compile=False)

    run(0)
    at[0] = runs[0] + 7
    with pytest.raises(Interrupted, match="step .* of 100000") as caught:
        run(100_000)
    fit, at[0] = caught.value.fit, 10**9
    assert 1 <= len(fit.losses) <= 7
    short = run(len(fit.losses))
    np.testing.assert_array_equal(fit.losses, short.losses)
    np.testing.assert_array_equal(fit.params["m"], short.params["m"])


def test_ctrl_c_in_the_program_puts_the_step_back_and_before_the_first_there_is_no_fit() -> None:
    count = [0]

    def breaking(y: Any) -> None:
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        model(y)

    at = 10**9
    infer.fit(breaking, data=Y, backend="torch", steps=0, compile=False)
    readings = count[0]
    for place, steps in ((readings + 3, 2), (1, None)):
        at, count[0] = place, 0
        with pytest.raises(Interrupted) as caught:
            infer.fit(breaking, data=Y, backend="torch", steps=5, compile=False)
        assert (caught.value.fit is None) if steps is None else len(caught.value.fit.losses) == steps


# -- units -----------------------------------------------------------------------------------------------------------


def test_validation_and_training_losses_are_shown_in_one_unit(backend: str) -> None:
    """Forty rows to train on and eight held out, of one distribution: per row the two losses are alike."""
    rng = np.random.default_rng(0)
    x, held_out = rng.normal(size=40), rng.normal(size=8)
    batches = [x[start : start + 10] for start in range(0, 40, 10)]
    for data, validation in ((x, held_out), (batches, [held_out[:4], held_out[4:]]), (iter(batches), [held_out])):
        with np.errstate(all="ignore"):
            fit = infer.fit(model, data=data, validation=validation, steps=4, backend=backend, compile=False)
        rows = 10 if isinstance(data, type(iter([]))) else 40
        train = fit.losses.mean() / rows
        best = min(value for _, value in fit.validation_losses) / 8
        assert abs(train - best) < 1.0 < abs(fit.losses.mean() - best * 8)
        axes = fit.plot().axes[0]
        assert axes.get_ylabel() == "loss, nats per row"
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        np.testing.assert_allclose(lines["each step"], fit.losses / rows)
        np.testing.assert_allclose(lines["validation"], [value / 8 for _, value in fit.validation_losses])
        summary = fit.summary()
        assert f"{fit.losses[-1:].mean() / rows:.3f} per row" in summary and f"{best:.3f} per row" in summary


def test_the_bar_shows_validation_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    from ppl_gen.training import progress

    shown: list[dict[str, str]] = []
    monkeypatch.setattr(progress, "_watched", lambda: True)
    monkeypatch.setattr(tqdm, "set_postfix", lambda self, values, refresh: shown.append(dict(values)))
    fit = infer.fit(model, data=Y, validation=Y[:2], steps=3, backend="torch", compile=False)
    found = [float(one["validation"]) for one in shown if "validation" in one]
    np.testing.assert_allclose(found, [value / 2 for _, value in fit.validation_losses], atol=1e-3)
    np.testing.assert_allclose([float(one["nats/row"]) for one in shown], fit.losses / 4, atol=1e-3)
