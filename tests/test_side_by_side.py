"""Gradients that torch draws many at a time are those that it draws one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_gen import infer
from ppl_gen.backends.torch.capture import side_by_side
from ppl_gen.backends.torch.replay import Replays
from tests.small_programs import CASES

COUNT = 4000
ONES = torch.ones(3)
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "bernoulli": lambda a: dist.Bernoulli(0.2 * a, validate_args=False).sample(),
    "beta": lambda a: dist.Beta(a, a, validate_args=False).rsample(),
    "categorical": lambda a: dist.Categorical(logits=a, validate_args=False).sample((3,)).to(a),
    "dirichlet": lambda a: dist.Dirichlet(a, validate_args=False).rsample(),
    "dropout": lambda a: torch.nn.functional.dropout(a),
    "exponential": lambda a: dist.Exponential(a, validate_args=False).rsample(),
    "gamma": lambda a: dist.Gamma(a, a, validate_args=False).rsample(),
    "normal": lambda a: dist.Normal(a, 1.0, validate_args=False).rsample(),
    "noise of no input": lambda a: torch.rand(3),
    "poisson": lambda a: dist.Poisson(a, validate_args=False).sample(),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_replays_side_by_side_draw_independently_from_the_same_law(draw: Callable[[Tensor], Tensor]) -> None:
    """Means and variances of 4000 draws: |z| beyond 5 has probability 6e-7; lanes that share draws would have none."""
    torch.manual_seed(0)
    graph = make_fx(draw)(ONES)
    several = side_by_side(lambda: (graph(ONES),), COUNT)[0].numpy().astype(float)
    alone = np.stack([draw(ONES).numpy() for _ in range(COUNT)]).astype(float)
    assert several.shape == alone.shape
    for power in (1, 2):
        one, other = several**power, alone**power
        error = np.sqrt((one.var(0) + other.var(0)) / COUNT)
        assert np.all(np.abs(one.mean(0) - other.mean(0)) < 5 * error)
    following = np.corrcoef(several[:-1, 0], several[1:, 0])[0, 1]
    assert abs(following) < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize("name", ["bernoulli_chain", "continuous_to_discrete"])
def test_gradients_drawn_at_once_are_those_drawn_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """600 of each: |z| of means and second moments below 5."""
    case, asked = CASES[name], []
    original = Replays.together

    def together(self: Any, given: Any, count: int) -> Any:
        asked.append(original(self, given, count) is not None)
        return original(self, given, count)

    monkeypatch.setattr(Replays, "together", together)
    some = infer.gradient(case.model, case.guide, case.data, backend="torch", num_samples=600)
    assert asked and all(asked)
    monkeypatch.setattr(Replays, "together", lambda *_: None)
    others = infer.gradient(case.model, case.guide, case.data, backend="torch", num_samples=600, seed=1)
    for key, draws in some.items():
        assert draws.shape == others[key].shape and len(np.unique(draws, axis=0)) > 1
        for power in (1, 2):
            one, other = draws.astype(float) ** power, others[key].astype(float) ** power
            error = np.sqrt((one.var(0) + other.var(0)) / 600) + 1e-6
            assert np.all(np.abs(one.mean(0) - other.mean(0)) < 5 * error), key
