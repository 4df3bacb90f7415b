"""Reading a Pyro program: one plain run with every check, one run under the tracker, a few to see what mixes."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_gen.backends import checks
from ppl_gen.backends.labels import Label, is_computed, labelled, mask_of
from ppl_gen.backends.torch.distributions import (
    constraint_of,
    ends_inside,
    features,
    held_tensors,
    is_reparametrized,
    is_unchecked,
    is_users,
    leaves_out_nan,
    named,
    num_values,
    others,
    seen,
    support,
    tensors,
    unmasked,
    untouched,
)
from ppl_gen.backends.torch.generators import RandomState, random_state, same_random_state, set_random_state
from ppl_gen.backends.torch.graph import Tracker
from ppl_gen.backends.torch.paths import Answers, follow
from ppl_gen.backends.torch.program import Program, validation
from ppl_gen.backends.torch.ranges import of_support
from ppl_gen.backends.torch.record import is_bookkeeping, log_density
from ppl_gen.elimination.sums import is_summed
from ppl_gen.errors import ProgramError
from ppl_gen.program import PARAM, Batch, Facts, Latent, Path, Run, Site, Term, merge, named_alike
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
        met = program.first(lambda: _first_run(program, batch, notes))
        ended = random_state()
    program.open = False
    facts = labelled(_follow(program, batch), labels(met))
    _again(program, batch, facts, ended)
    program.forget_runs()
    set_random_state(state)
    return replace(facts, notes=(*notes, *_said_of_loops(program), *facts.notes))


def survey(
    program: Program, batch: Batch, *, guide: bool
) -> tuple[dict[str, tuple[int, int]], list[Latent], dict[str, tuple[int, ...]]]:
    """(plate -> (size, full size), the model's latents, shapes of what it observes), inside a session."""
    state = random_state()
    with program.discovering():
        found = program.first(lambda: _survey(program, batch, guide))
    program.forget_runs()
    set_random_state(state)
    return found


def _survey(
    program: Program, batch: Batch, guide: bool
) -> tuple[dict[str, tuple[int, int]], list[Latent], dict[str, tuple[int, ...]]]:
    sizes: dict[str, tuple[int, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    latents: list[Latent] = []

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        frames = [f for f in msg["cond_indep_stack"] if f.vectorized]
        sizes.update({f.name: (f.size, f.full_size or f.size) for f in frames})
        if role == "model" and msg["is_observed"] and not is_bookkeeping(msg):
            shapes[msg["name"]] = tuple(msg["fn"].shape())
        if role == "model" and not msg["is_observed"]:
            fn = msg["fn"]
            latents.append(
                Latent(
                    name=msg["name"],
                    distribution=_kind(fn),
                    plates={f.name: (f.dim, f.size) for f in frames},
                    batch_shape=tuple(fn.batch_shape),
                    event_shape=tuple(fn.event_shape),
                    support=unmasked(fn).support,
                    num_values=num_values(fn),
                    subsampled=any(f.size != f.full_size for f in frames),
                )
            )

    program.run(batch, observer=look, guide=guide)
    return sizes, latents, shapes


def _first_run(program: Program, batch: Batch, notes: list[str]) -> dict[Term, Any]:
    """Every check; the messages by term, and in `notes` what is to be said in the plan."""
    seen: dict[Term, Any] = {}
    notes.clear()  # of a run that was broken off

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        where = f"site '{msg['name']}' ({_kind(msg['fn'])})"
        checks.check_repeat(where, [name for r, name in seen if r == role], msg["name"])
        seen[role, msg["name"]] = msg
        _check_widths(where, msg)
        if not msg["is_observed"]:
            _check_support(where, msg["fn"])
        elif role == "model" and not is_bookkeeping(msg):
            notes.extend(_check_observation(where, msg, program.checks_values))

    try:
        program.run(batch, observer=look)
    except ValueError as error:
        if isinstance(error, ProgramError):
            raise
        advice = ' Give a plate the size of the batch, as len(x), or say plate("rows", size, len(x)).'
        told = f"{error}.{advice}" if "plate(" in str(error) else str(error)
        raise ProgramError(f"the program's first run: {told}") from error
    return seen


def labels(seen: Mapping[Term, Any]) -> dict[Term, Label]:
    """What a plain run shows; under the tracker it would look like values that escape."""
    found = {}
    for term, msg in seen.items():
        fn, mask = msg["fn"], msg["mask"]
        found[term] = Label(
            mask=mask_of(fn, _host).joined(_host(True if mask is None else mask)),
            masked=unmasked(fn) is not fn or not (mask is None or mask is True),
            scaled=_scaled(msg),
            computed=bool(msg["is_observed"]) and is_computed(fn, msg["value"], _host),
        )
    return found


def relabelled(program: Program, batch: Batch, facts: Facts) -> Facts:
    """The facts as they are on this batch, as far as masks and scales go. Call inside a session."""
    seen: dict[Term, Any] = {}

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        seen[role, msg["name"]] = msg

    with torch.no_grad():
        program.run(batch, observer=look)
    return labelled(facts, labels(seen))


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
            found: list[Term] = []
            torch.rand(())  # this run, too, begins with a state of its own
            begun = random_state()
            program.run(batch, observer=partial(_note, found))
            checks.check_same(facts.sites, found)
            now = random_state()
            if same_random_state(now, ended) and not same_random_state(now, begun) and facts.latents():
                names = ", ".join(f"'{site.name}'" for site in facts.latents())
                raise ProgramError(
                    f"site {names}: expected draws that differ from run to run; got a program that sets torch's random state itself, "
                    "so that every step would draw the same. Seed before the fit, or by its seed."
                )


def _note(found: list[Term], role: str, msg: Any, plates: dict[str, int]) -> None:
    found.append((role, msg["name"]))


def _check_widths(where: str, msg: Any) -> None:
    """The masks and scales that handlers put around a site."""
    fn, value = msg["fn"], msg["value"]
    own = value.shape[: value.dim() - len(fn.event_shape)] if isinstance(value, Tensor) else ()
    try:
        batch = torch.broadcast_shapes(fn.batch_shape, own)
    except RuntimeError:  # which has a check of its own
        return
    for what in ("mask", "scale"):
        if isinstance(msg[what], Tensor):
            checks.check_width(where, what, tuple(msg[what].shape), tuple(batch))


def _check_support(where: str, fn: Any) -> None:
    if constraint_of(unmasked(fn)) is None:
        raise ProgramError(
            f"{where}: expected a distribution with a support; got none. State it in the class, as support = constraints.real."
        )


def _check_observation(where: str, msg: Any, checked: bool) -> list[str]:
    """Raise on an observation that counts and cannot be; what is to be said of one that the user lets pass."""
    checks.check_array(where, msg["value"])
    fn, value = msg["fn"], torch.as_tensor(msg["value"])
    sizes = {f.name: (f.dim, f.size) for f in msg["cond_indep_stack"] if f.vectorized}
    shape = tuple(fn.batch_shape + fn.event_shape)
    checks.check_plates(where, shape, tuple(value.shape), sizes, len(fn.event_shape))
    value = seen(fn, msg["mask"], value).detach()
    if leaves_out_nan(fn):
        value = value.nan_to_num(0.0, torch.inf, -torch.inf)
    constraint = constraint_of(unmasked(fn)) or constraints.real
    inside = constraint.check(value).cpu().numpy()
    return checks.check_value(
        where, value.cpu().numpy(), inside, str(constraint), checked=checked and not is_unchecked(fn)
    )


def _kind(fn: Any) -> str:
    core = unmasked(fn)
    while type(core).__name__ in ("Independent", "ExpandedDistribution"):
        core = core.base_dist
    return type(core).__name__


@dataclass
class _Traced:
    """What one run under the tracker showed.

    Attributes:
        sites: term -> site.
        values: latent, or site that is summed out -> (its value, other values of its support).
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
    values: dict[str, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)
    priors: dict[str, Any] = field(default_factory=dict)
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

        def param(msg: Any) -> Tensor:
            for name, leaf in program.params.items():
                if name not in labelled:
                    labelled[name] = tracker.source(PARAM + name, leaf)
            return program._param(msg)

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            sites = traced.sites
            if tracker.read_at:
                traced.after.add((role, msg["name"]))
            sites[role, msg["name"]] = site = _site(role, msg, plates, tracker)
            if (role == "guide" and not site.observed) or is_summed(site, sites):
                value = msg["value"]
                traced.values[site.name] = (value, others(msg["fn"], value.detach()))
                msg["value"] = tracker.source(site.name, _leaf(value, site))
                tracker.ranges.set(msg["value"], of_support(unmasked(msg["fn"]).support))
                tracker.pieces.latent(site.name, msg["value"])
                _mark(tracker, msg["value"], site, apart)
            elif role == "model" and site.name in traced.values:
                traced.priors[site.name] = unmasked(msg["fn"])
                tracker.ranges.narrow(msg["value"], of_support(traced.priors[site.name].support))
                if "Mixture" in site.distribution:  # whose components may end inside its support
                    del traced.priors[site.name]  # torch's own check asks for all components' supports
                if ends_inside(msg["fn"]):
                    there = Path(f"the density of site '{site.name}' ({site.distribution})")
                    sites[site.term] = replace(site, reach=merge(site.reach, {site.name: there}))
            if not is_bookkeeping(msg) and is_users(msg["fn"]):
                sites[site.term] = _with_density(sites[site.term], msg, tracker)
            if plates:
                found = tracker.words.strays(_weighed_density(msg, tracker), plates)
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


def _weighed_density(msg: Any, tracker: Tracker) -> list[Tensor]:
    """A site's log density, and what it is scaled and masked by, as far as marks reach them; nothing else is noted."""
    fn, value = msg["fn"], msg["value"]
    inside = [*tensors(fn), *held_tensors(fn), *_tensors_of(value)]
    if not tracker.words.reached([*inside, *_tensors_of(msg["mask"]), *_tensors_of(msg["scale"])]):
        return []
    state = random_state()
    try:
        with tracker.only_marks(), torch.no_grad(), untouched(fn):
            density = log_density(msg)
    except Exception:  # a density that cannot be worked out here: all its elements may depend on all that it holds
        density = torch.empty(fn.batch_shape)
        tracker.words.smear(density, *inside)
    finally:
        set_random_state(state)
    return [*_tensors_of(density), *_tensors_of(msg["mask"]), *_tensors_of(msg["scale"])]


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
        _check_proposals(first)
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


def _check_proposals(traced: _Traced) -> None:
    for name, prior in traced.priors.items():
        where, drawn = (
            f"site '{name}' ({_kind(prior)})",
            [value.detach() for value in _draws(traced.sites, name, *traced.values[name])],
        )
        inside = [(_array(value), _array(prior.support.check(value))) for value in drawn]
        checks.check_proposal(where, inside, str(prior.support))


def _random_state() -> tuple[Any, ...]:
    return random_state(), np.random.get_state(), random.getstate()


def _put_back(state: tuple[Any, ...]) -> None:
    set_random_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def _draws(sites: Mapping[Term, Site], name: str, value: Tensor, more: list[Tensor]) -> list[Tensor]:
    """What the guide may draw: of a finite support every value, else a few draws."""
    return [value, *(more if sites["guide", name].support == "finite" else more[:2])]


def _leaf(value: Tensor, site: Site) -> Tensor:
    """The value alone; one with a gradient where draws have one, so that what is done only to such is done here too."""
    value = value.detach()
    return value.requires_grad_() * 1.0 if site.support == "real" and site.reparametrized else value


def _site(role: str, msg: Any, plates: dict[str, int], tracker: Tracker) -> Site:
    fn = msg["fn"]
    behind = held_tensors(fn)
    inside: list[Any] = [*tensors(fn), *behind, msg["mask"], msg["scale"]]
    if msg["is_observed"]:
        inside.append(msg["value"])
    if tracker.reach(*behind):  # what the functions do with them shows in the density
        with untouched(fn):
            try:
                inside.append(log_density({**msg, "value": msg["value"].detach()}))
            except KeyError:  # a flow without an inverse knows only the very tensor that it made
                inside.append(log_density(msg))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind, size = ("real", None) if is_bookkeeping(msg) else support(fn)
        boundary = [] if is_bookkeeping(msg) else list(tensors(constraint_of(unmasked(fn))))
    rough = _refuse_sampler(msg, tracker) if is_reparametrized(fn) else None
    num_elements = math.prod(fn.event_shape) // max(1, math.prod(named(fn).event_shape))
    site = Site(
        name=msg["name"],
        role=role,
        distribution=_kind(fn),
        support=kind,
        size=None if size is None or num_elements > 16 else size**num_elements,
        levels=size,
        observed=bool(msg["is_observed"]),
        auxiliary=bool(msg["infer"].get("is_auxiliary")),
        reparametrized=is_reparametrized(fn) and not rough,
        rough=rough,
        plates=plates,
        batch_shape=tuple(fn.batch_shape),
        event_shape=tuple(fn.event_shape),
        reach=tracker.reach(*inside),
        moving=frozenset(tracker.reach(*boundary)) if boundary else frozenset(),
        num_features=_num_features(fn),
        marked=msg["infer"].get("enumerate") in ("parallel", "sequential"),
        declared="has_rsample" in vars(unmasked(fn)) or "has_rsample" in msg["infer"],
    )
    return site.settled()


def _with_density(site: Site, msg: Any, tracker: Tracker) -> Site:
    """The site with the ways into its log density, which is no library's, in place of those into its parts."""
    fn = msg["fn"]
    for name, constraint in fn.arg_constraints.items():
        value = getattr(fn, name, None)
        if isinstance(value, Tensor):
            tracker.ranges.narrow(value, of_support(constraint))
    with untouched(fn):
        return replace(site, reach={**site.reach, **tracker.reach(log_density(msg))})


def _refuse_sampler(msg: Any, tracker: Tracker) -> str | None:
    """Why a sampler is not differentiated, whatever it says: the libraries' are trusted, a user's is looked at."""
    fn, value = msg["fn"], msg["value"]
    if msg["is_observed"] or not isinstance(value, Tensor) or not is_users(fn):
        return None
    where = tracker.stops(value, *tensors(fn), *held_tensors(fn))
    what = f"{_kind(fn)} says that it is reparametrized, but its sampler passes no gradient at {where}"
    return None if where is None else what


def _scaled(msg: Any) -> bool:
    frames = [f for f in msg["cond_indep_stack"] if f.size]
    scale = msg["scale"].detach().cpu().numpy() if isinstance(msg["scale"], Tensor) else msg["scale"]
    return checks.is_scaled(scale, [(f.full_size or f.size, f.size) for f in frames])


def _num_features(fn: Any) -> int | None:
    inputs = features(fn) if math.prod(fn.batch_shape) > 1 else None
    return None if inputs is None else inputs.shape[-1]


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


def _host(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
