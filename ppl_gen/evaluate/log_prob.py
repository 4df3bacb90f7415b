"""A log-likelihood that carries what it is: exact, a bound or an estimate, how sure, and of which data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Kind = Literal["exact", "lower_bound", "upper_bound", "estimate"]
Index = int | slice | NDArray[Any] | list[int] | tuple[Any, ...] | None
_RELATION = {"exact": "=", "lower_bound": ">=", "upper_bound": "<=", "estimate": "~"}


@dataclass(frozen=True, init=False, eq=False, repr=False)
class LogProb:
    """Log-probabilities in nats; two of them are compared or subtracted only where they are alike.

    Attributes:
        value: nats, shape (rows,) or ().
        standard_error: of `value` as a Monte Carlo answer, same shape; zero where nothing was drawn. It says
            nothing about how the rows differ.
        kind: "exact", "lower_bound", "upper_bound" or "estimate".
        fingerprint: of the data and their preprocessing, as `data.fingerprint` makes it; None where unknown.

    Raises:
        ValueError: an unknown kind, a negative standard error, one that is not zero although `kind` is
            "exact", or one whose shape does not fit `value`.
    """

    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    kind: Kind
    fingerprint: str | None = None

    def __init__(
        self,
        value: ArrayLike,
        standard_error: ArrayLike = 0.0,
        kind: Kind = "exact",
        fingerprint: str | None = None,
    ) -> None:
        value = np.array(value, dtype=np.float64)
        if kind not in get_args(Kind):
            raise ValueError(f"LogProb: expected kind to be one of {', '.join(get_args(Kind))}; got {kind!r}. Use one.")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "standard_error", _checked_error(standard_error, value.shape, kind))
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "fingerprint", fingerprint)

    def mean(self) -> LogProb:
        """The mean over rows, of the same kind; the rows' Monte Carlo errors are taken as independent."""
        if not self.value.size:
            raise ValueError("LogProb.mean: expected at least one row; got none. Pass data with rows.")
        total = self.sum()
        return self._like(total.value / self.value.size, total.standard_error / self.value.size)

    def sum(self) -> LogProb:
        """The sum over rows, of the same kind; the rows' Monte Carlo errors are taken as independent."""
        return self._like(self.value.sum(), np.sqrt(np.square(self.standard_error).sum()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `value`."""
        return self.value.shape

    def _like(self, value: ArrayLike, standard_error: ArrayLike) -> LogProb:
        return LogProb(value, standard_error, self.kind, self.fingerprint)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("LogProb: expected one value per row for len(); got a single value. Use float().")
        return self.shape[0]

    def __getitem__(self, index: Index) -> LogProb:
        return self._like(self.value[index], self.standard_error[index])

    def __float__(self) -> float:
        if self.value.size != 1:
            raise TypeError(f"LogProb: expected one value for float(); got shape {self.shape}. Use .mean() or .value.")
        return float(self.value.reshape(()))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.value, dtype=dtype)

    def __sub__(self, other: LogProb | ArrayLike) -> Any:
        """Difference in nats: a plain array (or number), for a difference of bounds is none."""
        return (self.value - self._alike(other, "subtract"))[()]

    def __rsub__(self, other: LogProb | ArrayLike) -> Any:
        return (self._alike(other, "subtract") - self.value)[()]

    def __lt__(self, other: LogProb | ArrayLike) -> Any:
        return (self.value < self._alike(other, "compare"))[()]

    def __le__(self, other: LogProb | ArrayLike) -> Any:
        return (self.value <= self._alike(other, "compare"))[()]

    def __gt__(self, other: LogProb | ArrayLike) -> Any:
        return (self.value > self._alike(other, "compare"))[()]

    def __ge__(self, other: LogProb | ArrayLike) -> Any:
        return (self.value >= self._alike(other, "compare"))[()]

    def _alike(self, other: LogProb | ArrayLike, verb: str) -> NDArray[np.float64]:
        """The other's values, once it is known that the two may be held against each other."""
        if not isinstance(other, LogProb):
            return np.asarray(other, dtype=np.float64)
        if other.kind != self.kind:
            raise ValueError(
                f"LogProb: expected two of one kind to {verb}; got {self.kind!r} and {other.kind!r}, "
                "of which neither need be the larger. Estimate both the same way, or use .value."
            )
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"LogProb: expected two of the same data to {verb}; got fingerprints {self.fingerprint!r} "
                f"and {other.fingerprint!r}: rows or preprocessing differ. Use the same data, or .value."
            )
        return other.value

    def __repr__(self) -> str:
        """Kind, relation to the true value, standard error: ``LogProb(exact: log p = -3.2 nats)``."""
        summary, what = (self.mean(), f"mean of {self.value.size}: ") if self.value.size > 1 else (self, "")
        if not self.value.size:
            return f"LogProb({self.kind}: no rows)"
        number, error = float(summary), float(summary.standard_error.reshape(()))
        spread = "" if self.kind == "exact" else f" ± {error:.2g} (s.e.)"
        return f"LogProb({self.kind}: {what}log p {_RELATION[self.kind]} {number:.4f}{spread} nats)"


def _checked_error(error: ArrayLike, shape: tuple[int, ...], kind: str) -> NDArray[np.float64]:
    """The standard error broadcast to `shape`, or the reason why it cannot be one."""
    found = np.asarray(error, dtype=np.float64)
    try:
        found = np.broadcast_to(found, shape).copy()
    except ValueError:
        raise ValueError(
            f"LogProb: expected a standard error of shape {shape}; got {found.shape}. Give one per value, "
            "or one number."
        ) from None
    if np.any(found < 0):
        raise ValueError(f"LogProb: expected a standard error of zero or more; got {found.min()}. Pass its size.")
    if kind == "exact" and np.any(found != 0):
        raise ValueError(
            "LogProb: expected a standard error of zero for kind 'exact'; got one above it. Use kind 'estimate'."
        )
    return found
