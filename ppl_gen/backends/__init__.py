"""The doors to torch with Pyro and to JAX with NumPyro, the choice between them, and what both do by one text.

It may import everything above it down to `elimination`; only `torch/` and `jax/` import a framework, each its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ppl_gen import language
from ppl_gen.backends.turns import turn

LIBRARIES = {"torch": "pyro", "jax": "numpyro"}
_EXTRAS = {"torch": "pyro-ppl", "jax": "numpyro"}
_OWNERS = {"torch": ("torch", "pyro"), "jax": ("jax", "jaxlib", "numpyro", "flax", "equinox", "haiku")}


class Noticed(BaseException):
    """Carries the backend of the first statement a program makes; a BaseException, so no program swallows it."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        self.backend = backend


def installed(name: str) -> bool:
    """Whether the libraries of backend `name` can be imported."""
    return all(_findable(library) for library in (name, LIBRARIES[name]))


def _findable(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ValueError:  # a module replaced by hand in sys.modules
        return False


def get(name: str) -> Any:
    """The backend module.

    Raises:
        ValueError: no backend of this name.
        ImportError: its libraries are not installed.
    """
    if name not in LIBRARIES:
        raise ValueError(f"backend: expected one of {sorted(LIBRARIES)}; got {name!r}.")
    if not installed(name):
        raise ImportError(
            f"backend '{name}': expected {name} and {LIBRARIES[name]} to be installed; at least one is not. "
            f"Install them with: pip install 'ppl_gen[{name}]'."
        )
    return importlib.import_module(f"ppl_gen.backends.{name}")


def default() -> str:
    """Torch where it is installed, else jax."""
    for name in LIBRARIES:
        if installed(name):
            return name
    raise ImportError(
        "backend: expected torch with pyro, or jax with numpyro; neither is installed. pip install 'ppl_gen[torch]'."
    )


def detect(model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The backend a program is written for: by its objects, its first statement, its names, its arrays."""
    for program in (model, guide):
        owner = _owner(program)
        if owner:
            return owner
    for program in (model, guide):
        noticed = _first_statement(program, args, kwargs) if callable(program) else None
        if noticed in LIBRARIES:
            return noticed
        if noticed is None and callable(program):
            named = _named(program)
            if named:
                return named
    for value in (*args, *kwargs.values()):
        owner = _owner(value)
        if owner:
            return owner
    return default()


def _owner(thing: Any) -> str | None:
    """The backend whose class `thing` is an instance of, by the modules of its bases."""
    for base in type(thing).__mro__:
        root = base.__module__.split(".")[0]
        for backend, roots in _OWNERS.items():
            if root in roots:
                return backend
    return None


def _first_statement(program: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    with turn, ExitStack() as stack:
        for name, library in LIBRARIES.items():
            if library in sys.modules and installed(name):
                stack.enter_context(get(name).on_any_statement(_notice(name)))
        stack.enter_context(language.use(_Portable()))
        try:
            program(*args, **kwargs)
        except Noticed as noticed:
            return noticed.backend
        except Exception:  # the real run shows it, with its checks
            return None
    return None


def _notice(backend: str) -> Callable[[str | None], None]:
    def raise_noticed(site: str | None) -> None:
        raise Noticed(backend)

    return raise_noticed


class _Portable:
    name = "portable"

    def __getattr__(self, name: str) -> Any:
        raise Noticed("portable")


def _named(program: Any) -> str | None:
    """The backend among the global names a function uses."""
    code, names = getattr(program, "__code__", None), getattr(program, "__globals__", {})
    for name in code.co_names if code else ():
        root = getattr(names.get(name), "__name__", "").split(".")[0]
        for backend, roots in _OWNERS.items():
            if root in roots:
                return backend
    return None


@contextmanager
def tripwire(active: str) -> Iterator[None]:
    """While `active` runs a program, a site of the other library raises instead of vanishing."""
    with turn, ExitStack() as stack:
        for name, library in LIBRARIES.items():
            if name != active and library in sys.modules and installed(name):
                stack.enter_context(get(name).on_any_statement(_refuse(name, active)))
        yield


def _refuse(found: str, active: str) -> Callable[[str | None], None]:
    def refuse(site: str | None) -> None:
        raise TypeError(
            f"site '{site}': expected a {LIBRARIES[active]} statement, as in the rest of the program; got a {LIBRARIES[found]} one. "
            "Write the whole program with one library, or with ppl_gen's own sample and param."
        )

    return refuse
