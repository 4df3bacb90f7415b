"""The few error classes that a caller may want to catch by name."""

from __future__ import annotations

from typing import Any


class ProgramError(ValueError):
    """A program cannot be trained as it stands; the message names the site and says what to do."""


class NonFinite(ProgramError, ArithmeticError):
    """A NaN or an infinity appeared in the loss or its gradient.

    Attributes:
        fit: the last good state, a usable `Fit`; None where none existed yet.
        losses: of the good steps since the last report, nats.
    """

    def __init__(self, message: str, fit: Any = None, losses: Any = ()) -> None:
        super().__init__(message)
        self.fit, self.losses = fit, losses


class Interrupted(KeyboardInterrupt):
    """A run was interrupted, by Ctrl-C as a rule.

    Attributes:
        fit: the state so far, a usable `Fit`; None where there was none yet.
    """

    def __init__(self, message: str, fit: Any = None) -> None:
        super().__init__(message)
        self.fit = fit
