"""Reading a Pyro program: one plain run with every check, one run under the tracker, a few to see what mixes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributions import constraints

from ppl_gen.backends import checks
from ppl_gen.backends.jumps import Slopes, free, with_jumps
from ppl_gen.backends.mixing import Mixes, find_mixes, mixes_all
from ppl_gen.backends.torch.distributions import (
    constraint_of,
    features,
    held_tensors,
    is_reparametrized,
    is_unchecked,
    leaves_out_nan,
    named,
    num_values,
    others,
    seen,
    support,
    tensors,
    unconstrained,
    unmasked,
)
from ppl_gen.backends.torch.graph import Tracker
from ppl_gen.backends.torch.program import Program, validation
from ppl_gen.backends.torch.record import is_bookkeeping, log_density
from ppl_gen.errors import ProgramError
from ppl_gen.program import PARAM, Batch, Facts, Latent, Run, Site, Term, named_alike
from ppl_gen.sums import is_summed

MORE_RUNS = 12  # of a program whose course depends on what it draws


def read(program: Program, batch: Batch) -> Facts:
    """Everything the plan needs to know about `program` on `batch`. Call inside a session.

    Raises:
        ProgramError: anything that would make training wrong; the message names the site.
    """
    state = torch.random.get_rng_state()
    with program.discovering(), validation(True):
        notes = program.first(lambda: _first_run(program, batch))
    program.open = False
    facts = _follow(program, batch)
    _again(program, batch, facts)
    program.forget_runs()
    torch.random.set_rng_state(state)
    return replace(facts, notes=(*notes, *_said_of_loops(program)))


def survey(
    program: Program, batch: Batch, *, guide: bool
) -> tuple[dict[str, tuple[int, int]], list[Latent], dict[str, tuple[int, ...]]]:
    """(plate -> (size, full size), the model's latents, shapes of what it observes), inside a session."""
    state = torch.random.get_rng_state()
    with program.discovering():
        found = program.first(lambda: _survey(program, batch, guide))
    program.forget_runs()
    torch.random.set_rng_state(state)
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


def _first_run(program: Program, batch: Batch) -> list[str]:
    """Every check of a sample statement; what is to be said in the plan."""
    met: set[Term] = set()
    notes: list[str] = []

    def look(role: str, msg: Any, plates: dict[str, int]) -> None:
        where = f"site '{msg['name']}' ({_kind(msg['fn'])})"
        checks.check_repeat(where, [name for r, name in met if r == role], msg["name"])
        met.add((role, msg["name"]))
        if not msg["is_observed"]:
            _check_support(where, msg["fn"])
        elif role == "model" and not is_bookkeeping(msg):
            notes.extend(_check_observation(where, msg, program.checks_values))

    try:
        program.run(batch, observer=look)
    except ValueError as error:
        if isinstance(error, ProgramError):
            raise
        raise ProgramError(f"the program's first run: {error}") from error
    return notes


def _said_of_loops(program: Program) -> list[str]:
    return [
        f"plate '{name}': the Python loop takes all {size} elements in every step, as the sites of a subsample have other names "
        "in each run"
        for name, size in program.loops.items()
    ]


def _again(program: Program, batch: Batch, facts: Facts) -> None:
    """A few more runs: the sites must be the same ones, whatever is drawn."""
    with program.discovering(), torch.no_grad():
        for _ in range(MORE_RUNS if facts.eager else 2):
            found: list[Term] = []
            program.run(batch, observer=partial(_note, found))
            checks.check_same(facts.sites, found)


def _note(found: list[Term], role: str, msg: Any, plates: dict[str, int]) -> None:
    found.append((role, msg["name"]))


def _check_support(where: str, fn: Any) -> None:
    if constraint_of(unmasked(fn)) is None:
        raise ProgramError(
            f"{where}: expected a distribution with a support; got none. State it in the class, as support = constraints.real."
        )


def _check_observation(where: str, msg: Any, checked: bool) -> list[str]:
    """Raise on an observation that counts and cannot be; what is to be said of one that the user lets pass."""
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


def _follow(program: Program, batch: Batch) -> Facts:
    """The same run again, under the tracker."""
    sites: dict[Term, Site] = {}
    values: dict[str, tuple[Tensor, list[Tensor]]] = {}
    spaces: dict[str, Any] = {}
    priors: dict[str, Any] = {}
    labelled: dict[str, Tensor] = {}
    with Tracker() as tracker:

        def param(msg: Any) -> Tensor:
            for name, leaf in program.params.items():
                if name not in labelled:
                    labelled[name] = tracker.source(PARAM + name, leaf)
            return program._param(msg)

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            sites[role, msg["name"]] = site = _site(role, msg, plates, tracker)
            if (role == "guide" and not site.observed) or is_summed(site, sites):
                values[site.name] = (msg["value"], others(msg["fn"], msg["value"].detach()))
                spaces[site.name] = unconstrained(msg["fn"])
                msg["value"] = tracker.source(site.name, _leaf(msg["value"], site))
            elif role == "model" and site.name in values:
                priors[site.name] = unmasked(msg["fn"])
                if sites["guide", site.name].is_point:  # which says nothing of what values there are
                    spaces[site.name] = unconstrained(msg["fn"])
                if "Mixture" in site.distribution:  # whose components may end inside its support
                    del priors[site.name]  # torch's own check asks for all components' supports
                    tracker.poles.setdefault(site.name, f"the density of site '{site.name}' ({site.distribution})")

        run = program.run(batch, observer=look, param=param)
        eager = next((where for sources, where in tracker.escapes if sources), None)
        escaped = {source for sources, _ in tracker.escapes for source in sources}
    checks.check_match(sites)
    for name, prior in priors.items():
        where, drawn = (
            f"site '{name}' ({_kind(prior)})",
            [value.detach() for value in _draws(sites, name, *values[name])],
        )
        inside = [(_array(value), _array(prior.support.check(value))) for value in drawn]
        checks.check_proposal(where, inside, str(prior.support))
    mixes = _mixes(program, batch, sites, values, run) | mixes_all(sites, escaped)
    facts = with_jumps(
        Facts(named_alike(sites), tuple(program.params), mixes, eager, subsampled=run.subsampled, noise=tracker.noise),
        tracker.poles,
        lambda name: [
            free(_array(value), _array(spaces[name].inv(value))) for value in (values[name][0], *values[name][1][:2])
        ],
        lambda name: _slopes(program, batch, values, run, name, spaces[name]),
    )
    binary = [site.name for site in facts.latents() if site.distribution == "Bernoulli"]
    return replace(facts, relaxable=frozenset(name for name in binary if facts.jump(name) is None))


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
    if behind:  # what the functions do with them is not seen
        tracker.poles = dict.fromkeys(tracker.reach(*behind), f"a function inside site '{msg['name']}'") | tracker.poles
    if msg["is_observed"]:
        inside.append(msg["value"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind, size = ("real", None) if is_bookkeeping(msg) else support(fn)
        boundary = [] if is_bookkeeping(msg) else list(tensors(constraint_of(unmasked(fn))))
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
        reparametrized=is_reparametrized(fn),
        plates=plates,
        batch_shape=tuple(fn.batch_shape),
        event_shape=tuple(fn.event_shape),
        reach=tracker.reach(*inside),
        moving=frozenset(tracker.reach(*boundary)) if boundary else frozenset(),
        num_features=_num_features(fn),
        scaled=_scaled(msg),
        masked=unmasked(fn) is not fn or not (msg["mask"] is None or msg["mask"] is True),
        marked=msg["infer"].get("enumerate") in ("parallel", "sequential"),
    )
    return site.settled()


def _scaled(msg: Any) -> bool:
    frames = [f for f in msg["cond_indep_stack"] if f.size]
    scale = msg["scale"].detach().cpu().numpy() if isinstance(msg["scale"], Tensor) else msg["scale"]
    return checks.is_scaled(scale, [(f.full_size or f.size, f.size) for f in frames])


def _num_features(fn: Any) -> int | None:
    inputs = features(fn) if math.prod(fn.batch_shape) > 1 else None
    return None if inputs is None else inputs.shape[-1]


def _mixes(
    program: Program, batch: Batch, sites: dict[Term, Site], values: dict[str, tuple[Tensor, list[Tensor]]], run: Run
) -> Mixes:
    """See `find_mixes`."""
    indices = {name: value for name, value in run.values.items() if name not in values}

    def densities(changed: dict[str, np.ndarray]) -> dict[Term, np.ndarray]:
        fixed: dict[str, Any] = {name: value.detach() for name, (value, _) in values.items()} | indices
        fixed |= {name: torch.as_tensor(value, device=program.device) for name, value in changed.items()}
        found: dict[Term, np.ndarray] = {}

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            log_prob = log_density(msg)
            weight = torch.as_tensor(1.0 if msg["mask"] is None else msg["mask"]) * torch.as_tensor(msg["scale"])
            found[role, msg["name"]] = _array(torch.stack(torch.broadcast_tensors(log_prob, weight.to(log_prob))))

        torch.manual_seed(program.seed)
        with torch.no_grad():
            program.run(batch, fixed, observer=look)
        return found

    arrays = {name: (_array(value), [_array(other) for other in more]) for name, (value, more) in values.items()}
    return find_mixes(sites, arrays, densities)


def _slopes(
    program: Program, batch: Batch, values: dict[str, tuple[Tensor, list[Tensor]]], run: Run, name: str, space: Any
) -> Slopes:
    """See `find_jumps`; along a line in the space that `space` maps into the support."""
    fixed: dict[str, Any] = {other: value.detach() for other, (value, _) in values.items()}
    fixed |= {other: value for other, value in run.values.items() if other not in values}

    def slopes(start: np.ndarray, end: np.ndarray, t: float) -> dict[Term, tuple[np.ndarray, np.ndarray]]:
        found: dict[Term, tuple[np.ndarray, np.ndarray]] = {}

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            density, slope = forward_ad.unpack_dual(log_density(msg))
            found[role, msg["name"]] = _array(density), _array(torch.zeros_like(density) if slope is None else slope)

        torch.manual_seed(program.seed)
        low, high = (torch.as_tensor(value, device=program.device) for value in (start, end))
        with torch.no_grad(), forward_ad.dual_level():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own, at the first dual number
                place = forward_ad.make_dual(low.new_full((), t), low.new_ones(()))
            program.run(batch, {**fixed, name: space(low + place * (high - low))}, observer=look)
        return found

    return slopes


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
