"""Whether a program starts threads, whose operations no mode of this thread sees."""

from __future__ import annotations

import sys
import threading
from types import FrameType


class Threads:
    """Context manager that notes threads which start to work inside it.

    Python calls a profile function first thing in every thread that is started after it was set; it sets the former one
    there at once.

    Attributes:
        started: whether one did.
    """

    started = False

    def __enter__(self) -> Threads:
        self._before = threading.getprofile()
        threading.setprofile(self._begins)
        return self

    def __exit__(self, *error: object) -> None:
        threading.setprofile(self._before)

    def _begins(self, frame: FrameType, event: str, argument: object) -> None:
        self.started = True
        sys.setprofile(self._before)
