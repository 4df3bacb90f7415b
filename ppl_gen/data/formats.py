"""Readers of the file formats the data sets come in; each turns paths into arrays and checks nothing else."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Bytes in the IDX format of MNIST, gzipped: two zeros, a type, the rank, big-endian sizes, values."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()


def read_packed(path: Path) -> list[NDArray[Any]]:
    """Splits as bits packed along their second axis, with their number in `num_vars`."""
    with np.load(path, allow_pickle=False) as archive:
        width = int(archive["num_vars"])
        return [np.unpackbits(archive[split], axis=1, count=width) for split in SPLITS]


def read_unpacked(path: Path) -> list[NDArray[Any]]:
    """Splits as plain arrays called `train_data` and so on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*additional header parsing")  # written by Python 2
        with np.load(path, allow_pickle=False) as archive:
            return [archive[f"{split}_data"].astype(np.uint8) for split in SPLITS]


def read_digits(path: Path) -> NDArray[np.uint8]:
    """Rows of single digits with commas between them."""
    return np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2)


def read_matlab(path: Path) -> NDArray[np.uint8]:
    """The array `X` of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        error.add_note("Reading this data set needs SciPy: pip install 'ppl_gen[data]'.")
        raise
    rows: NDArray[np.uint8] = loadmat(str(path), appendmat=False)["X"].astype(np.uint8)
    return rows
