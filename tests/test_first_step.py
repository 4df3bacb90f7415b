"""An ordinary program is read in a dozen runs of the user's model: before step 1 nothing else needs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ppl_gen import infer
from tests import plain_numpyro, plain_pyro, plan_table

MOST = 12
PLAIN = {"torch": plain_pyro, "jax": plain_numpyro}
ORDINARY: dict[str, Callable[[str], tuple[Any, Any, Any]]] = {
    "VAE": lambda backend: plan_table.vae(plan_table.ACTIVATIONS["softplus"])(backend),
    "belief net": plan_table.belief_net,
    "hierarchical regression": lambda backend: of_program(PLAIN[backend].hierarchical_regression()),
}


def of_program(program: Any) -> tuple[Any, Any, Any]:
    return program.model, program.guide, program.data


@pytest.mark.parametrize("name", ORDINARY)
def test_a_dozen_runs_of_the_model_come_before_step_1(name: str, backend: str) -> None:
    model, guide, data = ORDINARY[name](backend)
    runs = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal runs
        runs += 1
        return model(*args, **kwargs)

    infer.fit(counted, guide, data, steps=0, backend=backend, progress=False)
    assert 1 <= runs <= MOST
