"""Each tutorial runs as a plain script and keeps what it claims (its own asserts)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))


def test_tutorials_are_found():
    assert [path.stem for path in TUTORIALS][:2] == ["01_first_fit", "02_first_query"]


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_keeps_its_claims(path, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    pytest.importorskip("pandas")
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    settings = {"PPL_GEN_SMOKE": "1", "MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-W", "error::UserWarning", str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_ends_in_asserts_and_opens_with_prose(path):
    text = path.read_text()
    assert text.startswith("# %% [markdown]\n# # ")
    assert "\nassert " in text.split("# %%")[-1]
