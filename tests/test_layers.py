"""Who may import whom: the layers, and one door to each framework."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from its own layer and from those before it.
LAYERS = """errors language program elimination backends estimators objectives data nn guides training evaluate query
    infer models""".split()
GATHER = {"ppl_gen", "ppl_gen.__main__", "ppl_gen.demo", "ppl_gen.testing"}  # these may import any layer
DOORS = {
    "ppl_gen.backends.torch": {"torch", "pyro", "pyroapi"},
    "ppl_gen.backends.jax": {"jax", "jaxlib", "numpyro", "optax", "flax", "equinox"},
}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def is_import_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {
        "import_module",
        "__import__",
    }


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported below a node, in functions too, but not for type checkers only."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if is_import_call(node):
            yield name
    skip = node.body if isinstance(node, ast.If) and is_type_checking(node) else []
    for child in ast.iter_child_nodes(node):
        if child not in skip:
            yield from imports(child)


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def is_allowed(importer: str, imported: str) -> bool:
    """Whether a module of ppl_gen may import another module, by full name."""
    for door, frameworks in DOORS.items():
        if imported.split(".")[0] in frameworks:
            return within(importer, door)
        if within(imported, door) and any(within(importer, other) for other in DOORS if other != door):
            return False
    if not within(imported, "ppl_gen"):
        return not imported.startswith((".", "guides.", "models.")) and imported not in {"guides", "models"}
    layer = imported.split(".")[1] if imported != "ppl_gen" else None
    return importer in GATHER or (layer in LAYERS and LAYERS.index(layer) <= LAYERS.index(importer.split(".")[1]))


def violations(importer: str, source: str) -> list[str]:
    return [f"{importer} imports {name}" for name in imports(ast.parse(source)) if not is_allowed(importer, name)]


def modules() -> dict[str, Path]:
    """Every module of the package by name; guides/ and models/ are read where they lie."""
    folders = {"ppl_gen": "ppl_gen", "ppl_gen.guides": "guides", "ppl_gen.models": "models"}
    found = {}
    for package, folder in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def test_every_module_has_a_layer():
    layers = {name.split(".")[1] for name in modules() if name not in GATHER}
    assert layers <= set(LAYERS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_module_imports_only_what_its_layer_may(name):
    assert violations(name, modules()[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("ppl_gen.infer.fit", "import torch"),
        ("ppl_gen.infer.fit", "def f():\n    from pyro.infer import SVI"),
        ("ppl_gen.infer.fit", "import importlib\nimportlib.import_module('jax.numpy')"),
        ("ppl_gen.infer.fit", "import numpy, optax"),
        ("ppl_gen.backends.torch", "import jax"),
        ("ppl_gen.backends.jax.run", "import torch.nn as nn"),
        ("ppl_gen.backends.jax.run", "from ppl_gen.backends.torch import run"),
        ("ppl_gen.backends.torchlike", "import torch"),
        ("ppl_gen.estimators.score", "from ppl_gen.infer.fit import fit"),
        ("ppl_gen.estimators.score", "from ppl_gen import objectives"),
        ("ppl_gen.estimators.score", "import ppl_gen.guides.none"),
        ("ppl_gen.estimators.score", "import ppl_gen"),
        ("ppl_gen.estimators.score", "from . import choose"),
        ("ppl_gen.estimators.score", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        ("ppl_gen.language", "from ppl_gen.program import Path"),
        ("ppl_gen.models.vae", "from guides import Adversarial"),
        ("ppl_gen", "import torch"),
    ],
)
def test_planted_violation_is_caught(importer, source):
    assert len(violations(importer, source)) == 1


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("ppl_gen", "from ppl_gen import infer, models"),
        ("ppl_gen.__main__", "def demo():\n    from ppl_gen.models import VAE"),
        ("ppl_gen.backends", "import importlib\nimportlib.import_module(f'ppl_gen.backends.{name}')"),
        (
            "ppl_gen.backends.torch.run",
            "import pyro.poutine\nfrom ppl_gen.backends.torch.capture import capture",
        ),
        ("ppl_gen.infer.fit", "from ppl_gen import guides, program\nimport numpy"),
        ("ppl_gen.infer.fit", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_lawful_import_passes(importer, source):
    assert violations(importer, source) == []


def test_every_folder_says_what_lives_there_and_what_it_may_import():
    for name, path in modules().items():
        if path.name == "__init__.py" and name != "ppl_gen":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            assert "may import" in text, name


def test_importing_ppl_gen_loads_no_framework():
    heavy = {"pandas", "matplotlib", "sklearn"}.union(*DOORS.values())
    code = "import sys, ppl_gen; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert "ppl_gen" in loaded.stdout.split()
    assert heavy.isdisjoint(loaded.stdout.split())
