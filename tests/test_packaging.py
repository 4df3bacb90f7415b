"""What is installed: the listed packages, all of them under ppl_gen. Nothing here needs a network."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1].resolve()
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
HOMES = SETUPTOOLS["package-dir"]
SITE = sysconfig.get_path("purelib")  # lends NumPy and setuptools to the places made below
TOP_FOLDERS = ["guides", "models", "tests", "tutorials", "benchmarks"]

# Where the packages came from, and what could be found under the names that must not be installed.
PROBE = f"""
import importlib, importlib.util, json
files = [importlib.import_module(name).__file__ for name in {sorted(HOMES)!r}]
print(json.dumps([files, [str(importlib.util.find_spec(name)) for name in {TOP_FOLDERS!r}]]))
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command outside the repository; what it printed, or a failure that shows it."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def pip_install(*options: object, cwd: Path, python: Path = Path(sys.executable)) -> None:
    quiet_and_offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *quiet_and_offline, *options, cwd=cwd)


def checkout(folder: Path) -> Path:
    """A copy of the repository to build in, so that no build leaves files in it; links stay links."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("ppl_gen", "guides", "models", "tests"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def modules() -> set[str]:
    """The Python files by the path at which they install; links are not followed."""
    return {
        (Path(*package.split(".")) / path.relative_to(ROOT / home)).as_posix()
        for package, home in HOMES.items()
        for path in (ROOT / home).rglob("*.py")
    }


def test_every_folder_with_code_is_a_listed_package():
    folders = {str(Path(module).parent).replace("/", ".") for module in modules()}
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders)


@pytest.mark.parametrize("package", SETUPTOOLS["packages"])
def test_package_has_an_init(package):
    assert ROOT.joinpath(*package.split("."), "__init__.py").is_file()


@pytest.mark.parametrize("name", ["guides", "models"])
def test_link_leads_to_the_top_folder(name):
    assert (ROOT / "ppl_gen" / name).resolve() == ROOT / name


@pytest.mark.slow
def test_wheel_made_from_the_sdist_holds_ppl_gen_alone(tmp_path):
    source, target = checkout(tmp_path / "source"), tmp_path / "target"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted({*modules(), "ppl_gen/py.typed"})

    pip_install("--target", target, wheel, cwd=tmp_path)
    # -S: an editable install of this environment must not help out.
    path = f"import sys; sys.path[:0] = [{str(target)!r}]; sys.path.append({SITE!r})"
    files, stray = json.loads(run(sys.executable, "-I", "-S", "-c", path + PROBE, cwd=tmp_path))
    assert all(Path(file).is_relative_to(target) for file in files)
    assert not any(str(tmp_path) in spec for spec in stray)


@pytest.mark.slow
def test_editable_install_is_the_checkout_and_adds_no_other_name(tmp_path):
    source, python = checkout(tmp_path / "source"), tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(site, "lent.pth").write_text(SITE)  # a path only: .pth files in SITE itself are not read

    pip_install("--editable", source, cwd=tmp_path, python=python)
    files, stray = json.loads(run(python, "-I", "-c", PROBE, cwd=tmp_path))
    assert all(Path(file).is_relative_to(source) for file in files)
    assert not any(str(tmp_path) in spec for spec in stray)
