"""Python control flow that hangs on data or parameters, which later batches and steps change, decides no fact by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as jdist
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_gen import infer
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Pathwise, Score
from tests.plan_table import library

Y = torch.tensor([1.8, 0.2, -0.5])
OFF, ON = torch.zeros(3), torch.ones(3)
Mean = Callable[[Tensor, Tensor], Tensor]


def guide(x: Tensor, *rest: Any) -> None:
    logits = pyro.param("logits", torch.tensor([0.3, -0.4, 0.2]))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Bernoulli(logits=logits[: len(x)]))


def program(mean: Mean) -> Callable[..., None]:
    def model(x: Tensor, a: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(mean(z, a), 0.6), obs=x)

    return model


TURNS: dict[str, Mean] = {
    "an element": lambda z, a: 2 * z if a[0] < 0.5 else 2 * z.flip(0),
    "all of it": lambda z, a: 2 * z if bool((a < 0.5).all()) else 2 * z.flip(0),
    "NumPy": lambda z, a: 2 * z if a.numpy().max() < 0.5 else 2 * z.flip(0),
    "a shape": lambda z, a: 2 * z if len(a[a > 0.5]) == 0 else 2 * z.flip(0),
    "a whole number": lambda z, a: z.roll(int(a[0])),
    "a table of functions": lambda z, a: {0: z, 1: z.flip(0)}[int(a[0])],
}
QUICK: dict[str, Any] = {"steps": 2, "progress": False, "compile": False}


@pytest.mark.parametrize("name", TURNS)
def test_batches_whose_data_turn_the_program_are_refused(name: str) -> None:
    with pytest.raises(ProgramError, match=r"another on a batch.*site 'z'.*mix in plate 'rows'"):
        infer.fit(program(TURNS[name]), guide, [(Y, OFF), (Y, ON)], **QUICK)


def test_batches_of_rows_whose_data_turn_the_program_are_refused() -> None:
    def of_rows(x: Tensor, *rest: Any) -> None:
        logit = pyro.param("logit", torch.tensor(0.3))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logit.expand(len(x))))

    data = (torch.cat([Y, Y]), torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    with pytest.raises(ProgramError, match=r"another on the batch of step \d.*mix in plate 'rows'"):
        infer.fit(program(lambda z, a: 2 * z if a.sum() < 0.5 else 2 * z.flip(0)), of_rows, data, batch_size=3, **QUICK)


def test_batches_whose_data_turn_nothing_that_counts_train() -> None:
    fit = infer.fit(program(lambda z, a: 2 * z if a[0] < 0.5 else -z), guide, [(Y, OFF), (Y, ON)], **QUICK)
    assert len(fit.losses) == 2 and fit.plan["z"].summed_plates == frozenset()


@pytest.mark.parametrize("read", [bool, Tensor.item], ids=["bool", "item"])
def test_a_parameter_that_turns_the_program_hides_nothing(read: Callable[[Tensor], Any]) -> None:
    def model(x: Tensor) -> None:
        c = pyro.param("c", torch.tensor(1e-6))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("x", dist.Normal(c + (2 * z if read(c > 0) else 2 * z.flip(0)), 0.6), obs=x)

    plan = infer.plan(model, guide, Y)
    assert plan["z"].summed_plates == {"rows"}
    assert "test_data_on_host.py" in str(plan) and "the signal sums over the plate" in str(plan)


def normal(backend: str, mean: Callable[[Any], Any]) -> Any:
    """The entry of a normal latent before an observation around `mean` of it."""
    lib = library(backend)

    def model(x: Any) -> None:
        w = lib.sample("w", lib.dist.Normal(0.0, 1.0))
        lib.sample("x", lib.dist.Normal(mean(w), 0.6), obs=x)

    def proposal(x: Any) -> None:
        lib.sample("w", lib.dist.Normal(lib.param("m", lib.array(0.2)), 1.0))

    return infer.plan(model, proposal, lib.array(0.7))["w"]


tt, jt = dist.transforms, jdist.transforms
STEPS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "power": ("torch", lambda w: torch.tanh(tt.PowerTransform(torch.tensor(-1.0))(w))),
    "inverse of an affine map": ("torch", lambda w: torch.tanh(tt.AffineTransform(0.0, w).inv(torch.ones(())))),
    "weight norm": ("torch", lambda w: torch._weight_norm(w.reshape(1, 1), torch.ones(1, 1), 0).sum()),
    "layer norm of hardly an epsilon": (
        "torch",
        lambda w: F.layer_norm(w * torch.tensor([1.0, 2.0, 4.0]), (3,), eps=1e-9).max(),
    ),
    "NumPyro's power": ("jax", lambda w: jnp.tanh(jt.PowerTransform(-1.0)(w))),
    "NumPyro's inverse of an affine map": ("jax", lambda w: jnp.tanh(jt.AffineTransform(0.0, w).inv(1.0))),
    "knots that stand twice": (
        "jax",
        lambda w: jnp.interp(w, np.array([-2.0, 0.0, 0.0, 2.0]), np.array([-1.0, -1.0, 1.0, 1.0])),
    ),
}
SMOOTH: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "exponential": ("torch", lambda w: tt.ExpTransform()(w)),
    "stick breaking": ("torch", lambda w: tt.StickBreakingTransform()(torch.stack([w, 2 * w])).sum()),
    "over a spread and a little": ("torch", lambda w: w / (torch.stack([w, 2 * w]).std() + 1e-5)),
    "logarithm of a hyperbolic cosine": ("torch", lambda w: torch.log(torch.cosh(w))),
    "NumPyro's logarithm of a hyperbolic cosine": ("jax", lambda w: jnp.log(jnp.cosh(w))),
    "layer norm": ("torch", lambda w: F.layer_norm(w * torch.tensor([1.0, 2.0, 4.0]), (3,)).max()),
    "NumPyro's exponential": ("jax", lambda w: jt.ExpTransform()(w)),
    "knots that rise": ("jax", lambda w: jnp.interp(w, np.array([-2.0, 0.0, 2.0]), np.array([-1.0, 1.0, 1.0]))),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_a_library_names_may_step_all_the_same(name: str) -> None:
    row = normal(*STEPS[name])
    assert isinstance(row.estimator, Score), row.reason


@pytest.mark.parametrize("name", SMOOTH)
def test_what_a_library_names_smooth_is_pathwise(name: str) -> None:
    row = normal(*SMOOTH[name])
    assert isinstance(row.estimator, Pathwise), row.reason
