"""The README's code runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_code_blocks_run_in_order_and_print_the_plan_shown(tmp_path):
    for module in ("torch", "pandas", "sklearn"):
        pytest.importorskip(module)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")))
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-W", "error::UserWarning", str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (shown,) = blocks("text")
    assert shown.strip() in done.stdout
    assert "lower_bound" in done.stdout


def test_make_commands_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"(?:^|`)make (\w+)", TEXT, flags=re.MULTILINE)
    assert {"demo", "test", "install"} <= set(named) <= set(targets)


def test_scripts_named_exist():
    scripts = re.findall(r"python (benchmarks/\w+\.py)", TEXT)
    assert scripts and all((ROOT / script).is_file() for script in scripts)


def test_local_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert "docs/demo.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_extras_named_are_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"'\.\[(\w+)\]'", TEXT)) <= set(declared)
