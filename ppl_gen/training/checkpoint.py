"""One safetensors file with arrays and JSON: written atomically, read without running any code."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ppl_gen.backends.interface import PathLike
from ppl_gen.program.arrays import Array
from ppl_gen.training.batches import is_array, to_host

VERSION = 2
READABLE = (1, VERSION)  # the first kept rows, and neither objective nor estimators
UNREADABLE = (
    SafetensorError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ValueError,
    OSError,
    RecursionError,
)
MOST_NUMBERS = 2**31  # of one array of data that is to be made up


@dataclass(frozen=True)
class Missing:
    """Stands for an array of data that was not kept.

    Attributes:
        shape: of the array.
        dtype: name of its NumPy type.
    """

    shape: tuple[int, ...]
    dtype: str


def write(
    path: PathLike, state: dict[str, np.ndarray], meta: dict[str, Any], template: dict[str, Any], keep: bool = False
) -> None:
    """Write a checkpoint: to a temporary file first, which then takes the place of the old one.

    Args:
        path: the file.
        state: flat arrays of the training state.
        meta: JSON-able facts.
        template: ``{"args": [...], "kwargs": {...}}``, data to read the program again; arrays and JSON-able values.
        keep: whether the template's arrays are written; else their shapes and types.
    """
    arrays = {f"state/{name}": value for name, value in state.items()}
    plain: dict[str, Any] = {"args": [], "kwargs": {}}
    for index, value in enumerate(template["args"]):
        plain["args"].append(_store(arrays, f"data/{index}", value, keep))
    for key, value in template["kwargs"].items():
        plain["kwargs"][key] = _store(arrays, f"data/{key}", value, keep)
    contiguous = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in arrays.items()}
    content = {"version": VERSION, "meta": meta, "template": plain, "arrays": _listed(contiguous)}
    _replace(Path(path), save(contiguous, metadata={"ppl_gen": json.dumps(content)}))


def _replace(target: Path, content: bytes) -> None:
    """Put a whole file in the place of the one that is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _listed(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Every array's name -> shape and type, so that one that is lost is missed."""
    return {name: f"{list(value.shape)} {value.dtype}" for name, value in arrays.items()}


def _store(arrays: dict[str, np.ndarray], name: str, value: object, keep: bool) -> Any:
    if is_array(value):
        if not keep:
            return {"shape": [int(size) for size in value.shape], "dtype": _type_name(value)}
        arrays[name] = to_host(value)
        return {"array": name}
    try:
        json.dumps(value)
    except TypeError:
        raise TypeError(
            f"checkpoint: expected data that are arrays, numbers, strings or lists of these; got {type(value).__name__}. "
            "Close over such objects in the model instead."
        ) from None
    return {"value": value}


def _type_name(value: Array) -> str:
    """The name of the NumPy type like an array's; that of floats where there is none."""
    name = str(value.dtype).removeprefix("torch.")
    try:
        return str(np.dtype(name))
    except TypeError:
        return "float32"


def read(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """(state, meta, template) of a checkpoint; in the template `Missing` stands for what was not kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole ppl_gen checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint: expected a file at {path}; got none. Check the path.")
    try:
        arrays, meta, template = _parsed(path)
    except UNREADABLE as error:
        raise ValueError(
            f"checkpoint {path}: expected a file written by ppl_gen, version {VERSION}; got one that cannot be read ({error}). "
            "Train again, or give the path of another checkpoint."
        ) from None
    state = {name.removeprefix("state/"): value for name, value in arrays.items() if name.startswith("state/")}
    return state, meta, template


def _parsed(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """(all arrays, meta, template); raises one of `UNREADABLE` where the file is none."""
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads((file.metadata() or {})["ppl_gen"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if header["version"] not in READABLE:
        raise ValueError(f"version {header['version']}")
    if header["version"] == VERSION:
        _check_listed(header["arrays"], _listed(arrays))
    template = header["template"]
    restored = {
        "args": [_restore(arrays, entry) for entry in template["args"]],
        "kwargs": {key: _restore(arrays, entry) for key, entry in template["kwargs"].items()},
    }
    return arrays, {**header["meta"], "version": header["version"]}, restored


def _check_listed(expected: dict[str, str], found: dict[str, str]) -> None:
    for name, kind in expected.items():
        if found.get(name) != kind:
            came = f"one of {found[name]}" if name in found else "none"
            raise ValueError(f"it lists an array '{name.removeprefix('state/')}' of {kind} and holds {came}")


def _restore(arrays: dict[str, np.ndarray], entry: dict[str, Any]) -> Any:
    if "shape" in entry:
        shape = tuple(int(size) for size in entry["shape"])
        if any(size < 0 for size in shape) or math.prod(shape) > MOST_NUMBERS:
            raise ValueError(f"data of shape {shape}")
        return Missing(shape, str(np.dtype(entry["dtype"])))
    return arrays[entry["array"]] if "array" in entry else entry["value"]


def warn_old(path: PathLike) -> None:
    """Say what a file of an older version lacks."""
    warnings.warn(
        f"checkpoint {path}: written by an older version, which stored neither objective, particles nor estimators, and whose "
        "Fit.save lost what torch networks had learned (what checkpoint= wrote is whole). Train again if Fit.save wrote it.",
        stacklevel=4,
    )


def history(path: PathLike, state: Mapping[str, np.ndarray]) -> tuple[list[float], list[tuple[int, float]]]:
    """(losses, (step, validation loss) pairs) among the arrays of a checkpoint.

    Raises:
        ValueError: there are none.
    """
    for name in ("losses", "validation"):
        if name not in state:
            raise ValueError(f"checkpoint {path}: expected an array '{name}'; got none. Train again.")
    losses, pairs = state["losses"], state["validation"]
    if losses.ndim != 1 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"checkpoint {path}: expected losses and validation losses; got arrays of other shapes. Train again."
        )
    return [float(loss) for loss in losses], [(int(step), float(loss)) for step, loss in pairs]


BEST = "best/"  # prefix of the state that was best on validation data
HISTORY = ("losses", "validation")


def parted(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """(the state after the last step, the one that was best on validation data or None) among the arrays of a checkpoint."""
    best = {name.removeprefix(BEST): value for name, value in arrays.items() if name.startswith(BEST)}
    last = {name: v for name, v in arrays.items() if not name.startswith(BEST) and name not in HISTORY}
    return last, best or None


def fitting(
    path: PathLike, state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], advice: str, prefix: str = ""
) -> None:
    """Check that a checkpoint has every expected array, in its shape and kind.

    Args:
        path: of the file.
        state: its arrays.
        expected: arrays of the same names.
        advice: what to do where it has not.
        prefix: of the names in the file.

    Raises:
        ValueError: it has not; the message names the first.
    """
    for name, value in expected.items():
        found = state.get(name)
        if found is None or found.shape != np.shape(value) or found.dtype.kind != np.asarray(value).dtype.kind:
            got = "none" if found is None else f"shape {found.shape} of {found.dtype}"
            raise ValueError(
                f"checkpoint {path}: expected '{prefix}{name}' with shape {np.shape(value)} of {np.asarray(value).dtype}; got "
                f"{got}. {advice}"
            )
