"""What functions hold on to: a latent reaches a density through closures, partials and methods too."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

LONGEST = 1000  # of a container that is gone through: longer ones are data
_INSTALLED = sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")
CALLED = (functools.partial, MethodType, FunctionType)


def held(thing: object, leaves: type | tuple[type, ...], seen: set[int] | None = None) -> Iterator[Any]:
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


def instances(kinds: tuple[type, ...], *programs: object) -> list[Any]:
    """The objects of these classes inside of programs, the programs among them."""
    return [thing for thing in objects(programs) if isinstance(thing, kinds)]


def is_librarys(thing: object) -> bool:
    """Whether a function, module or object comes with Python or with an installed package."""
    if isinstance(thing, FunctionType):
        return thing.__code__.co_filename.startswith(_INSTALLED)
    if isinstance(thing, SimpleNamespace):
        return False
    module = thing if isinstance(thing, ModuleType) else sys.modules.get(type(thing).__module__)
    file = getattr(module, "__file__", None)
    return file.startswith(_INSTALLED) if file else getattr(module, "__name__", "") != "__main__"


def words_of(code: CodeType) -> set[str]:
    """The names that a function's code takes from outside, and those of attributes; of functions inside it too."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return {*code.co_names, *(name for one in inner for name in words_of(one))}


def objects(programs: Sequence[object]) -> list[Any]:
    """Every object of a class that is no library's function or data, inside of programs."""
    return [thing for thing in reached(programs) if not isinstance(thing, CALLED)]


def reached(programs: Sequence[object]) -> list[object]:
    """The same, and every function on the way."""
    found: list[object] = []

    def go(thing: object) -> None:
        if isinstance(thing, type | ModuleType) or any(thing is other for other in found) or len(found) > LONGEST:
            return
        found.append(thing)
        for part in parts_of(thing) if isinstance(thing, CALLED) else _attributes(thing):
            if _leads_on(part):
                go(part)

    for program in filter(_leads_on, programs):
        go(program)
    return found


def _attributes(thing: object) -> Iterator[object]:
    """An object's attributes, and what stands in those that are containers."""
    for value in list(vars(thing).values()):
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        yield from list(values)[:LONGEST]


def _leads_on(thing: object) -> bool:
    return isinstance(thing, CALLED) or _is_callable_object(thing)


def _is_callable_object(thing: object) -> bool:
    return callable(thing) and not isinstance(thing, type) and hasattr(thing, "__dict__")


def parts_of(thing: object) -> list[Any]:
    """What stands in a function, a container or an object."""
    return [part for _, part in named_parts(thing)]


def named_parts(thing: object) -> list[tuple[str, Any]]:
    """The same, each with the name it has there; the empty one where it has none."""
    if isinstance(thing, functools.partial):
        return [("", thing.func), *(("", part) for part in thing.args), *thing.keywords.items()]
    if isinstance(thing, MethodType):
        return [("", thing.__func__), ("", thing.__self__)]
    if isinstance(thing, FunctionType):
        cells = zip(thing.__code__.co_freevars, map(content_of, thing.__closure__ or ()), strict=True)
        given = [*(("", part) for part in thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).items()]
        return [*given, *((name, part) for name, part in cells if part is not None)]
    if isinstance(thing, dict):
        return [(str(key), part) for key, part in thing.items()] if len(thing) <= LONGEST else []
    if isinstance(thing, list | tuple | set | frozenset):
        return [("", part) for part in thing] if len(thing) <= LONGEST else []
    return list(vars(thing).items()) if hasattr(thing, "__dict__") else []


def globals_of(function: FunctionType) -> list[tuple[str, object]]:
    """The global names that a user's function reads, with what they stand for."""
    known = {} if is_librarys(function) else function.__globals__
    return [(name, known[name]) for name in sorted(_global_names(function.__code__)) if name in known]


def _global_names(code: CodeType) -> set[str]:
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return {*own, *(name for one in inner for name in _global_names(one))}


def content_of(cell: CellType) -> Any:
    """What a closure's cell holds; None where the name is not bound yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
