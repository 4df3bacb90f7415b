"""Where arrays lie: on one device, or on several, the rows of the data split among them.

Several devices are a mesh of one axis. The leading axis of what belongs to the rows is split over it, all else is on every
device, and the compiler sees to the rest: one program, one set of parameters, gradients summed across.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
ALL = "all"  # in a device's name, in the place of its number
ROWS = "rows"  # the mesh's axis


def find_device(name: str) -> jax.Device | None:
    """The device of this name ("cpu:1"), the first of several ("cpu:all"); None for the platform JAX chooses by itself.

    Raises:
        RuntimeError: no such platform.
        ValueError: no device of that number.
    """
    platform, _, number = name.partition(":")
    if not number and platform == jax.default_backend():
        return None
    devices, place = jax.devices(platform), "0" if number in ("", ALL) else number
    if not place.isdigit() or int(place) >= len(devices):
        raise ValueError(number)
    return devices[int(place)]


def put(tree: T, device: str) -> T:
    """Arrays on a device, or on every one of several; as they are where it is JAX's own choice."""
    mesh, place = _mesh(device), find_device(device)
    where = NamedSharding(mesh, PartitionSpec()) if mesh is not None else place
    placed: T = tree if where is None else jax.device_put(tree, where)
    return placed


def put_rows(array: jax.Array | np.ndarray, device: str) -> jax.Array:
    """An array of the data: its leading axis is split among several devices where it can be, in equal parts."""
    mesh = _mesh(device)
    return put(jax.numpy.asarray(array), device) if mesh is None else jax.device_put(array, _split(mesh, array.shape))


def split_rows(tree: T, length: int, device: str) -> T:
    """Inside a compiled function: the arrays of a batch of that many rows, as `put_rows` lays them."""
    mesh = _mesh(device)
    if mesh is None:
        return tree

    def split(leaf: object) -> object:
        rows = isinstance(leaf, jax.Array) and leaf.shape[:1] == (length,)
        return jax.lax.with_sharding_constraint(leaf, _split(mesh, leaf.shape)) if rows else leaf  # type: ignore[attr-defined]

    found: T = jax.tree.map(split, tree)
    return found


def names() -> list[str]:
    """The names of what is there."""
    platforms = {d.platform for d in jax.devices()} | {"cpu"}
    return sorted({f"{d.platform}:{i}" for p in platforms for i, d in enumerate(jax.devices(p))})


def _mesh(name: str) -> Mesh | None:
    platform, _, number = name.partition(":")
    return Mesh(np.array(jax.devices(platform)), (ROWS,)) if number == ALL else None


def _split(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    whole = not shape or shape[0] % mesh.size
    return NamedSharding(mesh, PartitionSpec() if whole else PartitionSpec(ROWS))
