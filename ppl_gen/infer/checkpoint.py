"""One safetensors file with arrays and JSON: written atomically, read without running any code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

VERSION = 1


def write(path: Any, state: dict[str, np.ndarray], meta: dict[str, Any], template: dict[str, Any]) -> None:
    """Write a checkpoint: to a temporary file first, which then takes the place of the old one.

    Args:
        path: the file.
        state: flat arrays of the training state.
        meta: JSON-able facts.
        template: ``{"args": [...], "kwargs": {...}}``, data to read the program again; arrays and JSON-able values.
    """
    arrays = {f"state/{name}": value for name, value in state.items()}
    plain: dict[str, Any] = {"args": [], "kwargs": {}}
    for index, value in enumerate(template["args"]):
        plain["args"].append(_store(arrays, f"data/{index}", value))
    for key, value in template["kwargs"].items():
        plain["kwargs"][key] = _store(arrays, f"data/{key}", value)
    contiguous = {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in arrays.items()}
    header = {"ppl_gen": json.dumps({"version": VERSION, "meta": meta, "template": plain})}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(save(contiguous, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _store(arrays: dict[str, np.ndarray], name: str, value: Any) -> Any:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        detach = getattr(value, "detach", None)
        arrays[name] = np.asarray(detach().cpu().numpy() if detach else value)
        return {"array": name}
    try:
        json.dumps(value)
    except TypeError:
        raise TypeError(
            f"checkpoint: expected data that are arrays, numbers, strings or lists of these; got {type(value).__name__}. "
            "Close over such objects in the model instead."
        ) from None
    return {"value": value}


def read(path: Any) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """(state, meta, template) of a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole ppl_gen checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint: expected a file at {path}; got none. Check the path.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {})["ppl_gen"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["version"] != VERSION:
            raise ValueError(f"version {header['version']}")
        template = header["template"]
        restored = {
            "args": [_restore(arrays, entry) for entry in template["args"]],
            "kwargs": {key: _restore(arrays, entry) for key, entry in template["kwargs"].items()},
        }
        meta = dict(header["meta"])
    except (
        SafetensorError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        OSError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"checkpoint {path}: expected a file written by ppl_gen, version {VERSION}; got one that cannot be read ({error}). "
            "Train again, or give the path of another checkpoint."
        ) from None
    state = {name.removeprefix("state/"): value for name, value in arrays.items() if name.startswith("state/")}
    return state, meta, restored


def _restore(arrays: dict[str, np.ndarray], entry: dict[str, Any]) -> Any:
    return arrays[entry["array"]] if "array" in entry else entry["value"]


def history(path: Any, state: Mapping[str, np.ndarray]) -> tuple[list[float], list[tuple[int, float]]]:
    """(losses, (step, validation loss) pairs) among the arrays of a checkpoint.

    Raises:
        ValueError: there are none.
    """
    losses, pairs = state.get("losses", np.zeros((0, 0))), state.get("validation", np.zeros(0))
    if losses.ndim != 1 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"checkpoint {path}: expected losses and validation losses; got arrays of other shapes. Train again."
        )
    return [float(loss) for loss in losses], [(int(step), float(loss)) for step, loss in pairs]


def fitting(path: Any, state: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Check that a checkpoint has every expected array in its shape.

    Raises:
        ValueError: it has not; the message names the first.
    """
    for name, value in expected.items():
        found = state.get(name)
        if found is None or found.shape != np.shape(value):
            got = "none" if found is None else f"shape {found.shape}"
            raise ValueError(
                f"checkpoint {path}: expected '{name}' with shape {np.shape(value)}; got {got}. "
                "Pass the model and guide it was trained from."
            )
