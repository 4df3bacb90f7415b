"""Reading a Pyro program: one plain run with every check, one run under the tracker, a few to see what mixes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_gen.backends import checks
from ppl_gen.backends.interface import Distribution, Message
from ppl_gen.backends.labels import Label, labelled
from ppl_gen.backends.survey import Survey, Surveyed, check_again, check_proposals, check_site, label_of, site_of
from ppl_gen.backends.torch import library
from ppl_gen.backends.torch.distributions import (
    constraint_of,
    ends_inside,
    held_tensors,
    is_users,
    others,
    tensors,
    unmasked,
    untouched,
)
from ppl_gen.backends.torch.generators import RandomState, random_state, same_random_state, set_random_state
from ppl_gen.backends.torch.graph import Tracker
from ppl_gen.backends.torch.paths import Answers, follow
from ppl_gen.backends.torch.program import Program, validation
from ppl_gen.backends.torch.ranges import of_support
from ppl_gen.backends.torch.record import PyroMessage
from ppl_gen.elimination.sums import is_summed
from ppl_gen.errors import ProgramError
from ppl_gen.program import PARAM, Batch, Facts, Path, Run, Site, Term, merge, named_alike
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


@dataclass
class _Traced:
    """What one run under the tracker showed.

    Attributes:
        sites: term -> site.
        values: latent, or site that is summed out -> its value, and others of its support.
        priors: latent -> the model's distribution of it.
        strays: (key of marks, term, plate) where elements carry what other elements of the plate hold.
        after: terms that stand after the host's first reading of a random value.
        run: the run.
        told: what the host was told.
        escapes: see `Tracker`.
        noise: see `Tracker`.
        read_at: see `Tracker`.
        blind: see `Tracker`.
        by_data: see `Tracker`.
        printed: see `Tracker`.
    """

    sites: dict[Term, Site] = field(default_factory=dict)
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    priors: dict[str, Distribution] = field(default_factory=dict)
    strays: set[tuple[Hashable, Term, str]] = field(default_factory=set)
    after: set[Term] = field(default_factory=set)
    run: Run = field(default_factory=Run)
    told: Sequence[object] = ()
    escapes: list[tuple[frozenset[str], str]] = field(default_factory=list)
    noise: str | None = None
    read_at: str | None = None
    blind: str | None = None
    by_data: bool = False
    printed: str | None = None

    @property
    def latents(self) -> dict[str, Site]:
        """The choices of the guide, and those that are summed out."""
        return {name: self.sites.get(("guide", name)) or self.sites["model", name] for name in self.values}


def _traced(
    program: Program, batch: Batch, answers: Answers | None = None, apart: Collection[tuple[str, str]] = ()
) -> _Traced:
    """One run under the tracker.

    Args:
        program: the program.
        batch: its arguments.
        answers: what the host is told of random values.
        apart: (latent, plate) that get marks of their own; all others share those of their plate.
    """
    labelled: dict[str, Tensor] = {}
    traced = _Traced()
    with Tracker(answers) as tracker:

        def param(msg: PyroMessage) -> Tensor:
            for name, leaf in program.params.items():
                if name not in labelled:
                    labelled[name] = tracker.source(PARAM + name, leaf)
            return program._param(msg)

        def look(message: Message[Tensor]) -> None:
            sites, own = traced.sites, message.distribution
            if tracker.read_at:
                traced.after.add(message.term)
            sites[message.term] = site = _site(message, tracker)
            if (message.role == "guide" and not site.observed) or is_summed(site, sites):
                value = message.value
                traced.values[site.name] = [value, *others(own, value.detach())]
                message.value = tracker.source(site.name, _leaf(value, site))
                tracker.ranges.set(message.value, of_support(unmasked(own).support))
                tracker.pieces.latent(site.name, message.value)
                _mark(tracker, message.value, site, apart)
            elif message.role == "model" and site.name in traced.values:
                traced.priors[site.name] = unmasked(own)
                tracker.ranges.narrow(message.value, of_support(traced.priors[site.name].support))
                if "Mixture" in site.distribution:  # whose components may end inside its support
                    del traced.priors[site.name]  # torch's own check asks for all components' supports
                if ends_inside(own):
                    there = Path(f"the density of site '{site.name}' ({site.distribution})")
                    sites[site.term] = replace(site, reach=merge(site.reach, {site.name: there}))
            if not message.is_bookkeeping and is_users(own):
                sites[site.term] = _with_density(sites[site.term], message, tracker)
            if message.frames:
                found = tracker.words.strays(_weighed_density(message, tracker), message.plates)
                traced.strays |= {(key, site.term, plate) for key, plate in found}

        traced.run = program.run(batch, observer=look, param=param)
    traced.told, traced.escapes, traced.noise = tracker.answers.told, tracker.escapes, tracker.noise
    traced.read_at, traced.blind, traced.by_data = tracker.read_at, tracker.blind, tracker.by_data
    traced.printed = tracker.printed
    return traced


def _mark(tracker: Tracker, value: Tensor, site: Site, apart: Collection[tuple[str, str]]) -> None:
    """Marks a latent's positions in all plates in which it has several."""
    for plate, dim in site.plates.items():
        if len(site.batch_shape) >= -dim and site.batch_shape[dim] > 1:
            key = (site.name, plate) if (site.name, plate) in apart else plate
            tracker.words.mark(value, key, plate, dim - len(site.event_shape))


