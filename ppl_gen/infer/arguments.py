"""What the verbs are given, looked at before anything runs: each thing in its place, and of a kind that can be used."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

from ppl_gen import backends
from ppl_gen.training.batches import is_numbers


def check_program(model: object, guide: object, data: object, backend: str | None = None) -> None:
    """Raise unless model and guide are programs, data are data, and the backend is there, if one is asked for.

    Raises:
        TypeError: one of them is not.
        ValueError: there is no such backend.
        ImportError: it is not installed.
    """
    if backend is not None:
        backends.get(backend)
    _check_model(model)
    _check_guide(guide)
    check_form(data)


def _check_model(model: object) -> None:
    if not callable(model):
        raise TypeError(
            f"model: expected a program, which is a function with sample statements, or a model from ppl_gen.models; got "
            f"{_said(model)}. Pass the function itself."
        )
    _check_built("model", model)


def _check_guide(guide: object) -> None:
    if _is_data(guide) and not callable(guide):
        raise TypeError(
            f"guide: expected a program that proposes the latents, or None; got {_said(guide)}, which looks like data. Pass it "
            "by name: infer.fit(model, data=x)."
        )
    if guide is not None and not callable(guide):
        raise TypeError(
            f"guide: expected a program that proposes the latents, or None; got {_said(guide)}. Pass a function, or leave it out."
        )
    _check_built("guide", guide)


def _check_built(what: str, program: object) -> None:
    if isinstance(program, type):
        raise TypeError(
            f"{what}: expected a program or a built object; got the class {program.__name__}. Build one first: "
            f"{program.__name__}(...)."
        )


def check_form(data: object, where: str = "data") -> None:
    """Raise where data are a text, a program, or bare numbers in a list.

    Raises:
        TypeError: they are.
    """
    if isinstance(data, str | bytes) or (callable(data) and not _is_data(data)):
        raise TypeError(
            f"{where}: expected arrays, a tuple or dict of them, or batches; got {_said(data)}. Pass the arrays."
        )
    if isinstance(data, list) and data and all(map(is_numbers, data)):
        raise TypeError(
            f"{where}: expected an array, or a list of batches that are arrays; got a list of {len(data)} plain numbers or lists "
            f"of them. Pass numpy.array({where})."
        )


def _is_data(value: object) -> bool:
    arrays = hasattr(value, "shape") or hasattr(value, "columns")
    return arrays or isinstance(value, list | tuple | Mapping) or type(value).__name__ == "DataLoader"


def _said(value: object) -> str:
    """A thing in few words."""
    shape = getattr(value, "shape", None)
    if value is None:
        return "None"
    return f"{type(value).__name__} of shape {tuple(shape)}" if isinstance(shape, tuple) else f"{value!r:.80}"


def check_options(
    steps: object,
    batch_size: object,
    compile: object,
    patience: object,
    validation: object,
    callbacks: object,
    checkpoint: object,
) -> list[Callable[..., Any]]:
    """The callbacks, once every option is of its kind.

    Raises:
        TypeError: an option is of another kind.
        ValueError: it is out of bounds.
    """
    if not is_whole(steps) or steps < 0:
        raise ValueError(f"steps: expected a whole number, 0 or more; got {steps!r}.")
    if batch_size is not None and not is_whole(batch_size):
        raise TypeError(f"batch_size: expected a whole number of rows, or None; got {batch_size!r}.")
    if not (compile == "auto" or isinstance(compile, bool)):
        raise ValueError(f"compile: expected 'auto', True or False; got {compile!r}.")
    if patience is not None:
        _check_patience(patience, validation)
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise TypeError(f"checkpoint: expected a path; got {checkpoint!r}.")
    return _listed(callbacks)


def _check_patience(patience: object, validation: object) -> None:
    if not is_whole(patience) or patience < 1:
        raise ValueError(f"patience: expected 1 evaluation or more; got {patience!r}.")
    if validation is None:
        raise ValueError(
            "patience: expected validation data to judge by; got none. Pass validation=, or drop patience."
        )


def _listed(callbacks: object) -> list[Callable[..., Any]]:
    if callable(callbacks) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected a list of functions; got {callbacks!r:.80}. Write [function].")
    listed = list(callbacks)
    for callback in listed:
        if not callable(callback):
            raise TypeError(f"callbacks: expected functions of the running state; got {callback!r:.80}.")
    return listed


def check_choices(estimators: object, num_particles: object, device: object = "auto") -> None:
    """Raise unless estimators are by site, particles are counted, and a device is named.

    Raises:
        TypeError: one is not.
    """
    if estimators is not None and not isinstance(estimators, Mapping):
        raise TypeError(
            f"estimators: expected a dict from site to estimator; got {estimators!r:.80}. Write {{'site': Score()}}, or "
            "{'*': Score()} for all."
        )
    if not is_whole(num_particles):
        raise TypeError(f"num_particles: expected a whole number; got {num_particles!r}.")
    if not isinstance(device, str):
        raise TypeError(f"device: expected a name such as 'cpu' or 'auto'; got {device!r}.")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, True and False aside."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
