"""Elements of a plate that move one another's cost are found, even where one element alone seldom does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ppl_gen import infer
from ppl_gen.language import dist, param, plate, sample, xp

X = np.linspace(-1.0, 1.0, 10)


def program(meet: Callable[[Any], Any]) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    """Ten coins whose observations share `meet(coins)`."""

    def model(x: Any) -> None:
        with plate("data", len(x)):
            z = xp.astype(sample("z", dist.Bernoulli(probs=0.5 * xp.ones(()))), xp.float32)
            sample("x", dist.Normal(meet(z) + z, 1.0), obs=x)

    def guide(x: Any) -> None:
        logits = param("logits", xp.zeros(len(x)))
        with plate("data", len(x)):
            sample("z", dist.Bernoulli(logits=logits))

    return model, guide


def _branch(z: Any) -> float:
    return 3.0 if float(z.sum()) > 9.5 else 0.0


MIXED = {
    "a sum against a bound": lambda z: xp.where(xp.sum(z) > 8.5, 3.0, 0.0),
    "the largest": lambda z: xp.max(z) * 2.0,
    "only if all agree": lambda z: xp.prod(z),
    "the element before": lambda z: xp.concat([z[-1:], z[:-1]]),
    "the first moves the fourth": lambda z: z[0] * xp.astype(xp.arange(10) == 3, xp.float32),
    "a Python branch on the sum": _branch,
}
APART = {
    "nothing": lambda z: 0.0,
    "its own square": lambda z: z * z,
    "its own step": lambda z: xp.where(z > 0.5, 1.0, -1.0),
}


@pytest.mark.parametrize("name", MIXED)
def test_elements_that_meet_share_their_signal(name: str, backend: str) -> None:
    assert infer.plan(*program(MIXED[name]), X, backend=backend)["z"].summed_plates == {"data"}


@pytest.mark.parametrize("name", APART)
def test_elements_that_do_not_meet_keep_their_own_signal(name: str, backend: str) -> None:
    assert infer.plan(*program(APART[name]), X, backend=backend)["z"].summed_plates == frozenset()
