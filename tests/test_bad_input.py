"""Bad programs and bad data raise before training, and say where, what was expected and what came.

The programs are portable text, so that both backends read the same mistake.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import pyro
import pyro.distributions
import pytest
import torch

import ppl_gen as pg
from ppl_gen import dist, estimators, infer
from ppl_gen.errors import NonFinite, ProgramError

Program = tuple[Callable[..., Any], Callable[..., Any] | None, Any]


def rows(count: int = 12) -> np.ndarray:
    return np.linspace(0.5, 2.0, count, dtype=np.float32)


def guide(x: Any) -> None:
    pg.sample("z", dist.Normal(pg.param("loc", lambda: pg.xp.asarray(0.0)), 1.0))


def discrete_guide(x: Any) -> None:
    pg.sample("z", dist.Bernoulli(logits=pg.param("logit", lambda: pg.xp.asarray(0.0))))


def model(x: Any) -> None:
    z = pg.sample("z", dist.Normal(0.0, 1.0))
    with pg.plate("data", x.shape[0]):
        pg.sample("x", dist.Normal(z, 1.0), obs=x)


def discrete_model(x: Any) -> None:
    z = pg.xp.astype(pg.sample("z", dist.Bernoulli(probs=pg.xp.asarray(0.5))), pg.xp.float32)
    with pg.plate("data", x.shape[0]):
        pg.sample("x", dist.Normal(z, 1.0), obs=x)


def observing(distribution: Callable[[Any], Any], size: int | None = None) -> Callable[[Any], None]:
    """A model that sees its data through `distribution(z)`, in a plate of `size` (or the data's length)."""

    def observed_model(x: Any) -> None:
        z = pg.sample("z", dist.Normal(0.0, 1.0))
        with pg.plate("data", x.shape[0] if size is None else size):
            pg.sample("x", distribution(z), obs=x)

    return observed_model


def damaged(value: float) -> np.ndarray:
    x = rows()
    x[5] = value
    return x


def column_against_row(x: Any) -> None:
    z = pg.sample("z", dist.Normal(0.0, 1.0))
    with pg.plate("data", x.shape[0]):
        pg.sample("x", dist.Normal(z * pg.xp.ones((12, 1)), 1.0), obs=x)


def column_against_row_as_event(x: Any) -> None:
    z = pg.sample("z", dist.Normal(0.0, 1.0))
    pg.sample("x", dist.Normal(z * pg.xp.ones((12, 1)), 1.0).to_event(2), obs=x)


def guide_with_more(x: Any) -> None:
    guide(x)
    pg.sample("extra", dist.Normal(0.0, 1.0))


def empty_guide(x: Any) -> None:
    pass


def model_with_two_latents(x: Any) -> None:
    model(x)
    pg.sample("w", dist.Normal(0.0, 1.0))


def model_with_discrete_latent(x: Any) -> None:
    model(x)
    pg.sample("k", dist.Poisson(2.0))


def model_with_one_name_twice(x: Any) -> None:
    z = pg.sample("z", dist.Normal(0.0, 1.0))
    pg.sample("z", dist.Normal(z, 1.0))
    pg.sample("x", dist.Normal(z, 1.0).expand([x.shape[0]]).to_event(1), obs=x)


def guide_with_one_name_twice(x: Any) -> None:
    guide(x)
    pg.sample("z", dist.Normal(0.0, 1.0))


def guide_with_idle_param(x: Any) -> None:
    pg.param("idle", lambda: pg.xp.asarray(1.0))
    guide(x)


def model_with_stopped_param(x: Any) -> None:
    shift = pg.xp.stop_gradient(pg.param("stopped", lambda: pg.xp.asarray(1.0)))
    z = pg.sample("z", dist.Normal(0.0, 1.0))
    with pg.plate("data", x.shape[0]):
        pg.sample("x", dist.Normal(z + shift, 1.0), obs=x)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype=np.float32)


