"""The first run of a JAX program compiles nothing, and is done again as JAX has it where NumPy's way does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

from ppl_gen import ProgramError
from ppl_gen.backends.jax import Program, operations, read, uncompiled
from ppl_gen.backends.jax.operations import apply
from ppl_gen.program import Batch
from tests import plan_table
from tests.test_first_step import MOST
from tests.test_jax_compilation import compilations

KEY = jax.random.key(3)
ORDINARY: dict[str, Callable[[str], tuple[Any, Any, Any]]] = {
    "VAE": lambda backend: plan_table.vae(plan_table.ACTIVATIONS["softplus"])(backend),
    "belief net": plan_table.belief_net,
}
SAME: dict[str, Callable[[], Any]] = {
    "keys": lambda: jax.random.key_data(jax.random.fold_in(jax.random.split(jax.random.key(5), 3)[1], 7)),
    "normal": lambda: jax.random.normal(KEY, (300, 20)),
    "each key": lambda: jax.vmap(lambda key: jax.random.normal(key, (3,)))(jax.random.split(KEY, 4)),
    "truncated": lambda: jax.random.truncated_normal(KEY, -2.0, 2.0, (100,)),
    "laplace": lambda: jax.random.laplace(KEY, (40,)),
    "integers": lambda: jax.random.randint(KEY, (40,), 0, 5),
    "coins": lambda: dist.Bernoulli(logits=jnp.linspace(-2.0, 2.0, 500)).sample(KEY),
    "categories": lambda: dist.Categorical(logits=jnp.arange(12.0).reshape(3, 4)).sample(KEY),
    "gamma": lambda: dist.Gamma(2.0, jnp.ones(3)).sample(KEY),
    "weak": lambda: jnp.asarray(0.5) * 2 + jnp.exp(jnp.asarray(1.0)),
    "products": lambda: jnp.einsum("bij,bjk->kbi", jnp.arange(60.0).reshape(3, 4, 5), jnp.ones((3, 5, 2))),
    "transposed product": lambda: jnp.tensordot(jnp.arange(24.0).reshape(2, 3, 4), jnp.ones((4, 3)), ((1, 2), (1, 0))),
    "triangle": lambda: jnp.tril(jnp.ones((4, 4))) @ jnp.arange(4.0),
    "sums of exponentials": lambda: jax.nn.logsumexp(jnp.arange(12.0).reshape(3, 4), -1),
    "softplus": lambda: jax.nn.softplus(jnp.linspace(-30.0, 30.0, 7)),
    "logistic": lambda: jax.nn.sigmoid(jnp.array([-1000.0, 0.0, 1000.0, jnp.nan])),
    "slope": lambda: jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 2))(jnp.arange(3.0)),
    "running sums": lambda: jax.lax.cumsum(jnp.arange(6.0).reshape(2, 3), 1, reverse=True),
    "numbers that no integer holds": lambda: jnp.array([1.5, jnp.nan, 1e20]).astype(int),
    "remainder": lambda: (jnp.arange(7) - 3) % jnp.array([3, 3, -3, -3, 0, 0, 1]),
    "quotient": lambda: jax.lax.div(jnp.arange(7) - 3, jnp.full(7, 2)),
    "powers": lambda: jnp.array([1.0, 2.0]) ** -2,
    "shifts": lambda: jax.lax.shift_right_logical(jnp.array([-8, 8, 8]), jnp.array([1, 32, 31])),
    "halves": lambda: jnp.arange(4.0).astype(jnp.bfloat16) * 2,
    "edges": lambda: jax.lax.erf_inv(jnp.array([-1.0, 0.0, 0.5, 1.0, 2.0])),
    "maxima": lambda: (jnp.argmax(jnp.array([[1.0, 3.0, 3.0]]), -1), jnp.max(jnp.array([1.0, jnp.nan]))),
    "inner product": lambda: jnp.dot(jnp.arange(3.0), jnp.arange(3.0)),
    "bits of all": lambda: (jnp.bitwise_or.reduce(jnp.array([4, 2, 1])), jnp.bitwise_and.reduce(jnp.array([6, 3]))),
    "a product in a wider type": lambda: jax.lax.dot(
        jnp.full(3, 100, jnp.int8), jnp.full(3, 100, jnp.int8), preferred_element_type=jnp.int32
    ),
    "half precision": lambda: jnp.cumsum(jnp.ones(3000, jnp.float16))[-1],
    "a maximum of nothing": lambda: jnp.max(jnp.zeros(0), initial=-jnp.inf),
    "keys of four words": lambda: jax.random.key_data(jax.random.split(jax.random.key(1, impl="rbg"), 3)[1]),
    "cut": lambda: jax.lax.dynamic_slice(jnp.arange(5), (jnp.asarray(4),), (3,)),
    "loop": lambda: jax.lax.scan(lambda c, x: (c + x, c), 0.0, jnp.arange(4.0)),
    "compiled": lambda: jax.jit(lambda x: jnp.sort(jnp.sin(x)) + 1)(jnp.arange(5.0)),
}


@pytest.mark.parametrize("name", SAME)
def test_numpy_gives_what_jax_gives(name: str) -> None:
    expected = jax.tree.leaves(SAME[name]())
    with uncompiled.uncompiled():
        found = jax.tree.leaves(SAME[name]())
    for own, other in zip(found, expected, strict=True):
        assert isinstance(own, jax.Array) and own.aval == other.aval and own.committed == other.committed
        np.testing.assert_allclose(own, other, rtol=2e-6, atol=2e-6)


def test_an_array_has_memory_of_its_own() -> None:
    """Where memory is aligned, as here, JAX could share it with NumPy."""
    buffer = np.zeros(64, np.float32)
    start = (-buffer.ctypes.data // 4) % 16
    work = buffer[start : start + 32]
    with uncompiled.uncompiled():
        made = [jnp.array(work), jnp.asarray(work).ravel(), jax.lax.slice(jnp.asarray(work), (0,), (8,))]
    work[:] = 5.0
    assert all((np.asarray(array) == 0).all() for array in made)


def test_arrays_of_a_device_stay_there() -> None:
    array = jax.device_put(jnp.ones(3), jax.devices()[0])
    with uncompiled.uncompiled():
        assert (array + 1).committed and not (jnp.ones(3) + 1).committed


def test_what_numpy_has_not_is_left_to_jax() -> None:
    assert apply("sort", {}, [np.ones(3)], [((3,), np.dtype("float32"))]) == []


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_program_is_read_without_compilation(name: str) -> None:
    model, guide, data = ORDINARY[name]("jax")
    program, batch = Program(model, guide), Batch((jnp.asarray(data),))
    jax.clear_caches()
    with program.session(), compilations() as names:
        read(program, batch)
    assert names == []


def test_a_program_that_needs_its_values_is_read_as_it_is() -> None:
    runs = []

    def model(y: Any) -> None:
        loc = float(numpyro.param("loc", 0.5))
        runs.append(np.asarray(numpyro.sample("mean", dist.Normal(loc if loc > 0 else 1.0, 1.0))))
        numpyro.sample("y", dist.Normal(float(runs[-1]), 1.0).expand([3]).to_event(1), obs=y)

    def guide(y: Any) -> None:
        numpyro.sample("mean", dist.Normal(numpyro.param("at", 0.0), 1.0))

    program = Program(model, guide)
    with program.session():
        facts = read(program, Batch((jnp.ones(3),)))
    assert "test_uncompiled.py" in str(facts.eager) and facts.sites["guide", "mean"].support == "real"
    assert len(runs) <= 2 + MOST


def test_what_only_jax_can_do_is_done_by_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("not by NumPy")

    monkeypatch.setitem(operations.FUNCTIONS, "mul", fail)
    starts = []

    def model(y: Any) -> None:
        starts.append(np.random.random())
        with numpyro.plate("data", 3):
            numpyro.sample("y", dist.Normal(numpyro.param("loc", 0.0) * 1.0, 1.0), obs=y)

    program = Program(model, lambda y: None)
    with program.session():
        read(program, Batch((jnp.ones(3),)))
    assert list(program.params) == ["loc"] and program.statements == {"loc"}
    assert starts[0] == starts[1]  # host random state is put back


def scaled(y: Any) -> None:
    numpyro.sample("y", dist.Normal(0.0, numpyro.param("scale", -1.0, constraint=constraints.positive)), obs=y)


def wrong(y: Any) -> None:
    numpyro.sample("y", dist.Normal(0.0, jnp.asarray(-1.0) * 2), obs=y)


def misshapen(y: Any) -> None:
    numpyro.sample("y", dist.Normal(jnp.ones(2) + jnp.ones(3), 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (scaled, "param 'scale': expected an initial value in Positive.*; got -1.0"),
        (wrong, "site 'y' .Normal.: expected its scale to be Positive.*; got -2.0"),
        (misshapen, "the program's first run: add got incompatible shapes"),
    ],
)
def test_errors_are_named_as_ever(model: Any, message: str) -> None:
    program = Program(model, lambda y: None)
    with program.session(), pytest.raises(ProgramError, match=message):
        read(program, Batch((jnp.ones(()),)))
