"""Where in the user's program a captured step failed: the site and the line."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_gen.backends.torch.operators import Operator

_OWN = str(Path(__file__).parents[2]) + os.sep
_LIBRARIES = (_OWN, *(os.path.dirname(str(library.__file__)) + os.sep for library in (torch, pyro)))
_OPERATION = re.compile(r"torch\.ops\.(\w+\.\w+?)(?:_backward)?\.\w+\(")


class Statements(Messenger):
    """Notes the name of the sample statement that came last."""

    name: str | None = None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not isinstance(msg["fn"], _Subsample):  # a plate's choice of its elements
            self.name = msg["name"]


def place(frames: Iterable[tuple[FrameType, int]], last: str | None) -> str:
    """`model.py:12, site 'x'`: the user's innermost line, and the sample statement that it is or that it follows.

    Args:
        frames: (frame, line number), from the outermost to the innermost.
        last: the sample statement that came last.
    """
    line, site = None, f"after site '{last}'" if last else ""
    for frame, number in frames:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if function == "sample" and file.endswith(os.path.join("pyro", "primitives.py")):
            site = f"site '{frame.f_locals.get('name')}'"
        elif not file.startswith((*_LIBRARIES, "<")):
            line = f"{os.path.basename(file)}:{number}"
    return ", ".join(part for part in (line, site) if part) or "a line of ppl_gen's own"


def of_error(error: BaseException, last: str | None) -> str:
    """Where an exception came from."""
    return place(_within(traceback.walk_tb(error.__traceback__)), last)


def _within(frames: Iterable[tuple[FrameType, int]]) -> list[tuple[FrameType, int]]:
    """The frames inside of this package's innermost loop: what called it is no part of the program."""
    found = list(frames)
    own = [i for i, (frame, _) in enumerate(found) if frame.f_code.co_filename.startswith(_OWN)]
    return found[own[0] :] if own else found


class _Watch(TorchDispatchMode):
    """Notes where the first call of an operation comes from."""

    def __init__(self, operation: str, statements: Statements) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operation, self.statements, self.found = operation, statements, ""

    def __torch_dispatch__(
        self, func: Operator, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.found and str(func).rsplit(".", 1)[0] == self.operation:
            frames = [(frame, frame.f_lineno) for frame in _outwards(sys._getframe(1))]
            self.found = place(_within(reversed(frames)), self.statements.name)
        return func(*args, **(kwargs or {}))


def _outwards(frame: FrameType | None) -> Iterable[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def of_replay(error: BaseException, step: Callable[[], object]) -> str:
    """Where the operation stands at which a graph failed: the step is run once more and its operations are watched.

    Args:
        error: what the graph raised.
        step: an eager step; the caller puts back what it changes.
    """
    lines = [
        linecache.getline(frame.f_code.co_filename, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith("<eval_with_key>")
    ]
    named = _OPERATION.search(lines[-1]) if lines else None
    if named is None:
        return "an operation without a name"
    try:
        with Statements() as statements, _Watch(named[1], statements) as watch:
            step()
    except Exception:  # the eager step that follows raises it again
        pass
    return f"{watch.found or 'a line of its own'} ({named[1]})"
