"""What the texts that are written once ask of a backend."""

from __future__ import annotations

from ppl_gen.backends.engine import Engine, Program

__all__ = ["Engine", "Program"]
