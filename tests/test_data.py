"""Data sets: fixed splits, fingerprints that tell data apart, checked files, bits from grey levels."""

import dataclasses
import gzip
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ppl_gen import data
from ppl_gen.data import formats, loading, sources

SIZES = {  # rows of train, valid, test; shape of a row
    "mnist": (60000, None, 10000, (28, 28)),
    "binarized_mnist": (50000, 10000, 10000, (28, 28)),
    "adult": (5000, 1414, 26147, (123,)),
    "connect4": (16000, 4000, 47557, (126,)),
    "dna": (1400, 600, 1186, (180,)),
    "nips": (400, 100, 1240, (500,)),
    "nltcs": (16181, 2157, 3236, (16,)),
    "baudio": (15000, 2000, 3000, (100,)),
    "pumsb_star": (12262, 1635, 2452, (163,)),
}


def own_file(name):
    folder = os.environ.get("PPL_GEN_DATA")
    path = Path(folder or ".", "mnist/t10k-images-idx3-ubyte.gz" if name == "mnist" else f"{name}.npz")
    if not folder or not path.is_file():
        pytest.skip(f"PPL_GEN_DATA has no {path.name}")
    return path


def write_packed(folder, name, width=10, rows=(6, 3, 4)):
    rng = np.random.default_rng(0)
    splits = [rng.integers(0, 2, (n, width), dtype=np.uint8) for n in rows]
    train, valid, test = (np.packbits(split, axis=1) for split in splits)
    np.savez(folder / f"{name}.npz", num_vars=width, train=train, valid=valid, test=test)
    return splits


@pytest.fixture
def offline(monkeypatch):
    """No folder of files, and no way to fetch any."""
    monkeypatch.delenv("PPL_GEN_DATA", raising=False)

    def refuse(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr(pytest.importorskip("pooch"), "retrieve", refuse)


def test_digits_need_no_files(offline):
    digits = data.load("digits")
    assert digits.valid is not None
    assert [len(digits.train), len(digits.valid), len(digits.test)] == [1297, 250, 250]
    assert digits.train.shape[1:] == (8, 8) and digits.train.dtype == np.uint8
    assert (digits.train.min(), digits.train.max()) == (0, 16)
    assert "digits" in repr(digits) and "1297/250/250 rows of 8x8" in repr(digits)


def test_digits_are_split_without_loss_or_overlap():
    datasets = pytest.importorskip("sklearn.datasets")
    digits, whole = data.load("digits"), datasets.load_digits()
    parts = np.concatenate([digits.train, digits.valid, digits.test]).reshape(-1, 64)
    labels = np.concatenate([digits.train_labels, digits.valid_labels, digits.test_labels])
    mine = sorted(map(tuple, np.column_stack([parts, labels]).tolist()))
    assert mine == sorted(map(tuple, np.column_stack([whole.data, whole.target]).astype(int).tolist()))


def test_labels_stay_with_their_images():
    whole, digits = pytest.importorskip("sklearn.datasets").load_digits(), data.load("digits")
    images = [image.astype(np.uint8).tobytes() for image in whole.images]
    label_of = dict(zip(images, whole.target.tolist(), strict=True))
    np.testing.assert_array_equal([label_of[image.tobytes()] for image in digits.test], digits.test_labels)


@pytest.mark.parametrize("name", SIZES)
def test_files_in_the_folder_have_the_published_sizes(name):
    own_file(name)
    dataset = data.load(name)
    train, valid, test, event = SIZES[name]
    assert dataset.train.shape == (train, *event) and dataset.test.shape == (test, *event)
    assert (None if dataset.valid is None else len(dataset.valid)) == valid
    assert dataset.train.dtype == np.uint8
    assert dataset.train.max() == (255 if name == "mnist" else 1)
    assert (dataset.test_labels is None) == (name != "mnist")


def test_every_name_has_its_fingerprint_on_record():
    assert set(loading._FINGERPRINTS) == set(loading._READERS) == {"digits", *SIZES}


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match=r"digits, mnist, .*pumsb_star; got 'minst'"):
        data.load("minst")


