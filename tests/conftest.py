"""Fixtures shared by all tests."""

from __future__ import annotations

import os

import pytest

# One thread for each of the processes that share the machine's cores; those that tests start take after them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is marked nightly for PPL_GEN_NIGHTLY=1."""
    if os.environ.get("PPL_GEN_NIGHTLY") != "1":
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each test that takes it runs once on each backend."""
    return str(request.param)
