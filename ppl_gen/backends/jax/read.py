"""Reading a NumPyro program: one eager run with every check, one traced run for what reaches what, a few for mixing."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import Array
from numpyro.infer import autoguide

from ppl_gen.backends import checks
from ppl_gen.backends.held import instances
from ppl_gen.backends.interface import Distribution, Message
from ppl_gen.backends.jax import library
from ppl_gen.backends.jax.calls import part
from ppl_gen.backends.jax.compiled import LEAVES_TRACER, user_line
from ppl_gen.backends.jax.distributions import unmasked, values_to_try
from ppl_gen.backends.jax.graph import follow
from ppl_gen.backends.jax.known import Known
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.jax.samplers import refuse_sampler
from ppl_gen.backends.jax.supports import is_diagonal, limits_of, within
from ppl_gen.backends.jax.trace import Traced, trace
from ppl_gen.backends.jax.uncompiled import uncompiled
from ppl_gen.backends.jax.words import find_mixes
from ppl_gen.backends.labels import Label, labelled
from ppl_gen.backends.survey import Survey, Surveyed, check_again, check_proposals, check_site, label_of, site_of
from ppl_gen.elimination.sums import is_summed
from ppl_gen.errors import ProgramError
from ppl_gen.program import NOISE, PARAM, PLATE, Batch, Facts, Path, Run, Site, Term, merge, named_alike
from ppl_gen.program.bounds import ANY
from ppl_gen.program.independence import Mixes, mixes_all
from ppl_gen.program.outcomes import BY_DATA

ANNEALED = (autoguide.AutoDAIS, autoguide.AutoSurrogateLikelihoodDAIS, autoguide.AutoSemiDAIS)
FACTORS = ("_factor", "_z_0_factor", "_local_dais_factor")  # of NumPyro's annealed guides, which do not declare them
MORE_RUNS = 12  # of a program whose course depends on what it draws: the sites must be the same ones


def read(program: Program, batch: Batch) -> Facts:
    """Everything the plan needs to know about `program` on `batch`. Call inside a session.

    Raises:
        ProgramError: anything that would make training wrong; the message names the site.
    """
    first, way = _first(program, batch)
    sites, run = first.sites, first.run
    program.buffers = jax.tree.map(lambda x: x, run.buffers) if not program.buffers else program.buffers
    checks.check_match(sites)
    with way():
        first.check_proposals()
    runs: list[Run] = []  # all but the first, in which networks draw their weights
    declared: set[tuple[str, str]] = set()
    reached, mixes, eager, by_data = _reaches(program, batch, run, sites, runs, declared)
    with way():
        for number in range(MORE_RUNS if eager else 0):
            runs.append(_again(program, batch, jax.random.fold_in(first.key, number), sites))
    relaxable = frozenset[str]() if eager else _relaxable(program, batch, run, reached)
    noise = "numpyro.prng_key()" if any(one.noise for one in runs) else None
    facts = Facts(
        named_alike(reached),
        tuple(program.params),
        mixes,
        eager,
        relaxable,
        subsampled=run.subsampled,
        noise=noise,
        noise_shared=True,
        notes=(*first.notes, *_declared(reached, declared), *_notes(eager, by_data and batch.scale != 1)),
        by_data=by_data,
    )
    return labelled(facts, first.labels)


Way = Callable[[], AbstractContextManager[Any]]


def _first(program: Program, batch: Batch) -> tuple[_First, Way]:
    """(the first run, how it was made): uncompiled, and where that fails, or a check does, as JAX has it."""
    before, numpy_state, python_state = program.known(), np.random.get_state(), random.getstate()
    try:
        with uncompiled():
            return _First(program, batch), uncompiled
    except Exception:
        vars(program).update(before)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
    return _First(program, batch), nullcontext


class _First:
    """The first run, with every check at its sites, and what they found.

    Attributes:
        key: of its draws.
        run: what it did.
        sites: term -> site.
        labels: term -> what its message shows.
        notes: what the plan is to say of it.
    """

    def __init__(self, program: Program, batch: Batch) -> None:
        self.key = program.key()
        self.sites: dict[Term, Site] = {}
        self.labels: dict[Term, Label] = {}
        self.notes: list[str] = []
        self._more: dict[str, list[np.ndarray]] = {}  # other values of what the guide draws
        self._priors: dict[str, Distribution] = {}
        self._annealed = {f"{own.prefix}{end}" for own in instances(ANNEALED, program.guide) for end in FACTORS}
        self.run = _guarded(
            lambda: program.run(program.params, program.buffers, self.key, batch, observer=self._look, first=True)
        )
        self.run.values |= {s.name: self.run.records[s.name] for s in self.sites.values() if is_summed(s, self.sites)}

    def _look(self, message: Message[jax.Array]) -> None:
        self.notes.extend(check_site(library, message, self.sites))
        site = site_of(library, message)
        if site.role == "guide" and site.is_factor and site.name.split("/")[-1] in self._annealed:
            site = replace(site, declared=True)  # it goes with draws of the guide's
        self.sites[site.term] = site
        self.labels[site.term] = label_of(library, message)
        if (site.role == "guide" and not site.observed) or is_summed(site, self.sites):
            found = values_to_try(message.distribution, message.value, jax.random.fold_in(self.key, len(self.sites)))
            self._more[site.name] = [np.array(other) for other in found]
        elif site.role == "model" and site.name in self._more:
            self._priors[site.name] = unmasked(message.distribution)

    def check_proposals(self) -> None:
        """Raise unless what the guide draws lies in the model's support."""
        draws: Any = {name: [self.run.values[name], *self._more[name]] for name in self._priors}
        check_proposals(library, self._priors, draws, self.sites)