def test_set_without_a_home_says_which_file_goes_where(offline, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adult\.npz in the folder that PPL_GEN_DATA.*PPL_GEN_DATA unset"):
        data.load("adult")
    monkeypatch.setenv("PPL_GEN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="without it.*num_vars"):
        data.load("adult")


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "dna", "nips", "nltcs", "baudio", "pumsb_star"])
def test_unreachable_home_says_what_to_put_where(offline, name):
    with pytest.raises(FileNotFoundError, match=r"PPL_GEN_DATA names, or https://.* download failed"):
        data.load(name)


def test_other_arrays_under_a_known_name_are_refused(monkeypatch, tmp_path):
    write_packed(tmp_path, "nltcs")
    monkeypatch.setenv("PPL_GEN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="expected arrays with fingerprint ff5cf3cecc174524; got Dataset"):
        data.load("nltcs")


def test_one_flipped_bit_is_noticed(monkeypatch, tmp_path):
    with np.load(own_file("nltcs")) as archive:
        arrays = dict(archive)
    arrays["test"][-1, 0] ^= 1
    np.savez(tmp_path / "nltcs.npz", **arrays)
    monkeypatch.setenv("PPL_GEN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="another version or damaged"):
        data.load("nltcs")


def test_same_arrays_in_another_container_are_accepted(monkeypatch, tmp_path):
    source = own_file("nltcs")
    with np.load(source) as archive:
        np.savez(tmp_path / "nltcs.npz", **archive)
    assert (tmp_path / "nltcs.npz").read_bytes() != source.read_bytes()
    monkeypatch.setenv("PPL_GEN_DATA", str(tmp_path))
    assert data.load("nltcs").fingerprint == "ff5cf3cecc174524"


@pytest.mark.parametrize("name", ["mnist/train-images-idx3-ubyte.gz", "nips.npz"])
def test_damaged_file_is_a_value_error(monkeypatch, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x1f\x8b not what it says")
    monkeypatch.setenv("PPL_GEN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"expected a readable {path.name}.*replace it"):
        data.load(name.split("/")[0].removesuffix(".npz"))


def test_packed_bits_are_unpacked_to_their_width(tmp_path):
    splits = write_packed(tmp_path, "any", width=11)
    for read, written in zip(formats.read_packed(tmp_path / "any.npz"), splits, strict=True):
        np.testing.assert_array_equal(read, written)


def test_idx_files_are_read_in_shape(tmp_path):
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">i4").tobytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + images.tobytes()))
    np.testing.assert_array_equal(formats.read_idx(tmp_path / "x.gz"), images)


def as_served(name, splits, folder):
    """The files of a public home, rebuilt from its arrays."""
    if name == "dna":
        np.savez(folder / "dna.npz", **{f"{s}_data": x.astype(np.float32) for s, x in splits.items()})
    for split, x in splits.items():
        if name == "binarized_mnist":
            savemat = pytest.importorskip("scipy.io").savemat
            savemat(folder / f"{name}_{split}.amat", {"X": x.reshape(len(x), -1)}, appendmat=False)
        elif name == "nltcs":
            np.savetxt(folder / f"{name}.{split}.data", x, fmt="%d", delimiter=",")


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "dna", "nltcs"])
def test_a_download_gives_the_same_fingerprint_as_the_folder(name, monkeypatch, tmp_path):
    pooch, source = pytest.importorskip("pooch"), own_file(name)
    here = data.load(name)
    if name == "mnist":
        shutil.copytree(source.parent, tmp_path, dirs_exist_ok=True)
    else:
        as_served(name, {split: getattr(here, split) for split in formats.SPLITS}, tmp_path)
    monkeypatch.delenv("PPL_GEN_DATA")
    monkeypatch.setattr(pooch, "retrieve", lambda url, known_hash, fname, path: tmp_path / fname)
    assert data.load(name).fingerprint == here.fingerprint


