"""Where the files of a data set are: the user's own folder first, then a public home and the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "PPL_GEN_DATA"

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_GITHUB = "https://raw.githubusercontent.com/"
_UCLA = _GITHUB + "UCLA-StarAI/Density-Estimation-Datasets/37d53c1a8ba488d0a39e8c64bd3387577080b143/datasets/"
_MADE = _GITHUB + "mgermain/MADE/514849eb9451311c02049f9e2d9a17fac589996a/datasets/"
_ARM = _GITHUB + "mingzhang-yin/ARM-gradient/9b5f74da4e4009c5556e8d7a87c88c8e291c253d/"

# Folder a file is served from -> file name -> checksum as served (SHA-256 unless it says md5).
_HOMES: dict[str, dict[str, str]] = {
    _MNIST: {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    },
    _ARM: {
        "binarized_mnist_train.amat": "79a0312c7389d855cfc97e3812de3998417c5829d8a51543b56a90a91252ae7e",
        "binarized_mnist_valid.amat": "7436afc856959075c7787025bb8a4ba2b520b9230ee39667c66aa7dd2819dd68",
        "binarized_mnist_test.amat": "5bc30222e1e7896cbccd1e1db6b28540cc1230f4d2d5473841a5f6cc54be8d38",
    },
    _MADE: {
        "dna.npz": "df2d2e7ce1469edfead15e41024e108d64f1b4633cfecfc40ef7107cc22c895c",
    },
    _UCLA + "nips/": {
        "nips.train.data": "4d744cb1f2c725405bff6ef6878df06eafbbc2a91f0510e0f3d8a508b05ec7bb",
        "nips.valid.data": "b06acd8e6a701d63d4e58b5076c11c59bcd0343fb9b1fbb5997459d3e6b8ca96",
        "nips.test.data": "48711bdaffbd43aa439679785e19d9cc80c64a157fa84eadc5dce60ee4edf7bc",
    },
    _UCLA + "nltcs/": {
        "nltcs.train.data": "e547a7aedad1dd2f7177030881ab1b92c7e24ae5464c71a0f1f89daecaf52b30",
        "nltcs.valid.data": "93bbbf5c6febdc9bc6e5b5bfab636f4dc0685ab2896d24b23dd267794c3bfcf6",
        "nltcs.test.data": "f9ffa6b74b27dc03bee3203d157ee31079e80b13be40d0c0093d635c25aed523",
    },
    _UCLA + "baudio/": {
        "baudio.train.data": "b1ec73f4aa9d4ce48b465ded865cc3d22b3f68cf6258f9e15fbef8902138add1",
        "baudio.valid.data": "7164d8a4943f74953f0e982002d84693fdf483e17f69e7407dc939c5ce5622fe",
        "baudio.test.data": "1474f3206f1f35e099803a0f40b0cd209bdc8d787825095ef6cb23fd87ed0d05",
    },
    _UCLA + "pumsb_star/": {
        "pumsb_star.train.data": "27e610b5f9f507f94ebf8a227f8b96cc59d7eed51e06ee5d2fe8353afbc1524c",
        "pumsb_star.valid.data": "6a491d1ea64eb0249dddd168fdddeef88aa21001a933eb7309603b6466187af8",
        "pumsb_star.test.data": "b2da195314ac17f9d8d171743c5f98a28ea9583332a52d34aa228ff2e11aa8e7",
    },
}
_URLS = {file: (base + file, checksum) for base, files in _HOMES.items() for file, checksum in files.items()}


def find(relative: str) -> Path | None:
    """The file at `relative` in the folder that PPL_GEN_DATA names, or None if it is not there."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    path = Path(folder).expanduser() / relative
    return path if path.is_file() else None


def download(file: str, instead: str) -> Path:
    """Fetch `file` from its public home into the user's cache, once, and check its checksum.

    Args:
        file: a name in the table of homes.
        instead: what could be put into the PPL_GEN_DATA folder to do without the download; for the error.

    Raises:
        FileNotFoundError: the home cannot be reached.
        ValueError: what came has another checksum.
    """
    try:
        import pooch
    except ImportError as error:
        error.add_note("Downloading data needs pooch: pip install 'ppl_gen[data]'.")
        raise
    url, checksum = _URLS[file]
    try:
        return Path(pooch.retrieve(url, checksum, fname=file, path=pooch.os_cache("ppl_gen")))
    except OSError as error:
        raise FileNotFoundError(
            f"data.load: expected {instead} in the folder that {FOLDER} names, or {url} to be "
            f"reachable; got {state()}, and the download failed. Put the file there, or try again online."
        ) from error


def state() -> str:
    """What PPL_GEN_DATA says, in words for an error."""
    folder = os.environ.get(FOLDER)
    return f"{FOLDER}={folder!r} without it" if folder else f"{FOLDER} unset"
