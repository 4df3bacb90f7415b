"""Plain Pyro and NumPyro programs train unchanged, get the right estimators, and leave nothing behind."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import numpyro
import pyro
import pytest
import torch

from ppl_gen import infer
from tests import plain_numpyro, plain_pyro

CASES = [
    pytest.param("torch" if module is plain_pyro else "jax", make, id=f"{library}-{make.__name__}")
    for library, module in (("pyro", plain_pyro), ("numpyro", plain_numpyro))
    for make in module.PROGRAMS
]
STEPS = 60


def built(make: Callable[[], Any]) -> Any:
    """The program, its networks drawn from seed 0, without touching the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def global_state() -> dict[str, Any]:
    """Everything process-wide that a fit could leave changed, as comparable values."""
    numpy_state: Any = np.random.get_state()
    return {
        "Pyro parameter store": (sorted(pyro.get_param_store().keys()), id(pyro.get_param_store())),
        "Pyro handler stack": list(pyro.poutine.runtime._PYRO_STACK),
        "NumPyro handler stack": list(numpyro.primitives._PYRO_STACK),
        "torch generator": torch.get_rng_state().tolist(),
        "NumPy generator": [np.asarray(part).tolist() for part in numpy_state],
        "Python generator": random.getstate(),
        "torch dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch anomaly mode": torch.is_anomaly_enabled(),
        "jax 64 bit": jax.config.read("jax_enable_x64"),
        "Pyro settings": pyro.settings.get(),
        "NumPyro validation": numpyro.distributions.Distribution._validate_args,
    }


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    before = global_state()
    yield
    after = global_state()
    assert [name for name in before if before[name] != after[name]] == []


def weights(networks: tuple[torch.nn.Module, ...]) -> list[tuple[str, list[Any], bool]]:
    """Parameters and buffers of the networks, and the mode each is in."""
    return [
        (name, value.detach().tolist(), network.training)
        for network in networks
        for name, value in network.state_dict().items()
    ]


def fitted(program: Any, **options: Any) -> Any:
    options = {"steps": STEPS, "learning_rate": program.learning_rate, "seed": 0, "progress": False} | options
    return infer.fit(program.model, program.guide, program.data, **options)


@pytest.mark.parametrize(("backend", "make"), CASES)
def test_plain_program_trains_unchanged(backend: str, make: Callable[[], Any]) -> None:
    program = built(make)
    networks = weights(getattr(program, "networks", ()))
    with nothing_left_behind():
        fit = fitted(program)
    losses = np.asarray(fit.losses)

    assert fit.backend == backend
    assert losses.shape == (STEPS,)
    assert np.isfinite(losses).all()
    improvement = losses[:10].mean() - losses[-20:].mean()
    assert improvement > program.least_improvement, f"{improvement:.2f} nats; losses {losses[:10]} to {losses[-20:]}"

    assert {site: type(fit.plan[site].estimator).__name__ for site in program.expected} == dict(program.expected)
    assert all(fit.plan[site].reason for site in program.expected)

    assert fit.params
    assert all(isinstance(value, np.ndarray) for value in fit.params.values())
    assert all(np.isfinite(value).all() for value in fit.params.values())
    assert weights(getattr(program, "networks", ())) == networks, "the user's networks were changed"


@pytest.mark.parametrize(
    ("backend", "make"),
    [
        ("torch", plain_pyro.semi_supervised),
        ("torch", plain_pyro.vae_of_pyro_modules),
        ("jax", plain_numpyro.semi_supervised),
        ("jax", plain_numpyro.vae_with_flax_modules),
    ],
)
def test_a_second_fit_starts_afresh(backend: str, make: Callable[[], Any]) -> None:
    program = built(make)
    first, second = fitted(program, steps=5), fitted(program, steps=5)
    np.testing.assert_array_equal(first.losses, second.losses)


@pytest.mark.parametrize("make", [plain_pyro.coin_auto_delta, plain_numpyro.coin_auto_delta])
def test_a_failing_fit_leaves_nothing_behind(make: Callable[[], Any]) -> None:
    program = built(make)

    def broken(flips: Any) -> None:
        program.guide(flips)
        raise RuntimeError("the guide is broken")

    with nothing_left_behind(), pytest.raises(RuntimeError, match="the guide is broken"):
        infer.fit(program.model, broken, program.data, steps=2, progress=False)


@pytest.mark.parametrize("make", plain_pyro.PROGRAMS)
def test_the_program_is_valid_for_pyro_itself(make: Callable[[], Any]) -> None:
    with torch.random.fork_rng(), pyro.get_param_store().scope():
        program = built(make)
        args = tuple(torch.as_tensor(a, dtype=torch.float32) if isinstance(a, np.ndarray) else a for a in program.args)
        svi = pyro.infer.SVI(
            program.model,
            program.guide,
            pyro.optim.PyroOptim(torch.optim.Adam, {"lr": 0.02}),
            pyro.infer.Trace_ELBO(),
        )
        assert np.isfinite([svi.step(*args, **program.kwargs) for _ in range(3)]).all()


@pytest.mark.nightly  # it judges the texts above, not this package
@pytest.mark.filterwarnings("ignore:Currently, SVI with Trace_ELBO:UserWarning")
@pytest.mark.parametrize("make", plain_numpyro.PROGRAMS)
def test_the_program_is_valid_for_numpyro_itself(make: Callable[[], Any]) -> None:
    program = make()
    graph = "Score" in program.expected.values()
    elbo = numpyro.infer.TraceGraph_ELBO() if graph else numpyro.infer.Trace_ELBO()
    svi = numpyro.infer.SVI(program.model, program.guide, numpyro.optim.Adam(0.02), elbo)
    result = svi.run(jax.random.key(0), 3, *program.args, progress_bar=False, **program.kwargs)
    assert np.isfinite(np.asarray(result.losses)).all()
