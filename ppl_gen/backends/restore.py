"""A program's own objects, given back as they were before a run that is to leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ppl_gen.backends.held import objects

Container = dict[Any, Any] | list[Any] | set[Any]


@contextmanager
def as_they_were(*programs: object) -> Iterator[None]:
    """Afterwards the programs' own objects hold what they held before, whatever a run in between set up in them.

    The attributes of objects are given back, and the contents of the containers among these; arrays are left alone.
    """
    before = [(own, _contents(own)) for thing in objects(programs) for own in _containers(thing)]
    try:
        yield
    finally:
        for container, contents in before:
            _refill(container, contents)


def _containers(thing: object) -> list[Container]:
    own = vars(thing)
    return [*(value for value in own.values() if isinstance(value, dict | list | set)), own]


def _contents(container: Container) -> Container:
    return dict(container) if isinstance(container, dict) else list(container)


def _refill(container: Container, contents: Container) -> None:
    container.clear()
    container.extend(contents) if isinstance(container, list) else container.update(contents)
