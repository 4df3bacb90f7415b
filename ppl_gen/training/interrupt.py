"""Ctrl-C keeps what there is: it is taken up between two steps, and comes with the fit so far."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

from ppl_gen.errors import Interrupted

P = ParamSpec("P")
R = TypeVar("R")


class Halt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether it was."""
        return self.asked

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second one does not wait for the step to end
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def listening() -> Iterator[Halt]:
    """Inside, the first Ctrl-C only sets a flag; a handler of the user's own is left alone, as are other threads."""
    halt = Halt()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield halt
        return
    signal.signal(signal.SIGINT, halt._note)
    try:
        yield halt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def keeping(verb: Callable[P, R]) -> Callable[P, R]:
    """The same verb; interrupted before there is a fit, it says so, by a `.fit` of None."""

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted("before the first step: there is no fit yet") from None

    return call
