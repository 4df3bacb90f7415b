"""A data set with its split, and the fingerprint that says which numbers may be compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

_SPLITS = ("train", "valid", "test", "train_labels", "valid_labels", "test_labels")


def fingerprint(*arrays: NDArray[Any] | None, preprocessing: str = "raw") -> str:
    """The first 16 hexadecimal digits of a SHA-256 over arrays and over how they were prepared.

    Shape, dtype and values count; memory layout and byte order do not. None has its own mark, so that a
    missing split is not the same as an empty one.

    Raises:
        TypeError: an array holds Python objects, whose bytes are only addresses.
    """
    state = hashlib.sha256(preprocessing.encode())
    for array in arrays:
        if array is None:
            state.update(b"|none")
            continue
        if array.dtype.hasobject:
            raise TypeError("data.fingerprint: expected numbers or strings; got dtype object. Encode the values first.")
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        state.update(f"|{little.dtype.str}{little.shape}".encode())
        state.update(little.tobytes())
    return state.hexdigest()[:16]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Rows of one named set, split once and for all.

    Attributes:
        name: the name given to `load`.
        train: raw levels, unscaled, shape (rows, *event), for images (rows, height, width).
        valid: as `train`; None where the set has no validation part of its own.
        test: as `train`.
        train_labels: integers of shape (rows,); None where there are none, and so for the others.
        valid_labels: integers of shape (rows,) or None.
        test_labels: integers of shape (rows,) or None.
        preprocessing: what was done to the rows; part of the fingerprint.
        fingerprint: 16 hexadecimal digits over all arrays and `preprocessing`, taken when the object is made.
    """

    name: str
    train: NDArray[Any]
    valid: NDArray[Any] | None
    test: NDArray[Any]
    train_labels: NDArray[Any] | None = None
    valid_labels: NDArray[Any] | None = None
    test_labels: NDArray[Any] | None = None
    preprocessing: str = "raw"
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the fingerprint."""
        arrays = (getattr(self, split) for split in _SPLITS)
        object.__setattr__(self, "fingerprint", fingerprint(*arrays, preprocessing=self.preprocessing))

    def __repr__(self) -> str:
        """Name, rows of train/valid/test, shape of one row, fingerprint."""
        splits = (self.train, self.valid, self.test)
        rows = "/".join("-" if part is None else str(len(part)) for part in splits)
        event = "x".join(map(str, self.train.shape[1:]))
        return f"Dataset({self.name}, {rows} rows of {event}, {self.preprocessing}, {self.fingerprint})"
