"""Arrays of either backend, and the functions of them that texts written once may call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import numpy as np

Result = TypeVar("Result")
Seed: TypeAlias = "int | np.integer[Any] | Array"  # a whole number, or a random key of JAX


class Array(Protocol):
    """What is asked of an array: torch's tensors and JAX's arrays have all of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> Any:
        """The backend's own name for the type of the elements."""

    @property
    def T(self) -> Self:
        """The transpose of a matrix."""

    def __len__(self) -> int: ...
    def __add__(self, other: Self | float, /) -> Self: ...
    def __radd__(self, other: Self | float, /) -> Self: ...
    def __sub__(self, other: Self | float, /) -> Self: ...
    def __rsub__(self, other: Self | float, /) -> Self: ...
    def __mul__(self, other: Self | float, /) -> Self: ...
    def __rmul__(self, other: Self | float, /) -> Self: ...
    def __truediv__(self, other: Self | float, /) -> Self: ...
    def __rtruediv__(self, other: Self | float, /) -> Self: ...
    def __pow__(self, other: Self | float, /) -> Self: ...
    def __matmul__(self, other: Self, /) -> Self: ...
    def __neg__(self) -> Self: ...
    def __abs__(self) -> Self: ...
    def __invert__(self) -> Self: ...
    def __and__(self, other: Self | bool, /) -> Self: ...
    def __or__(self, other: Self | bool, /) -> Self: ...
    def __eq__(self, other: Self | float, /) -> Self: ...  # type: ignore[override]
    def __lt__(self, other: Self | float, /) -> Self: ...
    def __le__(self, other: Self | float, /) -> Self: ...
    def __gt__(self, other: Self | float, /) -> Self: ...
    def __ge__(self, other: Self | float, /) -> Self: ...
    def __getitem__(self, index: Any, /) -> Self: ...
    def __float__(self) -> float: ...
    def __bool__(self) -> bool: ...


class Each(Protocol):
    """Calls a function on every key, as one batch where that is possible."""

    def __call__(self, function: Callable[[Any], Result], keys: Sequence[Any], /) -> list[Result]:
        """One result per key."""


class Namespace:
    """The array namespace that portable texts see: `base`, of the array API standard, with `extras` laid over it.

    Whatever is not named here is a function that gives an array.

    Attributes:
        each: see `Each`.
        split_key: (random key, number) -> as many keys.
        scan: (step, start, arrays) -> (last carry, stacked results), a loop over the leading axis.
        value_and_slope: (function, place) -> (its second result, the derivative of its first, a scalar).
    """

    bool: Any
    int64: Any
    float32: Any
    float64: Any
    random: Namespace
    linalg: Namespace
    fft: Namespace
    each: Each
    split_key: Callable[[Any, int], list[Any]]
    value_and_slope: Callable[[Callable[[Array], tuple[Array, Array]], Array], tuple[Array, Array]]
    scan: Callable[..., tuple[Any, Any]]
    broadcast_arrays: Callable[..., list[Array]]

    def __init__(self, base: object, **extras: object) -> None:
        self._base = base
        self.__dict__.update(extras)

    def __getattr__(self, name: str) -> Callable[..., Array]:
        return getattr(self._base, name)  # type: ignore[no-any-return]


def total(arrays: Sequence[Array]) -> Array:
    """Their sum, of one or more."""
    return sum(arrays[1:], arrays[0])