def test_every_download_is_checked():
    for file, (url, checksum) in sources._URLS.items():
        digits = checksum.removeprefix("md5:")
        assert len(digits) == (32 if checksum.startswith("md5:") else 64) and int(digits, 16), file
        assert url.startswith("https://") and url.endswith(f"/{file}")


@pytest.mark.parametrize(("module", "name"), [("sklearn.datasets", "digits"), ("pooch", "mnist")])
def test_missing_package_says_what_to_install(monkeypatch, module, name):
    monkeypatch.delenv("PPL_GEN_DATA", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        data.load(name)
    assert "ppl_gen[data]" in " ".join(caught.value.__notes__)


def test_fingerprint_sees_values_shape_dtype_and_preprocessing():
    x = np.arange(6, dtype=np.int32)
    changed = x.copy()
    changed[-1] = 0
    prints = {
        data.fingerprint(x),
        data.fingerprint(changed),
        data.fingerprint(x.reshape(2, 3)),
        data.fingerprint(x.astype(np.int64)),
        data.fingerprint(x, preprocessing="scaled"),
        data.fingerprint(x, None),
        data.fingerprint(None, x),
        data.fingerprint(x[:3], x[3:]),
    }
    assert len(prints) == 8
    assert all(len(fingerprint) == 16 and int(fingerprint, 16) >= 0 for fingerprint in prints)


def test_fingerprint_ignores_memory_layout_and_byte_order():
    x = np.arange(6, dtype="<i4").reshape(2, 3)
    assert data.fingerprint(x) == data.fingerprint(np.asfortranarray(x)) == data.fingerprint(x.astype(">i4"))


def test_fingerprint_refuses_objects():
    with pytest.raises(TypeError, match="dtype object"):
        data.fingerprint(np.array(["a", 1], dtype=object))


def test_dataset_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.load("digits").name = "other"  # type: ignore[misc]


def test_threshold_itself_is_dark():
    np.testing.assert_array_equal(data.binarize(np.array([0, 7, 8, 16]), threshold=7), [0, 0, 1, 1])


def test_binarized_dataset_has_its_own_fingerprint():
    digits = data.load("digits")
    sets = [
        digits,
        data.binarize(digits, threshold=7),
        data.binarize(digits, threshold=8),
        data.binarize_stochastically(digits, max_level=16, seed=0),
        data.binarize_stochastically(digits, max_level=16, seed=1),
    ]
    assert len({dataset.fingerprint for dataset in sets}) == 5
    assert set(np.unique(sets[1].test)) == {0, 1} and sets[1].preprocessing == "level > 7"
    np.testing.assert_array_equal(sets[1].train_labels, digits.train_labels)
    # The same steps give the same fingerprint again.
    assert data.binarize(data.load("digits"), threshold=7).fingerprint == sets[1].fingerprint


def test_stochastic_bits_have_the_mean_of_their_level():
    # 17 levels, 20 000 draws each: |z| > 4.5 in any has probability 17 * 7e-6 = 1e-4; the seed is fixed.
    # A probability off by 10 % at level 8 lies 14 standard errors away.
    levels = np.tile(np.arange(17), (20_000, 1))
    bits = data.binarize_stochastically(levels, max_level=16, seed=3)
    p = np.arange(17) / 16
    error = np.abs(bits.mean(0) - p)
    assert np.all(error <= 4.5 * np.sqrt(p * (1 - p) / len(levels)))  # exact at both ends
    np.testing.assert_array_equal(bits, data.binarize_stochastically(levels, max_level=16, seed=3))


def test_levels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"expected levels in 0\.\.1; got 0\.\.16"):
        data.binarize_stochastically(np.arange(17), max_level=1, seed=0)
    with pytest.raises(ValueError, match="NaN"):
        data.binarize(np.array([0.0, np.nan]), threshold=7)
