"""One run of a Pyro program under the tracker: what reaches each site, and where elements of a plate meet."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ppl_gen.backends.interface import Distribution, Message
from ppl_gen.backends.survey import site_of
from ppl_gen.backends.torch import library
from ppl_gen.backends.torch.contents import held_tensors, is_users, tensors, untouched
from ppl_gen.backends.torch.generators import random_state, set_random_state
from ppl_gen.backends.torch.graph import Tracker
from ppl_gen.backends.torch.masks import unmasked
from ppl_gen.backends.torch.paths import Answers
from ppl_gen.backends.torch.program import Program
from ppl_gen.backends.torch.record import PyroMessage
from ppl_gen.backends.torch.supports import constraint_of, ends_inside, of_support, values_to_try
from ppl_gen.elimination.sums import is_summed
from ppl_gen.program import PARAM, Batch, Path, Run, Site, Term, merge


@dataclass
class Traced:
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


def trace(
    program: Program, batch: Batch, answers: Answers | None = None, apart: Collection[tuple[str, str]] = ()
) -> Traced:
    """One run under the tracker.

    Args:
        program: the program.
        batch: its arguments.
        answers: what the host is told of random values.
        apart: (latent, plate) that get marks of their own; all others share those of their plate.
    """
    traced = Traced()
    with Tracker(answers) as tracker:
        look = _Look(program, traced, tracker, apart)
        traced.run = program.run(batch, observer=look, param=look.param)
    traced.told, traced.escapes, traced.noise = tracker.answers.told, tracker.escapes, tracker.noise
    traced.read_at, traced.blind, traced.by_data = tracker.read_at, tracker.blind, tracker.by_data
    traced.printed = tracker.printed
    return traced


class _Look:
    """An observer of one run under the tracker, which fills in what it shows; see `trace`."""

    def __init__(self, program: Program, traced: Traced, tracker: Tracker, apart: Collection[tuple[str, str]]) -> None:
        self.program, self.traced, self.tracker, self.apart = program, traced, tracker, apart
        self.labelled: dict[str, Tensor] = {}  # parameters that the tracker knows

    def param(self, msg: PyroMessage) -> Tensor:
        """A parameter's value; all that are known are sources from the first statement on."""
        for name, leaf in self.program.params.items():
            if name not in self.labelled:
                self.labelled[name] = self.tracker.source(PARAM + name, leaf)
        return self.program._param(msg)

    def __call__(self, message: Message[Tensor]) -> None:
        """Note a site, and have the program go on with a latent's value as a source."""
        traced, tracker, own = self.traced, self.tracker, message.distribution
        if tracker.read_at:
            traced.after.add(message.term)
        traced.sites[message.term] = site = _site(message, tracker)
        if (message.role == "guide" and not site.observed) or is_summed(site, traced.sites):
            self._latent(message, site)
        elif message.role == "model" and site.name in traced.values:
            self._prior(message, site)
        if not message.is_bookkeeping and is_users(own):
            traced.sites[site.term] = _with_density(traced.sites[site.term], message, tracker)
        if message.frames:
            found = tracker.words.strays(_weighed_density(message, tracker), message.plates)
            traced.strays |= {(key, site.term, plate) for key, plate in found}

    def _latent(self, message: Message[Tensor], site: Site) -> None:
        tracker, own, value = self.tracker, message.distribution, message.value
        self.traced.values[site.name] = [value, *values_to_try(own, value.detach())]
        message.value = tracker.source(site.name, _leaf(value, site))
        tracker.ranges.set(message.value, of_support(unmasked(own).support))
        tracker.pieces.latent(site.name, message.value)
        self._mark(message.value, site)

    def _prior(self, message: Message[Tensor], site: Site) -> None:
        """What the model makes of a value that the guide drew."""
        traced, own = self.traced, message.distribution
        prior = unmasked(own)
        self.tracker.ranges.narrow(message.value, of_support(prior.support))
        if "Mixture" not in site.distribution:  # torch's own check asks for all components' supports
            traced.priors[site.name] = prior
        if ends_inside(own):  # as a mixture's components may
            there = Path(f"the density of site '{site.name}' ({site.distribution})")
            traced.sites[site.term] = replace(site, reach=merge(site.reach, {site.name: there}))

    def _mark(self, value: Tensor, site: Site) -> None:
        """Marks a latent's positions in all plates in which it has several."""
        for plate, dim in site.plates.items():
            if len(site.batch_shape) >= -dim and site.batch_shape[dim] > 1:
                key = (site.name, plate) if (site.name, plate) in self.apart else plate
                self.tracker.words.mark(value, key, plate, dim - len(site.event_shape))


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
