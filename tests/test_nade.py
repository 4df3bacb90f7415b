"""Claims about the order-agnostic NADE: its training program estimates what it says, on every backend."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from ppl_gen.backends.namespace import Namespace
from ppl_gen.data import Schema
from ppl_gen.data.variable import Variable
from ppl_gen.language import use
from ppl_gen.models.order_agnostic_nade import OrderAgnosticNADE

MIXED = Schema(tuple(Variable.of_levels(j, range(size)) for j, size in enumerate((2, 3, 2, 4))))


def log_softmax(values, axis=-1):
    return values - np.logaddexp.reduce(values, axis=axis, keepdims=True)


class Drawing:
    """A NumPy dialect that draws `xp.random` and keeps the parameters and the last factor."""

    name = "drawing"

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.xp = Namespace(
            np,
            float32=np.float64,
            sigmoid=lambda x: np.exp(-np.logaddexp(0, -x)),
            log_sigmoid=lambda x: -np.logaddexp(0, -x),
            log_softmax=log_softmax,
            random=SimpleNamespace(uniform=rng.random, normal=rng.standard_normal),
        )
        self.params: dict[str, np.ndarray] = {}
        self.dist = self.last = None

    def param(self, name, init, constraint):
        if name not in self.params:
            self.params[name] = np.asarray(init() if callable(init) else init, dtype=float)
        return self.params[name]

    def plate(self, name, size, subsample_size, dim):
        return nullcontext()

    def factor(self, name, log_factor):
        self.last = log_factor


def run(dialect, function, *args):
    with use(dialect):
        return function(*args)


def wide(model, dialect, codes):
    """Let the output weights leave their small starting values, so that the conditionals differ."""
    run(dialect, model, codes)
    rng = np.random.default_rng(5)
    dialect.params["output.weight"] = rng.standard_normal(dialect.params["output.weight"].shape) * 0.7
    dialect.params["output.bias"] = rng.standard_normal(dialect.params["output.bias"].shape)


def mean_over_orders(model, dialect, row):
    """The mean over all orders of the present variables of log p(row), one conditional at a time."""
    present, total = np.flatnonzero(~np.isnan(row)), []
    for order in itertools.permutations(present):
        value, mask = 0.0, np.zeros((1, len(row)), dtype=bool)
        for j in order:
            value += run(dialect, model.log_conditionals, row[None], mask)[0, j, int(row[j])]
            mask[0, j] = True
        total.append(value)
    return np.mean(total)


ROWS = np.array([[1, 2, 0, 3], [0, np.nan, 1, 2], [np.nan, 1, np.nan, 0], [1, np.nan, np.nan, np.nan], [np.nan] * 4])


def estimates(model, dialect, rows, repeats):
    """Independent single-mask estimates, shape (repeats, rows)."""
    found = []
    for _ in range(repeats):
        run(dialect, model, rows)
        found.append(dialect.last)
    return np.array(found)


@pytest.mark.parametrize("schema", [MIXED, Schema.binary(4)], ids=["mixed", "binary"])
def test_single_mask_estimate_is_unbiased_for_the_mean_over_orders_with_missing_values(schema):
    """|z| < 4.5 in 5 rows of 2 schemas: false alarm 7e-5. Weighting by 1 instead of m / (m - d) must fail."""
    rows = np.minimum(ROWS, np.array(schema.cardinalities) - 1)
    model, dialect = OrderAgnosticNADE(schema, hidden=(7, 7)), Drawing()
    wide(model, dialect, rows)
    exact = np.array([mean_over_orders(model, dialect, row) if not np.isnan(row).all() else 0.0 for row in rows])
    draws = estimates(model, dialect, rows, 20_000)
    error = draws.std(0) / np.sqrt(len(draws))
    moving = error > 1e-12
    np.testing.assert_allclose(draws.mean(0)[~moving], exact[~moving], atol=1e-6)
    z = (draws.mean(0) - exact)[moving] / error[moving]
    assert moving.sum() == 3 and np.abs(z).max() < 4.5, z
    assert np.abs(0.1 * exact[moving] / error[moving]).min() > 9  # power: a bias of 10 % would show


def test_mask_sizes_are_stratified_over_rows_and_uniform_for_each_row():
    """With 8 rows of 8 variables each size from 0 to 7 occurs once a batch; chi-square per row, 7 d.f."""
    model, dialect = OrderAgnosticNADE(8, hidden=(4,)), Drawing()
    sizes = []
    for _ in range(2000):
        observed, weight = run(dialect, model._draw_mask, np.ones((8, 8)))
        assert sorted(observed.sum(1)) == list(range(8))
        np.testing.assert_allclose(weight, 8 / (8 - observed.sum(1)))
        sizes.append(observed.sum(1))
    counts = np.array([[(np.array(sizes)[:, row] == d).sum() for d in range(8)] for row in range(8)])
    chi_square = ((counts - 250) ** 2 / 250).sum(1)
    assert chi_square.max() < 35  # false alarm 1e-5 for each of 8 rows


def test_missing_values_are_neither_input_nor_target():
    model, dialect = OrderAgnosticNADE(MIXED, hidden=(7,)), Drawing()
    wide(model, dialect, ROWS)
    observed, _ = run(dialect, model._draw_mask, (~np.isnan(ROWS)).astype(float))
    assert not observed[np.isnan(ROWS)].any()
    mask = np.array([[True, False, True, False]])
    first = run(dialect, model.log_conditionals, np.array([[1.0, np.nan, 1.0, np.nan]]), mask)
    other = run(dialect, model.log_conditionals, np.array([[1.0, 2.0, 1.0, 3.0]]), mask)
    np.testing.assert_array_equal(first, other)


def test_conditionals_are_normalized_and_padded():
    model, dialect = OrderAgnosticNADE(MIXED, hidden=(7, 5)), Drawing()
    log_probs = run(dialect, model.log_conditionals, np.nan_to_num(ROWS), ~np.isnan(ROWS))
    np.testing.assert_allclose(np.exp(log_probs).sum(2), 1, rtol=1e-12)
    for j, levels in enumerate(MIXED.cardinalities):
        assert np.isneginf(log_probs[:, j, levels:]).all() and np.isfinite(log_probs[:, j, :levels]).all()


def test_output_biases_start_at_the_marginals():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.random(4000) < 0.2, rng.choice(3, 4000, p=[0.6, 0.1, 0.3]), rng.random(4000) < 0.9], 1) * 1.0
    rows[::7, 1] = np.nan
    schema = Schema.of(rows)
    model, dialect = OrderAgnosticNADE(schema, hidden=(5,), data=rows), Drawing()
    run(dialect, model, rows[:2])
    dialect.params["output.weight"] *= 0
    got = np.exp(run(dialect, model.log_conditionals, rows[:1], np.zeros((1, 3), dtype=bool)))[0]
    for j, levels in enumerate(schema.cardinalities):
        column = rows[~np.isnan(rows[:, j]), j]
        np.testing.assert_allclose(got[j, :levels], [(column == level).mean() for level in range(levels)], atol=2e-3)


@pytest.mark.parametrize("schema", [MIXED, Schema.binary(4)], ids=["mixed", "binary"])
def test_same_conditionals_and_gradients_on_torch_and_jax(schema):
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    import pyro
    from numpyro import handlers

    from ppl_gen.backends.jax import dialect as on_jax
    from ppl_gen.backends.torch import dialect as on_torch

    rows = np.minimum(ROWS, np.array(schema.cardinalities) - 1).astype(np.float32)
    mask = ~np.isnan(rows) & (np.arange(4) % 2 == 0)
    model, numpy_dialect = OrderAgnosticNADE(schema, hidden=(6, 6)), Drawing()
    expected = run(numpy_dialect, model.log_conditionals, rows.astype(float), mask)
    pyro.clear_param_store()
    with use(on_torch):
        torch_rows = torch.tensor(rows)
        got = model.log_conditionals(torch_rows, torch.tensor(mask)).detach().numpy()
        trace = pyro.poutine.trace(model).get_trace(torch_rows)
        torch.as_tensor(trace.log_prob_sum()).backward()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    for name, parameter in pyro.get_param_store().named_parameters():
        slope = torch.as_tensor(parameter.grad)
        assert torch.isfinite(slope).all() and slope.abs().max() > 0, name
    pyro.clear_param_store()
    params = {name: value.astype(np.float32) for name, value in numpy_dialect.params.items()}

    def log_joint(params):
        program = handlers.trace(handlers.substitute(handlers.seed(model, jax.random.PRNGKey(0)), params))
        return program.get_trace(rows)["x"]["fn"].log_prob(rows[:, 0]).sum()

    with use(on_jax):
        substituted = handlers.substitute(model.log_conditionals, params)
        np.testing.assert_allclose(substituted(rows, mask), expected, rtol=1e-5, atol=1e-6)
        slopes = jax.jit(jax.grad(log_joint))(params)
    assert all(np.isfinite(slope).all() and np.abs(slope).max() > 0 for slope in slopes.values())


@pytest.mark.parametrize("bad", [0, True, "adult", None])
def test_wrong_variables_are_refused(bad):
    with pytest.raises((TypeError, ValueError), match="OrderAgnosticNADE: expected"):
        OrderAgnosticNADE(bad)


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match="widths"):
        OrderAgnosticNADE(3, hidden=())
