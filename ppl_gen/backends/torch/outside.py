"""What is global in Pyro, torch, NumPy and Python, which a session changes for its own length only."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import pyro
from torch import Tensor

from ppl_gen.backends.torch.generators import kept_random_state


class Outside(NamedTuple):
    """What is global in Pyro, as it is outside of every session.

    Attributes:
        params: the parameter store's names -> unconstrained tensors.
        constraints: name -> constraint.
        checks_values: whether distributions check the values that they are given.
    """

    params: Mapping[str, Tensor]
    constraints: Mapping[str, Any]
    checks_values: bool


_OUTSIDE: ContextVar[Outside | None] = ContextVar("outside", default=None)


def validation(on: bool) -> AbstractContextManager[None]:
    """All of Pyro's checks on or off; afterwards each is as it was, which `pyro.validation_enabled` does not see to."""
    names = ("distributions_pyro", "distributions_torch", "infer", "poutine")
    return pyro.settings.context(**{f"validate_{name}": on for name in names})


def outside() -> Outside:
    """What was global when the session began."""
    return _OUTSIDE.get() or Outside({}, {}, True)


def _switched_off_by_dynamo() -> bool:
    """Whether torch's compiler has been at work, which switches the checks of torch's distributions off for good."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    patch = getattr(getattr(compiler, "TorchPatcher", None), "patch", None)
    return bool(patch is not None and patch.cache_info().currsize)


@contextmanager
def remembered() -> Iterator[None]:
    """Note, in the outermost session, what is outside of it."""
    if _OUTSIDE.get() is not None:
        yield
        return
    store, on = pyro.get_param_store(), pyro.settings.get
    checks = on("validate_distributions_pyro") and (on("validate_distributions_torch") or _switched_off_by_dynamo())
    token = _OUTSIDE.set(Outside(dict(store._params), dict(store._constraints), bool(checks) or not __debug__))
    try:
        yield
    finally:
        _OUTSIDE.reset(token)


@contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Begin with this seed in torch, NumPy and Python; afterwards their random states are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with kept_random_state():
            pyro.set_rng_seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
