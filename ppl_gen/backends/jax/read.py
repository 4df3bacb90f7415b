"""Reading a NumPyro program: one eager run with every check, one traced run for what reaches what, a few for mixing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from ppl_gen.backends import checks
from ppl_gen.backends.jax.compiled import ARRAYS, LEAVES_TRACER, NOTHING, on_host, user_line
from ppl_gen.backends.jax.distributions import (
    arrays,
    bad_argument,
    core,
    features,
    held_arrays,
    is_unchecked,
    num_values,
    others,
    satisfies,
    seen,
    support,
    unconstrained,
    unmasked,
)
from ppl_gen.backends.jax.graph import reach
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.jax.record import is_bookkeeping
from ppl_gen.backends.jumps import Slopes, free, with_jumps
from ppl_gen.backends.labels import Label, is_computed, labelled, mask_of
from ppl_gen.backends.mixing import Mixes, find_mixes, mixes_all
from ppl_gen.errors import ProgramError
from ppl_gen.program import NOISE, PARAM, PLATE, Batch, Facts, Latent, Path, Run, Site, Term, merge, named_alike
from ppl_gen.sums import is_summed

Array = Any
OPAQUE = LEAVES_TRACER

MORE_RUNS = 12  # of a program whose course depends on what it draws: the sites must be the same ones


def read(program: Program, batch: Batch) -> Facts:
    """Everything the plan needs to know about `program` on `batch`. Call inside a session.

    Raises:
        ProgramError: anything that would make training wrong; the message names the site.
    """
    key = jax.random.key(program.seed)
    sites: dict[Term, Site] = {}
    more: dict[str, list[np.ndarray]] = {}
    spaces: dict[str, Any] = {}
    priors: dict[str, Any] = {}
    labels: dict[Term, Label] = {}
    poles: dict[str, str] = {}
    notes: list[str] = []

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        where = f"site '{msg['name']}' ({_kind(msg['fn'])})"
        checks.check_repeat(where, [name for r, name in sites if r == role], msg["name"])
        _check_arguments(where, msg["fn"])
        if role == "model" and msg["is_observed"] and not is_bookkeeping(msg):
            notes.extend(_check_observation(where, msg))
        sites[role, msg["name"]] = site = _site(role, msg, plates)
        labels[site.term] = label(msg)
        if (role == "guide" and not site.observed) or is_summed(site, sites):
            found = others(msg["fn"], msg["value"], jax.random.fold_in(key, len(sites)))
            spaces[site.name] = unconstrained(msg["fn"])
            more[site.name] = [np.array(other) for other in found]
        elif role == "model" and site.name in more:
            priors[site.name] = unmasked(msg["fn"])
            if sites["guide", site.name].is_point:  # which says nothing of what values there are
                spaces[site.name] = unconstrained(msg["fn"])
            if "Mixture" in site.distribution:  # whose components may end inside its support
                poles[site.name] = f"the density of site '{site.name}' ({site.distribution})"

    run = _guarded(lambda: program.run(program.params, program.buffers, key, batch, observer=look, first=True))
    run.values |= {s.name: run.records[s.name] for s in sites.values() if is_summed(s, sites)}
    program.buffers = jax.tree.map(lambda x: x, run.buffers) if not program.buffers else program.buffers
    checks.check_match(sites)
    for name, prior in priors.items():
        some = more[name] if sites["guide", name].support == "finite" else more[name][:2]
        drawn = [np.asarray(run.values[name]), *some]
        inside = [(value, satisfies(prior.support, value)) for value in drawn]
        checks.check_proposal(f"site '{name}' ({_kind(prior)})", inside, str(prior.support))
    runs: list[Run] = []  # all but the first, in which networks draw their weights
    reached, eager = _reaches(program, batch, run, sites, poles, runs)
    for level in range(max(ARRAYS, program.compiled.level) + 1, NOTHING + 1) if eager else ():
        host = on_host(batch, level)  # it may be data that Python reads, and no latent
        other, why = _reaches(program, host, run, sites, poles, runs)
        if why is None:
            reached, eager, batch, program.compiled.level = other, None, host, level
            break
    mixes = _mixes(program, batch, reached, run, more) if eager is None else mixes_all(reached, more)
    for number in range(MORE_RUNS if eager else 0):
        found: list[Term] = []
        again = jax.random.fold_in(key, number)
        observer = partial(_note, found)
        runs.append(program.run(program.params, program.buffers, again, batch, observer=observer))
        checks.check_same(sites, found)
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
        notes=tuple(notes),
    )
    return with_jumps(
        labelled(facts, labels),
        {} if eager else poles,
        lambda name: [
            free(np.asarray(value), np.array(spaces[name].inv(jnp.asarray(value))))
            for value in (run.values[name], *more[name][:2])
        ],
        lambda name: _slopes(program, batch, sites, run, name, spaces[name]),
    )


def _note(found: list[Term], role: str, msg: Any, plates: dict[str, int]) -> None:
    found.append((role, msg["name"]))


def survey(
    program: Program, batch: Batch, *, guide: bool
) -> tuple[dict[str, tuple[int, int]], list[Latent], dict[str, tuple[int, ...]]]:
    """(plate -> (size, full size), the model's latents, shapes of what it observes), inside a session."""
    sizes: dict[str, tuple[int, int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    latents: list[Latent] = []

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        frames = msg["cond_indep_stack"]
        sizes.update({f.name: (f.size, msg["full_sizes"].get(f.name, f.size)) for f in frames})
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
                    subsampled=False,
                )
            )

    def values() -> dict[str, Array]:
        latents.clear()
        key = jax.random.key(program.seed)
        run: dict[str, Array] = dict(
            program.run(program.params, program.buffers, key, batch, observer=look, guide=guide).values
        )
        return run

    try:  # shapes are enough, and far quicker than one operation at a time; a new parameter needs its value
        values() if program.open else jax.eval_shape(values)
    except OPAQUE:
        values()
    return sizes, latents, shapes


def _guarded(call: Callable[[], Run]) -> Run:
    try:
        return call()
    except (ValueError, TypeError) as error:
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(f"the program's first run: {error}") from error


def _check_arguments(where: str, distribution: Any) -> None:
    bad = bad_argument(distribution)
    if bad is not None:
        name, constraint, value = bad
        raise ProgramError(
            f"{where}: expected its {name} to be {constraint}; got {value}. Check what the site depends on, and its constraints."
        )


def _check_observation(where: str, msg: Any) -> list[str]:
    checks.check_array(where, msg["value"])
    fn, value = msg["fn"], np.asarray(msg["value"])
    sizes = {frame.name: (frame.dim, frame.size) for frame in msg["cond_indep_stack"]}
    shape = tuple(fn.batch_shape) + tuple(fn.event_shape)
    checks.check_plates(where, shape, value.shape, sizes, len(fn.event_shape))
    value = np.asarray(seen(fn, value))
    constraint = unmasked(fn).support or constraints.real  # a class may state none
    inside = satisfies(constraint, value)
    return checks.check_value(where, value, inside, str(constraint), checked=not is_unchecked(fn))


def _site(role: str, msg: Any, plates: dict[str, int]) -> Site:
    fn = msg["fn"]
    kind, size = ("real", None) if is_bookkeeping(msg) else support(fn)
    site = Site(
        name=msg["name"],
        role=role,
        distribution=_kind(fn),
        support=kind,
        size=size,
        levels=num_values(fn) if kind == "finite" else None,
        observed=bool(msg["is_observed"]),
        auxiliary=bool(msg["infer"].get("is_auxiliary")),
        reparametrized=bool(fn.has_rsample),
        plates=plates,
        batch_shape=tuple(fn.batch_shape),
        event_shape=tuple(fn.event_shape),
        num_features=_num_features(fn),
        marked=msg["infer"].get("enumerate") in ("parallel", "sequential"),
        declared="has_rsample" in msg["infer"],
    )
    return site.settled()


def label(msg: Any) -> Label:
    """What one message shows, outside of any trace."""
    return Label(
        mask=mask_of(msg["fn"], np.asarray),
        masked=unmasked(msg["fn"]) is not msg["fn"],
        scaled=msg["scale"] is not None and _scaled(msg),
        computed=bool(msg["is_observed"]) and is_computed(msg["fn"], msg["value"], np.asarray),
    )


def relabelled(program: Program, params: Any, buffers: Any, batch: Batch, facts: Facts) -> Facts:
    """The facts as they are on this batch, as far as masks and scales go. Call inside a session."""
    found: dict[Term, Label] = {}

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        found[role, msg["name"]] = label(msg)

    program.run(params, buffers, jax.random.key(program.seed), batch, observer=look)
    return labelled(facts, found)


def _kind(fn: Any) -> str:
    """The distribution's name as Pyro, and the user, knows it."""
    return type(core(fn)).__name__.removesuffix("Logits").removesuffix("Probs")


def _scaled(msg: Any) -> bool:
    frames = msg["cond_indep_stack"]
    return checks.is_scaled(msg["scale"], [(msg["full_sizes"].get(f.name, f.size), f.size) for f in frames])


def _num_features(fn: Any) -> int | None:
    inputs = jax.eval_shape(lambda: features(fn)) if math.prod(fn.batch_shape) > 1 else None
    return None if inputs is None else int(inputs.shape[-1])


def _reaches(
    program: Program, batch: Batch, run: Run, sites: dict[Term, Site], poles: dict[str, str], runs: list[Run]
) -> tuple[dict[Term, Site], str | None]:
    """The same sites with what reaches them; and why the program cannot be traced, if so."""
    latents = {name: value for name, value in run.values.items() if not name.startswith(PLATE)}
    try:
        return _traced(program, batch, run, sites, latents, poles, runs), None
    except OPAQUE as error:
        return _anything_goes(program, sites), user_line(error)


def _traced(
    program: Program,
    batch: Batch,
    run: Run,
    sites: dict[Term, Site],
    latents: dict[str, Array],
    poles: dict[str, str] | None = None,
    runs: list[Run] | None = None,
) -> dict[Term, Site]:
    """The same sites with what reaches them, the latents having these values; `poles` as for `reach`, `runs` to be filled."""
    indices = {name: value for name, value in run.values.items() if name not in latents}
    layout: list[tuple[Term, bool]] = []
    behind: dict[int, str] = {}  # outputs that are held by functions, of which is not seen what they do

    def inside(params: dict[str, Array], values: dict[str, Array], key: Array) -> list[Array]:
        outputs: list[Array] = []
        layout.clear()
        behind.clear()

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            hidden = held_arrays(msg["fn"])
            behind.update(dict.fromkeys(range(len(outputs), len(outputs) + len(hidden)), msg["name"]))
            found = [*hidden, *arrays((msg["fn"], msg["scale"], msg["value"] if msg["is_observed"] else None))]
            edge = [] if is_bookkeeping(msg) else arrays(unmasked(msg["fn"]).support)
            layout.extend([((role, msg["name"]), False)] * len(found) + [((role, msg["name"]), True)] * len(edge))
            outputs.extend([*found, *edge])

        done = program.run(params, program.buffers, key, batch, {**indices, **values}, observer=look)
        if runs is not None:
            runs.append(done)
        return outputs

    jaxpr = jax.make_jaxpr(inside)(program.params, latents, jax.random.key(program.seed))
    labels = [*(PARAM + name for name in sorted(program.params)), *sorted(latents), NOISE]
    outputs = reach(jaxpr, [{label: Path()} for label in labels], poles)
    for output in outputs:
        output.pop(NOISE, None)
    if poles is not None:
        for place, name in behind.items():
            poles.update(dict.fromkeys(outputs[place].keys() - poles.keys(), f"a function inside site '{name}'"))
    return _with_reach(sites, layout, outputs)


def _relaxable(program: Program, batch: Batch, run: Run, sites: dict[Term, Site]) -> frozenset[str]:
    """The binary latents that may be taken as real numbers: NumPyro draws integers, which no derivative passes."""
    binary = {s.name for s in sites.values() if s.role == "guide" and not s.observed and s.distribution == "Bernoulli"}
    latents = {name: value for name, value in run.values.items() if not name.startswith(PLATE)}
    relaxed = {name: jnp.asarray(value, float) if name in binary else value for name, value in latents.items()}
    if not binary:
        return frozenset()
    try:
        facts = Facts(_traced(program, batch, run, sites, relaxed))
    except Exception:  # a program that counts or indexes with the value
        return frozenset()
    return frozenset(name for name in binary if facts.jump(name) is None)


def _with_reach(
    sites: dict[Term, Site], layout: list[tuple[Term, bool]], outputs: list[dict[str, Path]]
) -> dict[Term, Site]:
    found = {
        term: [o for (t, edge), o in zip(layout, outputs, strict=True) if t == term and not edge] for term in sites
    }
    edges = {term: [o for (t, edge), o in zip(layout, outputs, strict=True) if t == term and edge] for term in sites}
    return {t: replace(s, reach=merge(*found[t]), moving=frozenset(merge(*edges[t]))) for t, s in sites.items()}


def _anything_goes(program: Program, sites: dict[Term, Site]) -> dict[Term, Site]:
    """Where values leave the tracer, everything drawn before may move everything after, by a jump."""
    where = "a value that leaves JAX (Python control flow or NumPy)"
    drawn: dict[str, Path] = {}
    result = {}
    for term, site in sites.items():
        params = {PARAM + name: Path() for name in program.params}
        result[term] = replace(site, reach={**params, **drawn})
        if site.role == "guide" and not site.observed:
            drawn[site.name] = Path(where)
    return result


def _mixes(
    program: Program, batch: Batch, sites: dict[Term, Site], run: Run, more: dict[str, list[np.ndarray]]
) -> Mixes:
    key = jax.random.key(program.seed)

    @jax.jit
    def call(changed: dict[str, Array]) -> list[Array]:
        found: dict[Term, Array] = {}

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            scale = 1.0 if msg["scale"] is None else msg["scale"]
            bare = jnp.asarray(unmasked(msg["fn"]).log_prob(msg["value"]))
            seen = jnp.asarray(msg["fn"].log_prob(msg["value"]) * scale)
            found[role, msg["name"]] = jnp.stack(jnp.broadcast_arrays(bare, seen))

        program.run(program.params, program.buffers, key, batch, {**run.values, **changed}, observer=look)
        return [found[term] for term in sites]

    def densities(changed: dict[str, np.ndarray]) -> dict[Term, np.ndarray]:
        everything = {name: run.values[name] for name in more} | changed  # one shape of argument: one compilation
        return {term: np.asarray(d) for term, d in zip(sites, call(everything), strict=True)}

    return find_mixes(
        sites, {name: (np.array(run.values[name]), list(found)) for name, found in more.items()}, densities
    )


def _slopes(program: Program, batch: Batch, sites: dict[Term, Site], run: Run, name: str, space: Any) -> Slopes:
    """See `find_jumps`; along a line in the space that `space` maps into the support."""
    key = jax.random.key(program.seed)

    def call(start: Array, end: Array, t: Array) -> list[Array]:
        found: dict[Term, Array] = {}

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            found[role, msg["name"]] = jnp.asarray(unmasked(msg["fn"]).log_prob(msg["value"]))

        fixed = {**run.values, name: space(start + t * (end - start))}
        program.run(program.params, program.buffers, key, batch, fixed, observer=look)
        return [found[term] for term in sites]

    @jax.jit
    def both(start: Array, end: Array, t: Array) -> tuple[list[Array], list[Array]]:
        return jax.jvp(lambda place: call(start, end, place), (t,), (jnp.ones_like(t),))

    def slopes(start: np.ndarray, end: np.ndarray, t: float) -> dict[Term, tuple[np.ndarray, np.ndarray]]:
        densities, derivatives = both(start, end, jnp.asarray(t, start.dtype))
        return {term: (np.asarray(d), np.asarray(s)) for term, d, s in zip(sites, densities, derivatives, strict=True)}

    return slopes