def _weighed_density(message: Message[Tensor], tracker: Tracker) -> list[Tensor]:
    """A site's log density, and what it is scaled and masked by, as far as marks reach them; nothing else is noted."""
    own = message.distribution
    inside = [*tensors(own), *held_tensors(own), *_tensors_of(message.value)]
    weights = [*_tensors_of(message.mask), *_tensors_of(message.scale)]
    if not tracker.words.reached([*inside, *weights]):
        return []
    state = random_state()
    try:
        with tracker.only_marks(), torch.no_grad(), untouched(own):
            density = library.log_density(message, own)
    except Exception:  # a density that cannot be worked out here: all its elements may depend on all that it holds
        density = torch.empty(own.batch_shape)
        tracker.words.smear(density, *inside)
    finally:
        set_random_state(state)
    return [density, *weights]


def _tensors_of(value: object) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else []


def _follow(program: Program, batch: Batch) -> Facts:
    """The same run again, under the tracker; once for each outcome of what the host reads of random values."""
    state = _random_state()

    def run(answers: Answers | None, apart: Collection[tuple[str, str]] = ()) -> _Traced:
        _put_back(state)
        return _traced(program, batch, answers, apart)

    with program.discovering():
        paths = follow(run, lambda traced: traced.blind is None)
        first = paths.found[0]
        checks.check_match(first.sites)
        check_proposals(library, first.priors, first.values, first.sites)
        mixes = _mixes(first, lambda apart: run(Answers(first.told, certain=paths.certain), apart))
    for other in paths.found[1:]:
        checks.check_same(first.sites, other.sites)
        mixes |= _mixes(other)
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
    facts = Facts(
        named_alike(sites),
        tuple(program.params),
        mixes,
        eager,
        subsampled=first.run.subsampled,
        noise=next((traced.noise for traced in paths.found if traced.noise), None),
        notes=(
            *told(first.read_at, paths.runs, paths.unfinished),
            *([BY_DATA] if by_data and batch.scale != 1 else []),
            *([PRINTED.format(printed)] if printed else []),
        ),
        by_data=by_data,
    )
    binary = [site.name for site in facts.latents() if site.distribution == "Bernoulli"]
    return replace(facts, relaxable=frozenset(name for name in binary if facts.jump(name) is None))


def _random_state() -> tuple[Any, ...]:
    return random_state(), np.random.get_state(), random.getstate()


def _put_back(state: tuple[Any, ...]) -> None:
    set_random_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def _leaf(value: Tensor, site: Site) -> Tensor:
    """The value alone; one with a gradient where draws have one, so that what is done only to such is done here too."""
    value = value.detach()
    return value.requires_grad_() * 1.0 if site.support == "real" and site.reparametrized else value


def _site(message: Message[Tensor], tracker: Tracker) -> Site:
    """A site, and what reaches it."""
    own, value = message.distribution, message.value
    behind = held_tensors(own)
    inside: list[object] = [*tensors(own), *behind, message.mask, message.scale]
    if message.observed:
        inside.append(value)
    if tracker.reach(*behind):  # what the functions do with them shows in the density
        with untouched(own):
            try:
                inside.append(library.log_density(replace(message, value=value.detach()), own))
            except KeyError:  # a flow without an inverse knows only the very tensor that it made
                inside.append(library.log_density(message, own))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        site = site_of(library, message)
        boundary = [] if message.is_bookkeeping else list(tensors(constraint_of(unmasked(own))))
    rough = _refuse_sampler(message, tracker) if site.reparametrized else None
    return replace(
        site,
        reparametrized=site.reparametrized and not rough,
        rough=rough,
        reach=tracker.reach(*inside),
        moving=frozenset(tracker.reach(*boundary)) if boundary else frozenset(),
    )


def _with_density(site: Site, message: Message[Tensor], tracker: Tracker) -> Site:
    """The site with the ways into its log density, which is no library's, in place of those into its parts."""
    own: Any = message.distribution
    for name, constraint in own.arg_constraints.items():
        value = getattr(own, name, None)
        if isinstance(value, Tensor):
            tracker.ranges.narrow(value, of_support(constraint))
    with untouched(own):
        return replace(site, reach={**site.reach, **tracker.reach(library.log_density(message, own))})


def _refuse_sampler(message: Message[Tensor], tracker: Tracker) -> str | None:
    """Why a sampler is not differentiated, whatever it says: the libraries' are trusted, a user's is looked at."""
    own, value = message.distribution, message.value
    if message.observed or not isinstance(value, Tensor) or not is_users(own):
        return None
    where = tracker.stops(value, *tensors(own), *held_tensors(own))
    what = f"{message.kind} says that it is reparametrized, but its sampler passes no gradient at {where}"
    return None if where is None else what


def _mixes(traced: _Traced, again: Callable[[set[tuple[str, str]]], _Traced] | None = None) -> Mixes:
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
