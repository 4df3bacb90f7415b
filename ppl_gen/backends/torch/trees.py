"""Nested dicts of tensors, in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def leaves(tree: Mapping[str, Any]) -> Iterator[Any]:
    """The leaves of nested dicts, in order."""
    for value in tree.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def named(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dicts, in order."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from named(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def like(tree: Mapping[str, Any], supply: Iterator[Any]) -> dict[str, Any]:
    """The same nested dicts with these leaves."""
    return {n: like(value, supply) if isinstance(value, dict) else next(supply) for n, value in tree.items()}


def below(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What begins with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
