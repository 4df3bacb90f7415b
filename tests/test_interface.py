"""Each backend offers what the verbs ask of one."""

from __future__ import annotations

import inspect

import pytest

from ppl_gen import backends
from ppl_gen.backends.engine import Engine
from ppl_gen.backends.interface import Backend, Program

OFFERED = [name for name in vars(Backend) if not name.startswith("_")]


@pytest.mark.parametrize("name", OFFERED)
def test_a_backend_offers_it_under_the_same_parameters(name: str, backend: str) -> None:
    asked, offered = getattr(Backend, name), getattr(backends.get(backend), name)
    if inspect.isfunction(asked):
        parameters = list(inspect.signature(asked).parameters.values())[1:]
        own = list(inspect.signature(offered).parameters.values())
        assert [(p.name, p.kind, p.default) for p in own] == [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("kind", [Program, Engine])
def test_its_classes_have_what_is_asked_of_them(kind: type, backend: str) -> None:
    made = getattr(backends.get(backend), kind.__name__)
    asked = [name for name, value in vars(kind).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert asked and all(callable(getattr(made, name)) for name in asked)
