"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["torch", "jax"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each test that takes it runs once on each backend."""
    return str(request.param)
