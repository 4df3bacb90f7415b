"""What functions hold on to: a latent reaches a density through closures, partials and methods too."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

LONGEST = 1000  # of a container that is gone through: longer ones are data
DEEPEST = 4  # objects and containers inside one another, of which the plain values are looked at
PLAIN = int | float | str | bool | None
_INSTALLED = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
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


def instances(kinds: tuple[type, ...], *programs: Any) -> list[Any]:
    """The objects of these classes inside of programs, the programs among them."""
    return [thing for thing in _objects(programs) if isinstance(thing, kinds)]


def numbers(*programs: Any) -> dict[str, float]:
    """The plain numbers that programs keep in their objects, closures and globals, by name: what a run may count in."""
    return {name: value for name, value in state(*programs).items() if type(value) in (int, float)}


def state(*programs: Any) -> dict[str, Any]:
    """The plain values and arrays that programs read from objects, closures and globals, by name: ``st['b']``, ``Model.n``.

    Small arrays of NumPy's, which can be written to, are copies. Of objects only what some function of the programs names.
    """
    found: dict[str, Any] = {}
    things = _reached(programs)
    functions = list(_functions(things))
    words = {name for function in functions for name in _words(function.__code__)}
    for thing in things:
        owner = thing.__self__ if isinstance(thing, MethodType) else thing
        if not isinstance(owner, CALLED):
            _note(type(owner).__name__, owner, words, found, set())
    for function in functions:
        if _is_librarys(function):
            continue
        code, known = function.__code__, function.__globals__
        named = dict(zip(code.co_freevars, map(_content, function.__closure__ or ()), strict=True))
        named |= {name: known[name] for name in _words(code) if name in known}
        for name, value in named.items():
            if not isinstance(value, CALLED):
                _note(name, value, words, found, set())
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of what is another value now, or gone from a container that was there; what is new does not count."""
    return [name for name, value in before.items() if name not in after or not _alike(value, after[name])]


def _alike(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(value, other, equal_nan=value.dtype.kind == "f")
    if isinstance(value, PLAIN) and isinstance(other, PLAIN):
        return value == other or (value != value and other != other)
    return value is other


def _note(name: str, value: Any, words: set[str], found: dict[str, Any], inside: set[int]) -> None:
    """Put what is in `value` into `found`, by the way that leads to it; of a library's own objects only numbers."""
    if isinstance(value, PLAIN):
        found.setdefault(name, value)
    elif isinstance(value, np.ndarray):
        found.setdefault(name, value.copy() if value.size <= LONGEST else value)
    elif hasattr(type(value), "dtype"):
        if "Tracer" not in type(value).__name__:
            found.setdefault(name, value)
    elif id(value) in inside or isinstance(value, type) or len(inside) > DEEPEST:
        return
    elif isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in list(parts)[:LONGEST]:
            _note(f"{name}[{key!r}]", part, words, found, {*inside, id(value)})
    elif hasattr(value, "__dict__"):
        for key in words & vars(value).keys():
            part = vars(value)[key]
            if not _is_librarys(value) or (type(part) in (int, float) and not isinstance(value, ModuleType)):
                _note(f"{name}.{key}", part, words, found, {*inside, id(value)})


def _is_librarys(thing: Any) -> bool:
    """Whether a function, module or object comes with Python or with an installed package."""
    if isinstance(thing, FunctionType):
        return thing.__code__.co_filename.startswith(_INSTALLED)
    if isinstance(thing, SimpleNamespace):
        return False
    module = thing if isinstance(thing, ModuleType) else sys.modules.get(type(thing).__module__)
    file = getattr(module, "__file__", None)
    return file.startswith(_INSTALLED) if file else getattr(module, "__name__", "") != "__main__"


def _functions(things: list[Any]) -> Iterator[FunctionType]:
    """The functions among things, and what these call: methods of the objects among them, functions of the user's."""
    owners = {type(thing.__self__ if isinstance(thing, MethodType) else thing) for thing in things}
    waiting, seen = [*things, *_methods(owners, {"__call__"})], set[int]()
    while waiting:
        function = waiting.pop(0)
        if not isinstance(function, FunctionType) or id(function) in seen or len(seen) > LONGEST:
            continue
        seen.add(id(function))
        yield function
        words, known = _words(function.__code__), function.__globals__
        waiting += _methods(owners, words)
        if not _is_librarys(function):
            waiting += [known[name] for name in words if name in known]


def _methods(owners: set[type], names: set[str]) -> list[Any]:
    """What classes define under these names, properties by their getters."""
    found = [vars(kind)[name] for owner in owners for kind in owner.__mro__ for name in names & vars(kind).keys()]
    return [getattr(one, "fget", None) or one for one in found]


def _words(code: CodeType) -> set[str]:
    """The names that a function's code takes from outside, and those of attributes; of functions inside it too."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return {*code.co_names, *(name for one in inner for name in _words(one))}


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
