"""What functions hold on to: a latent reaches a density through closures, partials and methods too."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

LONGEST = 1000  # of a container that is gone through: longer ones are data
CALLED = (functools.partial, MethodType, FunctionType)


def held(thing: Any, leaves: type | tuple[type, ...], seen: set[int] | None = None) -> Iterator[Any]:
    """What the functions inside a distribution hold: the contents of closures, defaults, partials and methods, each once.

    Args:
        thing: a distribution, transform, network, function or container.
        leaves: types that nothing is inside of.
        seen: identities of what was gone through before.
    """
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type | ModuleType | leaves):
        return
    seen.add(id(thing))
    parts = _parts(thing)
    if isinstance(thing, CALLED):
        yield from parts
    for part in parts:
        yield from held(part, leaves, seen)


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, FunctionType):
        given = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        return [*given, *filter(lambda content: content is not None, map(_content, thing.__closure__ or ()))]
    if isinstance(thing, dict | list | tuple | set | frozenset):
        parts = list(thing.values() if isinstance(thing, dict) else thing)
        return parts if len(parts) <= LONGEST else []
    return list(vars(thing).values()) if hasattr(thing, "__dict__") else []


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is not bound yet
        return None
