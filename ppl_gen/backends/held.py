"""What functions hold on to: a latent reaches a density through closures, partials and methods too."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
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
    parts = parts_of(thing)
    if isinstance(thing, CALLED):
        yield from parts
    for part in parts:
        yield from held(part, leaves, seen)


@contextmanager
def as_they_were(*programs: Any) -> Iterator[None]:
    """Afterwards the programs' own objects hold what they held before, whatever a run in between set up in them.

    The attributes of objects are given back, and the contents of the containers among these; arrays are left alone.
    """
    before = [(own, _contents(own)) for thing in _objects(programs) for own in _containers(thing)]
    try:
        yield
    finally:
        for container, contents in before:
            _refill(container, contents)


def numbers(*programs: Any) -> dict[str, float]:
    """The plain numbers that programs keep in their objects, closures and globals, by name: what a run may count in."""
    named: dict[str, Any] = {}
    for thing in _reached(programs):
        own = [] if isinstance(thing, CALLED) else vars(thing).items()
        named |= {f"{type(thing).__name__}.{name}": value for name, value in own}
        for function in (thing, *vars(type(thing)).values()):  # methods too
            if isinstance(function, FunctionType):
                code, known = function.__code__, function.__globals__
                cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
                named |= {name: _content(cell) for name, cell in cells}
                named |= {name: known[name] for name in code.co_names if name in known}
    return {name: value for name, value in named.items() if type(value) in (int, float)}


def _objects(programs: tuple[Any, ...]) -> list[Any]:
    """Every object of a class that is no library's function or data, inside of programs."""
    return [thing for thing in _reached(programs) if not isinstance(thing, CALLED)]


def _reached(programs: tuple[Any, ...]) -> list[Any]:
    """The same, and every function on the way."""
    found: list[Any] = []

    def go(thing: Any) -> None:
        if isinstance(thing, type | ModuleType) or any(thing is other for other in found) or len(found) > LONGEST:
            return
        if isinstance(thing, CALLED):
            found.append(thing)
            for part in parts_of(thing):
                if isinstance(part, CALLED) or _is_callable_object(part):
                    go(part)
        elif _is_callable_object(thing):
            found.append(thing)
            for value in list(vars(thing).values()):
                values = (
                    value.values()
                    if isinstance(value, dict)
                    else value
                    if isinstance(value, list | tuple)
                    else (value,)
                )
                for part in list(values)[:LONGEST]:
                    if isinstance(part, CALLED) or _is_callable_object(part):
                        go(part)

    for program in programs:
        go(program)
    return found


def _is_callable_object(thing: Any) -> bool:
    return callable(thing) and not isinstance(thing, type) and hasattr(thing, "__dict__")


def _containers(thing: Any) -> list[Any]:
    own = vars(thing)
    return [*(value for value in own.values() if isinstance(value, dict | list | set)), own]


def _contents(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    container.extend(contents) if isinstance(container, list) else container.update(contents)


def parts_of(thing: Any) -> list[Any]:
    """What stands in a function, a container or an object."""
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