def _again(program: Program, batch: Batch, key: Array, sites: dict[Term, Site]) -> Run:
    """One more run, in which the sites must be the same."""
    return check_again(lambda look: program.run(program.params, program.buffers, key, batch, observer=look), sites)


def _notes(eager: str | None, changing: bool) -> tuple[str, ...]:
    """What the plan is to say of the reading; `changing`: the program reads data that other batches will not hold."""
    course = f"{MORE_RUNS} more runs look at the program's course, as values leave JAX at {eager}"
    return (course,) if eager else (BY_DATA,) if changing else ()


def _declared(sites: dict[Term, Site], declared: set[tuple[str, str]]) -> list[str]:
    """Parameters some way of which goes by the program's own word: a derivative that it declares, or takes away."""
    paths = {(source, path) for site in sites.values() for source, path in site.reach.items() if path.partly}
    stopped = {
        (s, p.jump) for s, p in paths if s.startswith(PARAM) and not p.beside and str(p.jump).endswith("stop_gradient")
    }
    return [
        f"param '{source.removeprefix(PARAM)}': on one way to the cost its derivative is what the program declares ({where})"
        for source, where in sorted(declared | stopped, key=str)
    ]


def survey(program: Program, batch: Batch, *, guide: bool) -> Surveyed:
    """See `Surveyed`. Call inside a session."""

    def run() -> dict[str, object]:
        key = program.key()
        return dict(program.run(program.params, program.buffers, key, batch, observer=look, guide=guide).values)

    look = Survey(library)
    try:  # shapes are enough, and far quicker than one operation at a time; a new parameter needs its value
        run() if program.open else jax.eval_shape(run)
    except LEAVES_TRACER:
        look = Survey(library)
        run()
    return look.found


def _guarded(call: Callable[[], Run]) -> Run:
    try:
        return call()
    except (ValueError, TypeError) as error:
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(f"the program's first run: {error}") from error


def _reaches(
    program: Program,
    batch: Batch,
    run: Run,
    sites: dict[Term, Site],
    runs: list[Run],
    declared: set[tuple[str, str]],
) -> tuple[dict[Term, Site], Mixes, str | None, bool]:
    """The same sites with what reaches them; which elements meet; why the program cannot be traced, if so; `Facts.by_data`."""
    latents = {name: value for name, value in run.values.items() if not name.startswith(PLATE)}
    own = {name: sites.get(("guide", name)) or sites["model", name] for name in latents}
    try:
        traced = trace(program, batch, run, latents)
    except LEAVES_TRACER as error:
        reached = _anything_goes(program, sites, own)
        return reached, mixes_all(reached, own), user_line(error), False
    runs.append(traced.run)
    reached = _with_reach(sites, traced, declared)
    mixes = find_mixes(traced.densities, traced.inputs, traced.terms, reached, own, traced.trusted)
    return reached, mixes, None, not traced.trusted


def _relaxable(program: Program, batch: Batch, run: Run, sites: dict[Term, Site]) -> frozenset[str]:
    """The binary latents that may be taken as real numbers: NumPyro draws integers, which no derivative passes."""
    binary = {s.name for s in sites.values() if s.role == "guide" and not s.observed and s.distribution == "Bernoulli"}
    latents = {name: value for name, value in run.values.items() if not name.startswith(PLATE)}
    relaxed = {n: jax.device_put(np.asarray(v, float)) if n in binary else v for n, v in latents.items()}
    if not binary:
        return frozenset()
    try:
        facts = Facts(_with_reach(sites, trace(program, batch, run, relaxed)))
    except Exception:  # a program that counts or indexes with the value
        return frozenset()
    return frozenset(name for name in binary if facts.jump(name) is None)


