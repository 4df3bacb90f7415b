"""Whether rows reach one another's cost is read right, whatever the first run hides (`mixing_table`)."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
import torch

from ppl_gen import infer
from ppl_gen.estimators import Plan
from tests.mixing_table import MIXING, WAYS
from tests.plan_table import BACKENDS, floats, library

CASES = [(name, backend) for name, ways in WAYS.items() for backend in BACKENDS if getattr(ways, backend)]
X, ZEROS = np.array([0.4, -0.9, 1.3], np.float32), np.zeros(3, np.float32)
TOGETHER = 8  # ways in one program, each the mean of an observation of its own


def plan_of(names: tuple[str, ...], backend: str, seed: int = 0) -> Plan:
    """The plan of a program with these ways."""
    lib = library(backend)

    def model(x: Any, d: Any) -> None:
        w = lib.param("w", lib.array(0.0))
        s = floats(lib.sample("s", lib.dist.Bernoulli(lib.array(0.5))))
        with lib.plate("data", 3):
            z = floats(lib.sample("z", lib.dist.Bernoulli(0.4 * lib.xp.ones(2)).to_event(1)))
            lib.sample("y", lib.dist.Normal(w + s, 1.0), obs=x)  # a way that uses neither is still a program
            for i, name in enumerate(names):
                lib.sample(f"x{i}", lib.dist.Normal(getattr(WAYS[name], backend)(z, s, w, d), 0.6), obs=x)

    def guide(x: Any, d: Any) -> None:
        lib.sample("s", lib.dist.Bernoulli(logits=lib.param("ls", lib.array(0.1))))
        logits = lib.param("l", lib.array(np.array([[0.3, -0.4], [0.2, 0.1], [-0.3, 0.5]], np.float32)))
        with lib.plate("data", 3):
            lib.sample("z", lib.dist.Bernoulli(logits=logits).to_event(1))

    return infer.plan(model, guide, (lib.array(X), lib.array(ZEROS)), seed=seed)


SETTINGS = ((0.0, 0.0, 0.0), (1.0, 0.7, 1.0), (1.0, 0.0, 0.0), (0.0, 0.7, 0.0))  # gate, weight, data
ALL_BITS = [np.array(bits, np.float32).reshape(3, 2) for bits in itertools.product((0.0, 1.0), repeat=6)]


def reaches(way: Any, array: Any) -> bool:
    """Whether the bits of one row change the mean of another, for some values of everything else."""
    for s, w, d in SETTINGS:
        others = array(np.float32(s)), array(np.float32(w)), array(np.full(3, d, np.float32))
        means = np.stack([np.asarray(way(array(z), *others)) for z in ALL_BITS])
        for row in range(3):
            own = [z[row].tobytes() for z in ALL_BITS]
            spread = [np.ptp(means[[o == value for o in own], row]) for value in set(own)]
            if max(spread) > 1e-5:
                return True
    return False


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_the_table_is_right(name: str, backend: str) -> None:
    """By trying all values of the bits, with the gate, the weight and the data open and closed."""
    way = getattr(WAYS[name], backend)
    with torch.no_grad():
        assert reaches(way if backend == "torch" else jax.jit(way), library(backend).array) == WAYS[name].mixes


@cache
def plans(backend: str) -> dict[str, tuple[Plan, str]]:
    """Way -> the plan of a program that has it, and the site that it leads to."""
    names = [name for name, of in CASES if of == backend]
    found: dict[str, tuple[Plan, str]] = {}
    for start in range(0, len(names), TOGETHER):
        group = tuple(names[start : start + TOGETHER])
        try:
            plan = plan_of(group, backend)
        except Exception:  # then each by itself shows which one it is
            continue
        found |= {name: (plan, f"x{i}") for i, name in enumerate(group)}
    return found


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_rows_are_summed_exactly_where_they_can_meet(name: str, backend: str) -> None:
    plan, site = plans(backend).get(name) or (plan_of((name,), backend), "x0")
    assert plan["z"].terms["model", site] == WAYS[name].summed_plates


HIDDEN = [name for name in MIXING if name.startswith(("a gate", "a weight", "zeros", "a mask", "a shift"))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_seed_hides_what_mixes(backend: str) -> None:
    """All in one program, over ten seeds."""
    names = tuple(name for name in HIDDEN if getattr(WAYS[name], backend))
    for seed in range(10):
        terms = plan_of(names, backend, seed)["z"].terms
        missed = [name for i, name in enumerate(names) if terms["model", f"x{i}"] != {"data"}]
        assert not missed, f"seed {seed}"
