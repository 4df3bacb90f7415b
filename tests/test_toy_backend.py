"""The seam between the texts and the frameworks is real: a third engine of under 200 lines trains a program."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import ppl_gen as pg
from ppl_gen import backends, dist, infer
from ppl_gen.errors import NonFinite
from tests import toy_backend

X = np.array([0.2, 1.1, 0.4, 0.9, 2.0])


def regression(x: Any) -> None:
    slope, shift = pg.param("slope", pg.xp.zeros(())), pg.param("shift", pg.xp.zeros(()))
    with pg.plate("data", len(x)):
        pg.sample("x", dist.Normal(slope * pg.xp.asarray(range(5)) + shift, 1.0), obs=x)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = backends.get
    monkeypatch.setattr(backends, "get", lambda name: toy_backend if name == "toy" else known(name))


def test_a_third_engine_finds_the_least_squares() -> None:
    fit = infer.fit(regression, data=X, steps=400, learning_rate=0.02, backend="toy", progress=False)
    slope, shift = np.polyfit(range(5), X, 1)
    assert fit.params["slope"] == pytest.approx(slope, abs=1e-4)
    assert fit.params["shift"] == pytest.approx(shift, abs=1e-4)
    assert fit.losses[-1] < fit.losses[0] and fit.backend == "toy"


def test_its_losses_are_those_of_the_others() -> None:
    first = {
        name: infer.fit(regression, data=X, steps=1, backend=name, progress=False).losses[0]
        for name in ("toy", "torch", "jax")
    }
    assert first["torch"] == pytest.approx(first["toy"], rel=1e-5)
    assert first["jax"] == pytest.approx(first["toy"], rel=1e-5)


def test_a_loss_that_is_not_finite_is_told_by_the_same_text() -> None:
    def broken(x: Any) -> None:
        weight = pg.param("weight", pg.xp.ones(()))
        with pg.plate("data", len(x)):
            pg.sample("x", dist.Normal(weight, pg.xp.sqrt(weight - 1.0 + 1e-9)), obs=x)

    with np.errstate(all="ignore"), pytest.raises(NonFinite, match="param 'weight': expected a finite gradient"):
        infer.fit(broken, data=X, steps=2, backend="toy", progress=False)


def test_it_is_short() -> None:
    assert len(inspect.getsource(toy_backend).splitlines()) < 200
