"""Whose text an equation comes from: the user's line, JAX's own functions, a library's sampler or transform."""

from __future__ import annotations

import itertools
import os.path
import sysconfig
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any

import jax
import numpyro
from jax._src import source_info_util  # the only place that names an equation's line
from jax._src.core import DebugInfo, jaxprs_in_params
from jax.extend.core import Jaxpr, JaxprEqn

from ppl_gen.backends.jax.calls import Function, opened

JAX = os.path.dirname(jax.__file__) + os.sep


RANDOM = os.path.join(JAX, "_src", "random")


NUMPYRO = os.path.join(os.path.dirname(numpyro.__file__), "distributions")


INSTALLED = sysconfig.get_path("purelib") + os.sep


TRANSFORMS = os.path.join("distributions", "transforms.py")


def line_of(eqn: JaxprEqn, installed: bool = False) -> str | None:
    """``"model.py:12"``: the innermost line outside JAX and, unless ``installed``, outside packages."""
    for frame in source_info_util.user_frames(eqn.source_info.traceback):
        if installed or not frame.file_name.startswith(INSTALLED):
            return f"{os.path.basename(frame.file_name)}:{frame.start_line}"
    return None


def _codes(eqn: JaxprEqn) -> Sequence[CodeType]:
    """The functions that were at work when an equation was made, from the innermost."""
    traceback = eqn.source_info.traceback
    return traceback.raw_frames()[0] if traceback else []


def library_codes(eqn: JaxprEqn) -> Iterator[CodeType]:
    """The functions between the user's innermost line and an equation, which are all JAX's own."""
    for code in _codes(eqn):
        if source_info_util.is_user_filename(code.co_filename):
            return
        yield code


def is_of_transform(eqn: JaxprEqn) -> bool:
    """Whether an equation is a piece of one of NumPyro's own transforms into a support, which are smooth.

    Their inverses are partial functions, and so is a power: these are judged like any other operations.
    """
    codes = _codes(eqn)
    own = [code.co_filename for code in codes if not code.co_filename.startswith(JAX)]
    packages = list(itertools.takewhile(lambda name: name.startswith(INSTALLED), own))
    if not packages or not packages[0].startswith(NUMPYRO):
        return False
    methods = [code.co_qualname for code in codes if code.co_filename.endswith(TRANSFORMS)]
    return bool(methods) and not any(
        name.endswith("._inverse") or name.startswith("PowerTransform") for name in methods
    )


def samples(eqn: JaxprEqn) -> bool:
    """Whether an equation is a piece of ``jax.random`` or of a distribution's sampler."""
    for code in _codes(eqn):
        if code.co_filename.startswith(RANDOM) or (code.co_name == "sample" and code.co_filename.startswith(NUMPYRO)):
            return True
        if not code.co_filename.startswith(INSTALLED):
            return False
    return False


def is_of_jax(function: Function) -> bool:
    """Whether a called function is defined in JAX's own package, whatever its name says."""
    return (debug_info(function).func_filename or "").startswith(JAX)


def detaches_in_library(eqn: JaxprEqn) -> bool:
    """Whether a library's own text calls `stop_gradient`, and not the user's."""
    trace = eqn.source_info.traceback
    frames: list[Any] = list(trace.frames) if trace else []
    callers = [b for a, b in itertools.pairwise(frames) if a.function_name == "stop_gradient"]
    return bool(callers) and callers[0].file_name.startswith(INSTALLED)


def debug_info(function: Function) -> DebugInfo:
    """Where a function is from."""
    return opened(function)[0].debug_info


def is_differentiated(jaxpr: Jaxpr) -> bool:
    """Whether any part of the program is itself a derivative.

    Asked of the whole program: equations moved out of a differentiated loop no longer say so.
    """
    return any(
        "jvp(" in str(eqn.source_info.name_stack) or any(map(is_differentiated, jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )
