"""How values reach one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

PARAM = "param:"  # prefix of a parameter's label among the sources of a reach
NOISE = "noise:"  # the label of random numbers that the program draws in no sample statement; no reach of a site's


@dataclass(frozen=True)
class Path:
    """How one value reaches another.

    Attributes:
        jump: where the way stops being differentiable, as ``"model.py:12: gt"``; None if nowhere.
        beside: a parameter's: whether what jumps there holds a random value too, so that on average it is no step.
        partly: whether, beside the way that jumps, another is differentiable all along.
    """

    jump: str | None = None
    beside: bool = False
    partly: bool = False

    @property
    def passes(self) -> bool:
        """Whether some way is differentiable all along."""
        return self.jump is None or self.partly

    def joined(self, other: Path) -> Path:
        """Both ways; a jump on either makes the whole a jump, and one beside a random value is told first."""
        told = other if self.jump is None or (other.beside and not self.beside) else self
        return replace(told, partly=told.jump is not None and (self.passes or other.passes))

    def blocked(self, where: str, beside: bool) -> Path:
        """The way through an operation at `where` that passes no gradient."""
        if self.jump is None or (self.partly and beside):
            return Path(where, beside)
        return replace(self, partly=False)


def merge(*reaches: Mapping[str, Path]) -> dict[str, Path]:
    """Union of several ``source -> Path`` maps."""
    merged: dict[str, Path] = {}
    for reach in reaches:
        for source, path in reach.items():
            merged[source] = merged[source].joined(path) if source in merged else path
    return merged


def blocked(reach: Mapping[str, Path], where: str) -> dict[str, Path]:
    """The same sources, after an operation at ``where`` that passes no gradient."""
    random = any(not source.startswith(PARAM) for source in reach)
    return {s: path.blocked(where, random and s.startswith(PARAM)) for s, path in reach.items()}
