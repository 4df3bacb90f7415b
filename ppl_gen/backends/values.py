"""The values that a program reads beside its arguments: what it may count in, and what a compiled step has burnt in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, MethodType, ModuleType

import numpy as np

from ppl_gen.backends.held import CALLED, LONGEST, content_of, is_librarys, reached, words_of

DEEPEST = 4  # objects and containers inside one another, of which the plain values are looked at
PLAIN = int | float | str | bool | None


def numbers(*programs: object) -> dict[str, float]:
    """The plain numbers that programs keep in their objects, closures and globals, by name: what a run may count in."""
    return {name: value for name, value in state(*programs).items() if type(value) is int or type(value) is float}


def state(*programs: object) -> dict[str, object]:
    """The plain values and arrays that programs read from objects, closures and globals, by name: ``st['b']``, ``Model.n``.

    Small arrays of NumPy's, which can be written to, are copies. Of objects only what some function of the programs names.
    """
    found: dict[str, object] = {}
    things = reached(programs)
    functions = list(_functions(things))
    words = {name for function in functions for name in words_of(function.__code__)}
    for thing in things:
        owner = thing.__self__ if isinstance(thing, MethodType) else thing
        if not isinstance(owner, CALLED):
            _note(type(owner).__name__, owner, words, found, set())
    for function in functions:
        if is_librarys(function):
            continue
        code, known = function.__code__, function.__globals__
        named = dict(zip(code.co_freevars, map(content_of, function.__closure__ or ()), strict=True))
        named |= {name: known[name] for name in words_of(code) if name in known}
        for name, value in named.items():
            if not isinstance(value, CALLED):
                _note(name, value, words, found, set())
    return found


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of what is another value now, or gone from a container that was there; what is new does not count."""
    return [name for name, value in before.items() if name not in after or not _alike(value, after[name])]


def _alike(value: object, other: object) -> bool:
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(value, other, equal_nan=value.dtype.kind == "f")
    if isinstance(value, PLAIN) and isinstance(other, PLAIN):
        return value == other or (value != value and other != other)
    return value is other


def _note(name: str, value: object, words: set[str], found: dict[str, object], inside: set[int]) -> None:
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
            if not is_librarys(value) or (type(part) in (int, float) and not isinstance(value, ModuleType)):
                _note(f"{name}.{key}", part, words, found, {*inside, id(value)})


def _functions(things: Sequence[object]) -> Iterator[FunctionType]:
    """The functions among things, and what these call: methods of the objects among them, functions of the user's."""
    owners = {type(thing.__self__ if isinstance(thing, MethodType) else thing) for thing in things}
    waiting, seen = [*things, *_methods(owners, {"__call__"})], set[int]()
    while waiting:
        function = waiting.pop(0)
        if not isinstance(function, FunctionType) or id(function) in seen or len(seen) > LONGEST:
            continue
        seen.add(id(function))
        yield function
        words, known = words_of(function.__code__), function.__globals__
        waiting += _methods(owners, words)
        if not is_librarys(function):
            waiting += [known[name] for name in words if name in known]


def _methods(owners: set[type], names: set[str]) -> list[object]:
    """What classes define under these names, properties by their getters."""
    found = [vars(kind)[name] for owner in owners for kind in owner.__mro__ for name in names & vars(kind).keys()]
    return [getattr(one, "fget", None) or one for one in found]
