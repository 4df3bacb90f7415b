"""Both engines offer what the one text of a step asks for; that their signatures fit is what mypy finds in this file."""

from __future__ import annotations

import inspect

import jax
import pytest
import torch

from ppl_gen.backends.engine import Engine
from ppl_gen.backends.jax import Engine as OfJax
from ppl_gen.backends.torch import Engine as OfTorch
from ppl_gen.program import Facts


def of_torch(engine: OfTorch) -> Engine[torch.Tensor]:
    return engine


def of_jax(engine: OfJax) -> Engine[jax.Array]:
    return engine


@pytest.mark.parametrize("engine", [OfTorch, OfJax])
def test_an_engine_has_every_part_of_the_protocol(engine: type) -> None:
    parts = [name for name, part in vars(Engine).items() if inspect.isfunction(part) and name[0] != "_"]
    assert len(parts) > 10 and all(callable(getattr(engine, name)) for name in parts)
    assert list(inspect.signature(engine).parameters) == ["program", "facts", "compile", "steps"]
    assert inspect.signature(engine).parameters["facts"].annotation == Facts.__name__
