"""Every outcome of what a program reads on the host: its reads are answered from a script, path by path."""

from __future__ import annotations

import dis
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

from ppl_gen.errors import ProgramError

MOST_PATHS = 32  # runs of the program that following every outcome may take
MOST_READS = 256  # on one path, beyond those of the first: a loop that no answer ends

T = TypeVar("T")


class Endless(BaseException):
    """A path reads on and on; no `except Exception` of the program's may hide it."""


@dataclass
class Answers:
    """What the host is told, in order, on one path.

    Attributes:
        script: the first answers; after them the program's own values are told.
        most: reads that are answered.
        certain: whether each read has but one outcome with which the program goes on.
        told: the answers given so far.
        alternatives: for each of them, what else it could have been.
    """

    script: Sequence[object] = ()
    most: int | None = None
    certain: bool = False
    told: list[object] = field(default_factory=list)
    alternatives: list[list[object]] = field(default_factory=list)
    _known: dict[Hashable, object] = field(default_factory=dict)

    def answer(self, key: Hashable, own: object, outcomes: Sequence[object]) -> object:
        """What to tell; a value that was read before, under the same key, stays what it was.

        Args:
            key: what is read.
            own: its value in this run.
            outcomes: all that it could be.
        """
        if key in self._known:
            return self._known[key]
        place = len(self.told)
        if self.most is not None and place >= self.most:
            raise Endless
        value = self.script[place] if place < len(self.script) else own
        self.told.append(value)
        self.alternatives.append([other for other in outcomes if other != value])
        self._known[key] = value
        return value

    def turns(self) -> list[list[object]]:
        """The scripts that turn off this path, after what was scripted, at one read each."""
        places = range(len(self.script), len(self.told))
        return [[*self.told[:place], other] for place in places for other in self.alternatives[place]]


@dataclass
class Paths(Generic[T]):
    """What was found on the paths of a program.

    Attributes:
        found: of each path that was followed to its end, the program's own first.
        runs: of the program.
        unfinished: why not every outcome was followed; None if every one was.
        certain: whether the program itself raises on every path but its own (`assert not isnan(z)`).
    """

    found: list[T]
    runs: int = 1
    unfinished: str | None = None
    certain: bool = False


def follow(run: Callable[[Answers], T], whole: Callable[[T], bool]) -> Paths[T]:
    """Runs a program once for each path.

    Args:
        run: of the program, under some answers.
        whole: whether a run's reads could all be answered.
    """
    first = Answers()
    paths = Paths([run(first)])
    paths.unfinished = _follow_turns(run, whole, paths, first)
    if paths.unfinished is None and not whole(paths.found[-1]):
        paths.unfinished = "its value may be any"
    elif paths.unfinished is None and paths.runs > len(paths.found) == 1:
        paths.certain, paths.found = True, [run(Answers(certain=True))]
    return paths


def _follow_turns(
    run: Callable[[Answers], T], whole: Callable[[T], bool], paths: Paths[T], first: Answers
) -> str | None:
    """Follows what turns off the first path; why not all of it, None if all."""
    todo, most = first.turns(), len(first.told) + MOST_READS
    while todo and whole(paths.found[-1]):
        if paths.runs + len(todo) > MOST_PATHS:
            return f"there are more than {MOST_PATHS} of them"
        answers = Answers(todo.pop(), most)
        paths.runs += 1
        try:
            paths.found.append(run(answers))
        except ProgramError:
            raise
        except Endless:
            return "a loop does not end on one of them"
        except Exception as error:
            if not _is_deliberate(error.__traceback__):
                return f"one of them raised {type(error).__name__}"
        todo += answers.turns()
    return None


def _is_deliberate(trace: TracebackType | None) -> bool:
    """Whether an error was raised by a statement of the program (`raise`, `assert`), which would stop training, too."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code = trace.tb_frame.f_code.co_code
    return dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"
