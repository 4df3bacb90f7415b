"""The array namespace portable programs see: the array API standard plus the functions every network needs."""

from __future__ import annotations

from typing import Any


class Namespace:
    """`base` (an array-API namespace) with `extras` laid over it."""

    def __init__(self, base: Any, **extras: Any) -> None:
        self._base = base
        self.__dict__.update(extras)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)
