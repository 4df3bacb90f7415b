"""`load`: one name, one fixed split, one fingerprint, wherever the files came from."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppl_gen.data import formats, sources
from ppl_gen.data.dataset import Dataset

Arrays = list[NDArray[Any] | None]  # train, valid, test, then their labels where there are any

Contents = TypeVar("Contents")
_DAMAGED = (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error)

# Over the arrays, not the files, so that a copy in any container is checked alike.
_FINGERPRINTS = {
    "digits": "5bf4da551fd9a51b",
    "mnist": "30c48e1ba42d83bc",
    "binarized_mnist": "c13171fda5784929",
    "adult": "aaab6f8929c66e0c",
    "connect4": "7d362cadfaeb1494",
    "dna": "d60ca1f9a97b2239",
    "nips": "40bd2e4b5cc80231",
    "nltcs": "ff5cf3cecc174524",
    "baudio": "5b7f0edd549aa850",
    "pumsb_star": "489c8334d0ed5a0a",
}


def load(name: str) -> Dataset:
    """Load a data set by name.

    | name | rows train/valid/test | one row |
    |---|---|---|
    | digits | 1297/250/250 | 8x8, levels 0..16; comes with scikit-learn |
    | mnist | 60000/-/10000 | 28x28, levels 0..255 |
    | binarized_mnist | 50000/10000/10000 | 28x28 bits, the fixed binarization of the NADE papers |
    | adult, connect4, dna, nips | as in the NADE papers | 123, 126, 180, 500 bits |
    | nltcs, baudio, pumsb_star | as in the 20-set density-estimation benchmark | 16, 100, 163 bits |

    `dna` is 1400/600/1186; the 20-set benchmark trains on 1600 rows, so its numbers share only the test rows.
    `digits` is split by the permutation ``numpy.random.RandomState(0)``: neighbouring rows share a writer, so
    writers are shared between the parts.

    Files are read from the folder that the environment variable PPL_GEN_DATA names; what is not there is
    fetched from its public home into the user's cache. Either way the arrays are checked against their
    fingerprint.

    Args:
        name: one of the names above.

    Returns:
        A Dataset of raw levels (uint8), images in image shape.

    Raises:
        ValueError: the name is unknown, or the arrays are not the ones expected.
        FileNotFoundError: the files are neither in the folder nor to be had.
    """
    if name not in _READERS:
        known = ", ".join(_READERS)
        raise ValueError(f"data.load: expected one of {known}; got {name!r}. Use one of these names.")
    dataset = Dataset(name, *_READERS[name](name))  # type: ignore[arg-type]
    _verify(dataset)
    return dataset


def _verify(dataset: Dataset) -> None:
    expected = _FINGERPRINTS[dataset.name]
    if dataset.fingerprint != expected:
        raise ValueError(
            f"data.load({dataset.name!r}): expected arrays with fingerprint {expected}; got {dataset!r}. "
            "The file is another version or damaged: replace it."
        )


def _digits(name: str) -> Arrays:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        error.add_note(f"data.load({name!r}) needs scikit-learn: pip install 'ppl_gen[data]'.")
        raise
    bunch = load_digits()
    # RandomState's stream is frozen by NumPy's compatibility policy; default_rng's is not.
    parts = np.split(np.random.RandomState(0).permutation(len(bunch.images)), [1297, 1547])
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    return [images[part] for part in parts] + [labels[part] for part in parts]


def _mnist(name: str) -> Arrays:
    def part(file: str) -> NDArray[Any]:
        own = f"mnist/{file}"
        values: NDArray[Any] = _read(name, formats.read_idx, sources.find(own) or sources.download(file, own))
        return values

    train, test = (part(f"{split}-images-idx3-ubyte.gz") for split in ("train", "t10k"))
    train_labels, test_labels = (part(f"{split}-labels-idx1-ubyte.gz") for split in ("train", "t10k"))
    return [train, None, test, train_labels.astype(np.int64), None, test_labels.astype(np.int64)]


def _packed(*public: str, read: Callable[[Path], Any] | None = None) -> Callable[[str], Arrays]:
    """A reader of `name`.npz in the user's folder, else of the `public` files with `read`."""

    def reader(name: str) -> Arrays:
        own = f"{name}.npz"
        if path := sources.find(own):
            return list(_read(name, formats.read_packed, path))
        if read is None:
            raise FileNotFoundError(
                f"data.load({name!r}): expected the file {own} in the folder that {sources.FOLDER} names; "
                f"got {sources.state()}. This split has no public home to fetch it from: put the file there, "
                "with arrays train, valid, test (rows x variables, packed by numpy.packbits along axis 1) "
                "and num_vars."
            )
        parts = [_read(name, read, sources.download(file.format(name), own)) for file in public]
        return list(parts[0]) if len(parts) == 1 else parts

    return reader


def _binarized_mnist(name: str) -> Arrays:
    files = (f"{{}}_{split}.amat" for split in formats.SPLITS)
    rows = _packed(*files, read=formats.read_matlab)(name)
    return [None if part is None else part.reshape(-1, 28, 28) for part in rows]


def _read(name: str, read: Callable[[Path], Contents], path: Path) -> Contents:
    try:
        return read(path)
    except _DAMAGED as error:
        raise ValueError(
            f"data.load({name!r}): expected a readable {path.name}; got {type(error).__name__} from {path}. "
            "The file is damaged or of another form: replace it."
        ) from error


_benchmark = _packed(*(f"{{}}.{part}.data" for part in formats.SPLITS), read=formats.read_digits)

_READERS: dict[str, Callable[[str], Arrays]] = {
    "digits": _digits,
    "mnist": _mnist,
    "binarized_mnist": _binarized_mnist,
    "adult": _packed(),
    "connect4": _packed(),
    "dna": _packed("{}.npz", read=formats.read_unpacked),
    "nips": _benchmark,
    "nltcs": _benchmark,
    "baudio": _benchmark,
    "pumsb_star": _benchmark,
}
