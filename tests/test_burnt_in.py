"""Python values that a program holds, and what a callback does to them while a compiled loop runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

jnp = pytest.importorskip("jax.numpy")
numpyro = pytest.importorskip("numpyro")

from numpyro import distributions as dist  # noqa: E402

from ppl_gen import infer  # noqa: E402
from ppl_gen.backends.values import changed, state  # noqa: E402

X = np.float32(0.7)
GLOBAL = {"shift": 0.0}


def shifted(shift: Any, x: Any) -> None:
    numpyro.sample("x", dist.Normal(numpyro.param("loc", 0.0) + shift, 1.0), obs=x)


class Holder:
    """A program that is a method; of its attributes it reads one."""

    def __init__(self) -> None:
        self.shift, self.steps = 0.0, 0

    def __call__(self, x: Any) -> None:
        shifted(self.shift, x)

    def method(self, x: Any) -> None:
        self(x)


def helper() -> float:
    return GLOBAL["shift"]


def in_a_dict() -> tuple[Any, Callable[[], Any], str]:
    held = {"shift": 0.0, "log": 0.0}
    return lambda x: shifted(held["shift"], x), lambda: held.update(shift=1.0), "held['shift']"


def in_a_list() -> tuple[Any, Callable[[], Any], str]:
    held = [[0.0]]
    return lambda x: shifted(held[0][0], x), lambda: held[0].__setitem__(0, 1.0), "held[0][0]"


def in_a_cell() -> tuple[Any, Callable[[], Any], str]:
    shift = 0.0

    def change() -> None:
        nonlocal shift
        shift = 1.0

    return lambda x: shifted(shift, x), change, "shift"


def in_an_array() -> tuple[Any, Callable[[], Any], str]:
    shift = np.zeros(())
    return lambda x: shifted(shift, x), lambda: shift.__setitem__((), 1.0), "shift"


def in_a_namespace() -> tuple[Any, Callable[[], Any], str]:
    held = SimpleNamespace(shift=jnp.zeros(()))
    return lambda x: shifted(held.shift, x), lambda: held.__dict__.update(shift=jnp.ones(())), "held.shift"


def in_an_object() -> tuple[Any, Callable[[], Any], str]:
    held = Holder()
    return held, lambda: setattr(held, "shift", 1.0), "Holder.shift"


def in_the_object_of_a_method() -> tuple[Any, Callable[[], Any], str]:
    held = Holder()
    return held.method, lambda: setattr(held, "shift", 1.0), "Holder.shift"


def in_a_global() -> tuple[Any, Callable[[], Any], str]:
    GLOBAL["shift"] = 0.0
    return lambda x: shifted(helper(), x), lambda: GLOBAL.update(shift=1.0), "GLOBAL['shift']"


HELD = [
    in_a_dict,
    in_a_list,
    in_a_cell,
    in_an_array,
    in_a_namespace,
    in_an_object,
    in_the_object_of_a_method,
    in_a_global,
]


@pytest.mark.parametrize("make", HELD)
def test_a_callback_that_changes_what_the_compiled_step_has_burnt_in_is_told_once(make: Any) -> None:
    model, change, name = make()
    with pytest.warns(UserWarning, match="the compiled step still uses the old one") as told:
        infer.fit(model, None, (X,), steps=4, callbacks=[lambda running: change()], progress=False)
    assert len(told) == 1
    assert str(told[0].message).startswith(f"{name}: ")


@pytest.mark.parametrize("make", [in_a_dict, in_an_object])
def test_nothing_is_said_where_the_value_is_used(make: Any) -> None:
    model, change, _ = make()
    found = infer.fit(model, None, (X,), steps=3, callbacks=[lambda r: change()], progress=False, compile=False)
    assert found.losses[1] != pytest.approx(found.losses[0], rel=1e-3)


def test_nothing_is_said_of_what_the_program_does_not_read() -> None:
    held, log = Holder(), [0.0]

    def note(running: Any) -> None:
        held.steps = running.step
        log.append(running.losses[-1])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer.fit(held.method, None, (X,), steps=4, callbacks=[note], progress=False)


def test_what_is_new_in_a_container_is_no_change() -> None:
    held: dict[str, Any] = {"a": float("nan"), "b": [1, 2]}

    def program() -> Any:
        return held

    before = state(program)
    held["c"] = 1
    held["b"].append(3)
    assert changed(before, state(program)) == []
    held["b"][0] = 5
    del held["a"]
    assert sorted(changed(before, state(program))) == ["held['a']", "held['b'][0]"]