def _with_reach(
    sites: dict[Term, Site], traced: Traced, declared: set[tuple[str, str]] | None = None
) -> dict[Term, Site]:
    """The same sites with what reaches them; `declared`: see `follow`."""
    inputs = _inputs(traced)
    found: dict[Term, list[dict[str, Path]]] = {term: [] for term in sites}
    edges: dict[Term, list[dict[str, Path]]] = {term: [] for term in sites}
    outputs = follow(traced.facts, inputs, traced.trusted, declared)
    rough = _rough(sites, traced, inputs, outputs)
    for place, ((term, edge), output) in enumerate(zip(traced.layout, outputs, strict=False)):
        reach = output.reach
        if place in traced.behind:
            reach = _through_function(traced, term, reach, inputs)
        (edges if edge else found)[term].append({label: path for label, path in reach.items() if label != NOISE})
    # the ways into a density of the user's own, in place of those into its parts
    for term in traced.own - traced.hidden:
        (output,) = follow(part(traced.densities, place := traced.terms.index(term), place + 1), inputs, traced.trusted)
        found[term] = [{**merge(*found[term]), **{s: path for s, path in output.reach.items() if s != NOISE}}]
    for name in traced.ending:
        where = f"the density of site '{name}' ({sites['model', name].distribution})"
        found["model", name].append({name: Path(where)})
    reached = {t: replace(s, reach=merge(*found[t]), moving=frozenset(merge(*edges[t]))) for t, s in sites.items()}
    for term, why in rough.items():
        reached[term] = replace(reached[term], reparametrized=False, rough=why)
    return reached


def _rough(sites: dict[Term, Site], traced: Traced, inputs: list[Known], outputs: list[Known]) -> dict[Term, str]:
    """Why samplers that a user wrote are not differentiated, whatever their classes say of themselves."""
    found = {}
    for name, (own, place) in traced.draws.items():
        term = ("guide", name)
        says = f"{sites[term].distribution} says that it is reparametrized, but its sampler ({own})"
        if place is None:
            found[term] = f"{says} cannot be traced by JAX"
            continue
        held = [i for i, (of, edge) in enumerate(traced.layout) if of == term and not edge]
        where = refuse_sampler(traced.whole, place, held, [outputs[i] for i in held], inputs, traced.trusted)
        if where is not None:
            found[term] = f"{says} passes no gradient at {where}"
    return found


def _inputs(traced: Traced) -> list[Known]:
    """What is known of each input: its name, and the bounds of its support, which may hang on others'."""
    supports = traced.supports
    limits = {name: limits_of(support) for name, support in supports.items()}
    while True:
        inputs = [
            Known(
                {label: Path()} if label else {},
                limits.get(label, ANY),
                diagonal=label in supports and is_diagonal(supports[label]),
            )
            for label in traced.labels
        ]
        if not traced.limits:
            return inputs
        outputs = follow(traced.facts, inputs, traced.trusted)[len(traced.layout) :]
        narrowed = dict(limits)
        for (name, what), output in zip(traced.limits, outputs, strict=True):
            low, high = output.bounds.low, output.bounds.high
            if what == "value":
                narrowed[name] = output.bounds
            else:
                ends = {"low": low} if what == "low" else {"high": high}
                narrowed[name] = within(narrowed[name], not supports[name].is_discrete, **ends)
        if narrowed == limits:
            return inputs
        limits = narrowed


def _through_function(traced: Traced, term: Term, held: dict[str, Path], inputs: list[Known]) -> dict[str, Path]:
    """What a function inside a distribution holds, after whatever the density does with it."""
    where = f"a function inside site '{term[1]}'"
    latents = {label for label in held if label != NOISE and not label.startswith(PARAM)}
    if not latents:
        return held
    if term in traced.hidden:
        return {label: Path(where) if label in latents else path for label, path in held.items()}
    place = traced.terms.index(term)
    (output,) = follow(part(traced.densities, place, place + 1), inputs, traced.trusted)
    return held | {label: path for label, path in output.reach.items() if label in latents}


def _anything_goes(program: Program, sites: dict[Term, Site], latents: Mapping[str, Site]) -> dict[Term, Site]:
    """Where values leave the tracer, everything drawn before may move everything after, by a jump."""
    where = "a value that leaves JAX (Python control flow or NumPy)"
    drawn: dict[str, Path] = {}
    result = {}
    for term, site in sites.items():
        params = {PARAM + name: Path() for name in program.params}
        result[term] = replace(site, reach={**params, **drawn})
        if site.name in latents and site is latents[site.name]:
            drawn[site.name] = Path(where)
    return result
