"""A weight that changes while a program is trained."""

from __future__ import annotations

from ppl_gen.program.arrays import Array, Namespace


class Warmup:
    """A number that goes from one value to another over the first steps, on a straight line, and then stays.

    Args:
        steps: how many it takes.
        start: value before the first step.
        end: value from step `steps` on; what everything but a fit's own steps takes it for.

    Raises:
        ValueError: no steps, or a negative value.

    Source: Bowman et al. 2016; Sonderby et al. 2016.

    Example:
        >>> Warmup(1000).end
        1.0
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0) -> None:
        if steps < 1 or start < 0 or end < 0:
            raise ValueError(
                f"Warmup: expected one step or more, from zero or more to zero or more; got steps={steps}, start={start}, end={end}."
            )
        self.steps, self.start, self.end = steps, start, end

    def at(self, xp: Namespace, step: Array) -> Array:
        """The value at a step, both 0-d arrays; a subclass may take another way from `start` to `end`."""
        return self.start + (self.end - self.start) * xp.clip(step / self.steps, 0.0, 1.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(steps={self.steps}, start={self.start}, end={self.end})"
