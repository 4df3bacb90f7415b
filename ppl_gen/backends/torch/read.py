"""Reading a Pyro program: one plain run with every check, one run under the tracker, a few to see what mixes."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_gen.backends import checks
from ppl_gen.backends.interface import Message
from ppl_gen.backends.labels import Label, labelled
from ppl_gen.backends.survey import Survey, Surveyed, check_again, check_proposals, check_site, label_of
from ppl_gen.backends.torch import library
from ppl_gen.backends.torch.generators import RandomState, random_state, same_random_state, set_random_state
from ppl_gen.backends.torch.outside import validation
from ppl_gen.backends.torch.paths import Answers, Paths, follow
from ppl_gen.backends.torch.program import Program
from ppl_gen.backends.torch.trace import Traced, trace
from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch, Facts, Term, named_alike
from ppl_gen.program.independence import Mixes, mixes_all
from ppl_gen.program.outcomes import BY_DATA, PRINTED, told, united, widened

MORE_RUNS = 12  # of a program whose course depends on what it draws
MOST_APART = 64  # latents that get marks of their own where one of several mixes; beyond, all of them do


def read(program: Program, batch: Batch) -> Facts:
    """Everything the plan needs to know about `program` on `batch`. Call inside a session.

    Raises:
        ProgramError: anything that would make training wrong; the message names the site.
    """
    state = random_state()
    with program.discovering(), validation(True):
        notes = list[str]()
        labels = program.first(lambda: _first_run(program, batch, notes))
        ended = random_state()
    program.open = False
    facts = labelled(_follow(program, batch), labels)
    _again(program, batch, facts, ended)
    program.forget_runs()
    set_random_state(state)
    return replace(facts, notes=(*notes, *_said_of_loops(program), *facts.notes))


def survey(program: Program, batch: Batch, *, guide: bool) -> Surveyed:
    """See `Surveyed`. Call inside a session."""

    def run() -> Surveyed:
        look = Survey(library)
        program.run(batch, observer=look, guide=guide)
        return look.found

    state = random_state()
    with program.discovering():
        found = program.first(run)
    program.forget_runs()
    set_random_state(state)
    return found


def _first_run(program: Program, batch: Batch, notes: list[str]) -> dict[Term, Label]:
    """Every check; what each site shows, which under the tracker would look like values that escape.

    Into `notes` goes what is to be said in the plan.
    """
    labels: dict[Term, Label] = {}
    notes.clear()  # of a run that was broken off

    def look(message: Message[Tensor]) -> None:
        notes.extend(check_site(library, message, labels, check_values=program.checks_values))
        labels[message.term] = label_of(library, message)

    try:
        program.run(batch, observer=look)
    except ValueError as error:
        if isinstance(error, ProgramError):
            raise
        advice = ' Give a plate the size of the batch, as len(x), or say plate("rows", size, len(x)).'
        told = f"{error}.{advice}" if "plate(" in str(error) else str(error)
        raise ProgramError(f"the program's first run: {told}") from error
    return labels


def _said_of_loops(program: Program) -> list[str]:
    return [
        f"plate '{name}': the Python loop takes all {size} elements in every step, as the sites of a subsample have other names "
        "in each run"
        for name, size in program.loops.items()
    ]


def _again(program: Program, batch: Batch, facts: Facts, ended: RandomState) -> None:
    """One more run, or a few: the sites must be the same ones, whatever is drawn, and what is drawn is to differ.

    `ended`: torch's random state after the first run, which began with another one.
    """
    with program.discovering(), torch.no_grad():
        for _ in range(MORE_RUNS if facts.eager else 1):
            torch.rand(())  # this run, too, begins with a state of its own
            begun = random_state()
            check_again(lambda look: program.run(batch, observer=look), facts.sites)
            now = random_state()
            if same_random_state(now, ended) and not same_random_state(now, begun) and facts.latents():
                names = ", ".join(f"'{site.name}'" for site in facts.latents())
                raise ProgramError(
                    f"site {names}: expected draws that differ from run to run; got a program that sets torch's random state itself, "
                    "so that every step would draw the same. Seed before the fit, or by its seed."
                )


def _follow(program: Program, batch: Batch) -> Facts:
    """The same run again, under the tracker; once for each outcome of what the host reads of random values."""
    state = _random_state()

    def run(answers: Answers | None, apart: Collection[tuple[str, str]] = ()) -> Traced:
        _put_back(state)
        return trace(program, batch, answers, apart)

    with program.discovering():
        paths = follow(run, lambda traced: traced.blind is None)
        first = paths.found[0]
        checks.check_match(first.sites)
        check_proposals(library, first.priors, first.values, first.sites)
        mixes = _mixes(first, lambda apart: run(Answers(first.told, certain=paths.certain), apart))
    for other in paths.found[1:]:
        checks.check_same(first.sites, other.sites)
        mixes |= _mixes(other)
    facts = _facts(program, paths, mixes, changing=batch.scale != 1)
    binary = [site.name for site in facts.latents() if site.distribution == "Bernoulli"]
    return replace(facts, relaxable=frozenset(name for name in binary if facts.jump(name) is None))


def _facts(program: Program, paths: Paths[Traced], mixes: Mixes, *, changing: bool) -> Facts:
    """What all the runs show; `changing`: other batches will hold other data."""
    first = paths.found[0]
    sites = united([traced.sites for traced in paths.found])
    after = frozenset().union(*(traced.after for traced in paths.found))
    read = {source for traced in paths.found for sources, _ in traced.escapes for source in sources}
    if paths.unfinished:
        sites = widened(sites, after, first.latents, program.params, first.read_at or "")
        read |= set(first.latents)
    latents = {name: site for name, site in first.latents.items() if name in read}
    mixes |= frozenset(mix for mix in mixes_all(sites, latents) if mix[1] in after)
    eager = next((where for traced in paths.found for sources, where in traced.escapes if sources), None)
    by_data = any(traced.by_data for traced in paths.found)
    printed = next((traced.printed for traced in paths.found if traced.printed), None)
    return Facts(
        named_alike(sites),
        tuple(program.params),
        mixes,
        eager,
        subsampled=first.run.subsampled,
        noise=next((traced.noise for traced in paths.found if traced.noise), None),
        notes=(
            *told(first.read_at, paths.runs, paths.unfinished),
            *([BY_DATA] if by_data and changing else []),
            *([PRINTED.format(printed)] if printed else []),
        ),
        by_data=by_data,
    )


def _random_state() -> tuple[Any, ...]:
    return random_state(), np.random.get_state(), random.getstate()


def _put_back(state: tuple[Any, ...]) -> None:
    set_random_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def _mixes(traced: Traced, again: Callable[[set[tuple[str, str]]], Traced] | None = None) -> Mixes:
    """(latent, term, plate) where an element of the latent moves others of the term.

    Args:
        traced: a run.
        again: the same run, some latents having marks of their own; without it, all that may mix is said to.
    """
    suspects = {
        (term, plate): [n for n, s in traced.latents.items() if plate in s.plates and n in traced.sites[term].reach]
        for _, term, plate in traced.strays
    }
    found = {(name, term, plate) for (term, plate), names in suspects.items() for name in names}
    apart = {(name, plate) for (_, plate), names in suspects.items() if len(names) > 1 for name in names}
    if again is not None and apart and len(apart) <= MOST_APART:
        alone = {(key[0], term, plate) for key, term, plate in again(apart).strays if isinstance(key, tuple)}
        found = {mix for mix in found if (mix[0], mix[2]) not in apart or mix in alone}
    return frozenset(found)
