"""Whose text is at work: the user's line, or a library's sampler, check or change of variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FrameType

import pyro
import torch
from torch.overrides import resolve_name

from ppl_gen.backends.torch.operators import Function, Operator, is_operator, name_of

_HERE = os.path.dirname(os.path.abspath(__file__))
_TORCH, _PYRO = (os.path.dirname(str(package.__file__)) + os.sep for package in (torch, pyro))
_PACKAGES = (_TORCH, _PYRO, os.path.dirname(os.path.dirname(_HERE)) + os.sep)
_CHECKERS = (_TORCH + "distributions", _PYRO + "distributions", os.path.join(_PYRO, "util.py"))
_TRANSFORMS = (
    _TORCH + "distributions/transforms.py",
    _PYRO + "distributions/transforms",
    _PYRO + "infer/reparam",
    _PYRO + "distributions/stable.py",
)
# What stands between a program's text and the modes of the tracker.
_PLUMBING = (
    *(os.path.join(_HERE, name) for name in ("graph.py", "functions.py", "operations.py", "findings.py", "frames.py")),
    *(_TORCH + part for part in ("utils/_python_dispatch.py", "_ops.py", "overrides.py", "_compile.py", "_dynamo/")),
)
_PARTIAL_TRANSFORMS = ("._inverse", "PowerTransform._call")  # judged like any other operations
_OPS = _PYRO + "ops" + os.sep
_MODULES = (_TORCH + "nn" + os.sep + "modules", _TORCH + "distributions")
_CHECKS = {"__init__", "_validate_sample", "check", "sample", "rsample", "warn_if_nan", "warn_if_inf"}


def _frames() -> Iterator[FrameType]:
    """Frames of this package, torch and Pyro, from the innermost, and the first frame of the user's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        if not frame.f_code.co_filename.startswith(_PACKAGES):
            return
        frame = frame.f_back


def where(func: Operator | Function | str) -> str:
    """`model.py:12: gt`, the line being the user's."""
    *_, frame = _frames()
    if not isinstance(func, str):
        func = name_of(func) if is_operator(func) else (resolve_name(func) or func.__name__)
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}: {func.removeprefix('torch.')}"


def is_users() -> bool:
    """Whether the user's own text does what is under way, and no library within it."""
    frame = next((f for f in _frames() if not f.f_code.co_filename.startswith(_PLUMBING)), None)
    return frame is None or not frame.f_code.co_filename.startswith(_PACKAGES)


def is_sampling() -> bool:
    """Whether a distribution, the user's own or a plate's, is drawn from."""
    return any(f.f_code.co_name in ("sample", "rsample", "rsample_with_shape", "_sample_n") for f in _frames())


def is_transforming() -> bool:
    """Whether the library's own change of variables is at work, or a distribution that is made."""
    for frame in _frames():
        file = frame.f_code.co_filename
        if file.startswith(_TRANSFORMS):
            return not frame.f_code.co_qualname.endswith(_PARTIAL_TRANSFORMS)
        if file.startswith(_CHECKERS) and frame.f_code.co_name == "__init__":
            return True
        if not file.startswith((_HERE, _OPS)) and not (file.startswith(_TORCH) and not file.startswith(_MODULES)):
            return False
    return False


def is_checking() -> bool:
    """Whether a distribution looks at its own arguments, values or draws."""
    return any(f.f_code.co_name in _CHECKS and f.f_code.co_filename.startswith(_CHECKERS) for f in _frames())