def counts(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


WHERE_X = r"('x'|\bx\b|data\[0\])"

# name -> (program, options of fit, what the message must hold)
CASES: dict[str, tuple[Program, dict[str, Any], tuple[str, ...]]] = {
    "NaN in the data": ((model, guide, (damaged(np.nan),)), {}, (WHERE_X, "nan")),
    "infinity in the data": ((model, guide, (damaged(np.inf),)), {}, (WHERE_X, "inf")),
    "NaN in keyword data": ((model, guide, {"x": damaged(np.nan)}), {}, ("'x'", "nan")),
    "Bernoulli of 2": (
        (observing(lambda z: dist.Bernoulli(logits=z)), guide, (counts(0, 1, 2),)),
        {},
        ("'x'", "Bernoulli", r"\b2"),
    ),
    "negative LogNormal": (
        (observing(lambda z: dist.LogNormal(z, 1.0)), guide, (counts(1, -3, 2),)),
        {},
        ("'x'", "LogNormal", "-3"),
    ),
    "Beta of 1.5": (
        (observing(lambda z: dist.Beta(1 + pg.xp.exp(z), 1.0)), guide, (counts(0.5, 1.5),)),
        {},
        ("'x'", "Beta", r"1\.5"),
    ),
    "negative Poisson": (
        (observing(lambda z: dist.Poisson(pg.xp.exp(z))), guide, (counts(1, -1),)),
        {},
        ("'x'", "Poisson", "-1"),
    ),
    "observation of length 1": (
        (observing(lambda z: dist.Normal(z, 1.0), 12), guide, (rows(1),)),
        {},
        ("'x'", "12", r"\(1,\)|\b1\b"),
    ),
    "observation shorter than its plate": (
        (observing(lambda z: dist.Normal(z, 1.0), 12), guide, (rows(10),)),
        {},
        ("'x'", "12", "10"),
    ),
    "observation longer than its plate": (
        (observing(lambda z: dist.Normal(z, 1.0), 12), guide, (rows(13),)),
        {},
        ("'x'", "12", "13"),
    ),
    "(N, 1) distribution in a plate of N": (
        (column_against_row, guide, (rows(12),)),
        {},
        ("'x'", r"\(12, 1\)|\(12, 12\)"),
    ),
    "(N, 1) event against (N,) data": (
        (column_against_row_as_event, guide, (rows(12),)),
        {},
        ("'x'", r"\(12, 1\)", r"\(12,\)"),
    ),
    "guide site that the model lacks": ((model, guide_with_more, (rows(),)), {}, ("'extra'", "model")),
    "model latent that the guide lacks": ((model_with_two_latents, guide, (rows(),)), {}, ("'w'", "guide")),
    "discrete site in the model only": (
        (model_with_discrete_latent, guide, (rows(),)),
        {},
        ("'k'", "Poisson", r"add .*guide"),
    ),
    "one name twice in the model": (
        (model_with_one_name_twice, guide, (rows(),)),
        {},
        ("'z'", "twice|unique|two|once"),
    ),
    "one name twice in the guide": (
        (model, guide_with_one_name_twice, (rows(),)),
        {},
        ("'z'", "twice|unique|two|once"),
    ),
    "parameter behind stop_gradient": (
        (model_with_stopped_param, guide, (rows(),)),
        {},
        ("'stopped'", "gradient|loss|unused"),
    ),
    "discrete site forced to Pathwise": (
        (discrete_model, discrete_guide, (rows(),)),
        {"estimators": {"z": estimators.Pathwise()}},
        ("'z'", "Bernoulli", "Pathwise"),
    ),
    "unknown site in estimators": (
        (model, guide, (rows(),)),
        {"estimators": {"zeta": estimators.Score()}},
        ("'zeta'", "'z'"),
    ),
    "estimator that is a class": (
        (model, guide, (rows(),)),
        {"estimators": {"z": estimators.Score}},
        ("'z'", "instance"),
    ),
    "zero rows": ((model, guide, (zeros(0),)), {}, (WHERE_X, r"row|\(0,\)|\b0\b")),
    "zero rows of columns": ((model, guide, {"x": zeros(0, 3)}), {}, ("'x'", "row|0")),
    "device that is not there": ((model, guide, (rows(),)), {"device": "cuda"}, ("cuda", "cpu")),
    "device that is no device": ((model, guide, (rows(),)), {"device": "abacus"}, ("abacus", "cpu")),
    "fewer than no steps": ((model, guide, (rows(),)), {"steps": -1}, ("steps", "-1")),
    "batch of no rows": ((model, guide, (rows(),)), {"batch_size": 0}, ("batch_size", "0")),
    "no particles": ((model, guide, (rows(),)), {"num_particles": 0}, ("num_particles", "0")),
}


def assert_says(error: BaseException, *patterns: str) -> None:
    """The message has the house form and holds every pattern."""
    message = str(error)
    for pattern in ("expected", r"got|has no", *patterns):
        assert re.search(pattern, message, re.IGNORECASE | re.DOTALL), f"no {pattern!r} in: {message}"


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_before_training(name: str, backend: str) -> None:
    steps_taken: list[Any] = []
    if name == "device that is not there" and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    (bad_model, bad_guide, data), options, patterns = CASES[name]
    settings = {
        "steps": 3,
        "backend": backend,
        "progress": False,
        "callbacks": [steps_taken.append],
    } | options
    with pytest.raises((ValueError, TypeError)) as caught:
        infer.fit(bad_model, bad_guide, data, **{**settings, **options})
    assert_says(caught.value, *patterns)
    assert steps_taken == []


@pytest.mark.parametrize("verb", [infer.plan, infer.gradient])
def test_plan_and_gradient_refuse_too(verb: Callable[..., Any], backend: str) -> None:
    with pytest.raises(ProgramError) as caught:
        verb(model_with_two_latents, guide, (rows(),), backend=backend)
    assert_says(caught.value, "'w'", "guide")


def test_the_good_programs_of_this_file_are_accepted(backend: str) -> None:
    for good_model, good_guide in ((model, guide), (discrete_model, discrete_guide)):
        fit = infer.fit(good_model, good_guide, (rows(),), steps=2, backend=backend, progress=False)
        assert np.isfinite(fit.losses).all()


PACKAGES = {"torch": ("torch", "pyro"), "jax": ("jax", "numpyro")}


@pytest.mark.parametrize("missing", [0, 1])
def test_backend_that_is_not_installed_is_named(backend: str, missing: int) -> None:
    """In a process of its own, where the package cannot be imported."""
    package = PACKAGES[backend][missing]
    text = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ppl_gen import infer\n"
        "try:\n"
        f"    infer.fit(lambda x: None, lambda x: None, [0.0], backend={backend!r})\n"
        "except (ImportError, ValueError) as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=True)
    assert re.search(rf"backend '{backend}'.*pip install .*ppl_gen\[{backend}\]", done.stdout, re.DOTALL), done.stdout


def test_a_parameter_without_use_is_told_and_trained_around(backend: str) -> None:
    with pytest.warns(UserWarning) as caught:
        fit = infer.fit(model, guide_with_idle_param, (rows(),), steps=2, backend=backend, progress=False)
    assert_says(AssertionError(str(caught[0].message)), "'idle'", "loss")
    assert fit.params["idle"] == 1.0


def test_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError) as caught:
        infer.fit(model, guide, (rows(),), backend="tensorflow", progress=False)
    assert_says(caught.value, "tensorflow", "torch", "jax")


def pyro_model(x: Any) -> None:
    z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    pyro.sample("x", pyro.distributions.Normal(z, 1.0).expand([12]).to_event(1), obs=torch.as_tensor(x))


def numpyro_model(x: Any) -> None:
    z = numpyro.sample("z", numpyro.distributions.Normal(0.0, 1.0))
    numpyro.sample("x", numpyro.distributions.Normal(z, 1.0).expand([12]).to_event(1), obs=jnp.asarray(x))


def pyro_guide(x: Any) -> None:
    pyro.sample("z", pyro.distributions.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


def numpyro_guide(x: Any) -> None:
    numpyro.sample("z", numpyro.distributions.Normal(numpyro.param("loc", 0.0), 1.0))


def pyro_model_with_a_numpyro_site(x: Any) -> None:
    pyro_model(x)
    numpyro.sample("foreign", numpyro.distributions.Normal(0.0, 1.0))


def numpyro_model_with_a_pyro_site(x: Any) -> None:
    numpyro_model(x)
    pyro.sample("foreign", pyro.distributions.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("mixed_model", "mixed_guide", "site"),
    [
        (pyro_model_with_a_numpyro_site, pyro_guide, "foreign"),
        (numpyro_model_with_a_pyro_site, numpyro_guide, "foreign"),
        (pyro_model, numpyro_guide, "z"),
        (numpyro_model, pyro_guide, "z"),
    ],
)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_sites_of_both_libraries_in_one_program_raise(
    mixed_model: Callable[..., Any], mixed_guide: Callable[..., Any], site: str
) -> None:
    with pytest.raises((ProgramError, TypeError)) as caught:
        infer.fit(mixed_model, mixed_guide, (rows(),), steps=2, progress=False)
    assert re.search(rf"'({site}|loc)'", str(caught.value))
    assert_says(caught.value, "Pyro", "NumPyro")


def last_good(error: NonFinite, before: int) -> None:
    """The state that comes with the error is usable, and older than the step that failed."""
    assert error.fit is not None
    assert error.fit.params
    assert all(np.isfinite(value).all() for value in error.fit.params.values())
    assert np.isfinite(error.fit.losses).all()
    assert len(error.fit.losses) <= before


def model_of_logarithm(x: Any, y: Any) -> None:
    """Finite data, but log(x) is a NaN where x is negative."""
    slope = pg.sample("slope", dist.Normal(0.0, 1.0))
    with pg.plate("data", x.shape[0]):
        pg.sample("y", dist.Normal(slope * pg.xp.log(x), 1.0), obs=y)


def guide_of_logarithm(x: Any, y: Any) -> None:
    pg.sample("slope", dist.Normal(pg.param("loc", lambda: pg.xp.asarray(0.0)), 1.0))


def test_nan_in_one_batch_stops_the_run_and_names_the_site(backend: str) -> None:
    good = (rows(8), rows(8))
    bad = (np.where(np.arange(8) == 3, -1, rows(8)).astype(np.float32), rows(8))
    batches = [good] * 6 + [bad] + [good] * 5
    with pytest.raises(NonFinite, match="'y'") as caught:
        infer.fit(model_of_logarithm, guide_of_logarithm, batches, steps=30, backend=backend, progress=False)
    last_good(caught.value, before=30)


def test_nan_where_training_leads_names_the_site(backend: str) -> None:
    """The parameter falls from 0.05 by 0.02 a step: its square root is a NaN at the fourth step."""

    def walking_model(x: Any) -> None:
        p = pg.param("p", lambda: pg.xp.asarray(0.05))
        with pg.plate("data", x.shape[0]):
            pg.sample("x", dist.Normal(pg.xp.sqrt(p), 1.0), obs=x)

    x = np.full(8, -1.0, dtype=np.float32)
    with pytest.raises(NonFinite, match="'(x|p)'") as caught:
        infer.fit(walking_model, empty_guide, (x,), steps=30, learning_rate=0.02, backend=backend, progress=False)
    last_good(caught.value, before=6)


def test_nan_in_the_gradient_alone_stops_the_run(backend: str) -> None:
    """Loss finite: the root of zero is not chosen, but its derivative is infinite and meets a zero."""

    def root_model(x: Any) -> None:
        p = pg.param("p", lambda: pg.xp.asarray(1.0))
        mean = pg.xp.where(x > 0, pg.xp.sqrt(x * p), pg.xp.zeros(x.shape))
        with pg.plate("data", x.shape[0]):
            pg.sample("x", dist.Normal(mean, 1.0), obs=x)

    bad = np.where(np.arange(8) == 3, 0.0, rows(8)).astype(np.float32)
    with pytest.raises(NonFinite, match="'(x|p)'") as caught:
        infer.fit(root_model, empty_guide, [rows(8)] * 4 + [bad] * 2, steps=6, backend=backend, progress=False)
    last_good(caught.value, before=6)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_refused_by_line() -> None:
    def program(x: Any) -> None:
        w = pyro.sample("w", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
        rows = torch.nested.as_nested_tensor([w[:1], w[1:]])
        pyro.sample("x", pyro.distributions.Normal(rows.to_padded_tensor(0.0), 1.0).to_event(2), obs=x)

    def proposal(x: Any) -> None:
        pyro.sample("w", pyro.distributions.Normal(pyro.param("m", torch.zeros(3)), 1.0).to_event(1))

    with pytest.raises(ProgramError, match=r"test_bad_input.py:\d+: .*expected tensors with a shape; got a nested one"):
        infer.fit(program, proposal, torch.zeros(2, 2), steps=1, progress=False)


@pytest.mark.parametrize("what", ["mask", "scale"])
@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_mask_or_scale_wider_than_its_site_is_refused(what: str, where: str) -> None:
    """Its log density would count once for each element."""
    wide: Any = torch.tensor([1.0, 0.0, 1.0])

    def around(program: Any) -> Any:
        return pyro.poutine.mask(program, wide > 0) if what == "mask" else pyro.poutine.scale(program, wide + 1)

    def program(x: Any) -> None:
        m = pyro.sample("m", pyro.distributions.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", pyro.distributions.Normal(m, 1.0), obs=x)

    def proposal(x: Any) -> None:
        pyro.sample("m", pyro.distributions.Normal(pyro.param("l", torch.zeros(())), 1.0))

    model, guide = (around(program), proposal) if where == "model" else (program, around(proposal))
    with pytest.raises(
        ProgramError, match=rf"site 'm' \(Normal\): expected a {what} that fits .*; got one of shape \(3,\)"
    ):
        infer.plan(model, guide, torch.zeros(3))


def test_a_scale_wider_than_its_site_is_refused_on_jax() -> None:
    def program(x: Any) -> None:
        with numpyro.handlers.scale(scale=jnp.array([1.0, 2.0, 1.0])):
            m = numpyro.sample("m", numpyro.distributions.Normal(0.0, 1.0))
            with numpyro.plate("rows", 3):
                numpyro.sample("x", numpyro.distributions.Normal(m, 1.0), obs=x)

    def proposal(x: Any) -> None:
        numpyro.sample("m", numpyro.distributions.Normal(numpyro.param("l", jnp.zeros(())), 1.0))

    with pytest.raises(
        ProgramError, match=r"site 'm' \(Normal\): expected a scale that fits .*; got one of shape \(3,\)"
    ):
        infer.plan(program, proposal, jnp.zeros(3))
