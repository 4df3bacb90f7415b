"""A NumPyro program as one graph: from latents, parameters and data to what is inside each distribution, and to its density."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr
from numpyro.distributions.constraints import Constraint

from ppl_gen.backends.interface import Distribution, Message
from ppl_gen.backends.jax.calls import part
from ppl_gen.backends.jax.compiled import NOTHING, REALS, on_host
from ppl_gen.backends.jax.distributions import arrays, held_arrays, named, unmasked
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.jax.samplers import IN_DENSITIES, IN_DRAWS, draw, strangers
from ppl_gen.backends.jax.supports import ends_inside, ends_of
from ppl_gen.program import NOISE, PARAM, PLATE, Batch, Run, Term


@dataclass(frozen=True)
class Traced:
    """One traced run of a program.

    Attributes:
        facts: from the inputs to each site's arrays.
        densities: from the inputs to each term's log density, element by element.
        labels: what each input is: a latent's name, ``param:`` and a parameter's, `NOISE`; "" for data, buffers and such.
        layout: for each output of `facts` its term, and whether it belongs to the edge of the support.
        terms: for each output of `densities` its term.
        limits: for each output of `facts` beyond these the site and what of it the output is: "low" or "high", the ends of the
            support, or "value", where the distribution is a point.
        supports: latent -> the support of what draws it.
        behind: outputs of `facts` that are held by functions, of which is not seen what they do -> the site's term.
        hidden: terms whose density could not be taken.
        ending: latents whose density in the model may end inside its support.
        trusted: whether what the program holds is the same in every batch: the data are inputs.
        run: what the run did.
        own: terms whose density is not NumPyro's alone.
        whole: from the inputs to all of this.
        draws: latent whose sampler is not NumPyro's alone -> (what else it is made of, the output of `whole` that is a draw of it;
            None where none is got).
    """

    facts: ClosedJaxpr
    densities: ClosedJaxpr
    labels: Sequence[str]
    layout: Sequence[tuple[Term, bool]]
    terms: Sequence[Term]
    limits: Sequence[tuple[str, str]]
    supports: Mapping[str, Constraint]
    behind: Mapping[int, Term]
    hidden: frozenset[Term]
    ending: frozenset[str]
    trusted: bool
    run: Run
    own: frozenset[Term]
    whole: ClosedJaxpr
    draws: Mapping[str, tuple[str, int | None]]

    @property
    def inputs(self) -> Sequence[str]:
        """For each input the latent it is, or "" for anything else."""
        return ["" if label == NOISE or label.startswith(PARAM) else label for label in self.labels]


def trace(program: Program, batch: Batch, run: Run, latents: Mapping[str, object]) -> Traced:
    """The program on `batch`, the latents having these values, as a graph.

    The arrays of the batch are inputs of the graph. Where the program reads one on the host it is run again with arrays that
    it can read; the graph is then that of these data.

    Raises:
        LEAVES_TRACER: a latent or parameter is read on the host.
    """
    *others, last = _readings(batch)
    for given, data, trusted in others:
        try:
            return _trace(program, given, data, run, latents, trusted)
        except Exception:  # what is wrong with the program itself is wrong with data that can be read, too
            continue
    given, data, trusted = last
    return _trace(program, given, data, run, latents, trusted)


Reading = tuple[Callable[[Sequence[Array]], Batch], Sequence[Array], bool]


def _readings(batch: Batch) -> Iterator[Reading]:
    """Ways to hand a batch to the program: (what makes the batch of arrays, these arrays, whether they are all its data)."""
    leaves, tree = jax.tree.flatten((batch.args, dict(batch.kwargs), batch.rows))
    places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

    def given(data: Sequence[Array]) -> Batch:
        full = list(leaves)
        for place, value in zip(places, data, strict=True):
            full[place] = value
        args, kwargs, rows = jax.tree.unflatten(tree, full)
        return replace(batch, args=args, kwargs=kwargs, rows=rows)

    data = [leaves[place] for place in places]
    yield given, data, True
    if data:
        yield partial(_constant, batch), [], False
        for level in (REALS, NOTHING):  # JAX traces whatever is done to its arrays, but not NumPy's
            yield partial(_constant, on_host(batch, level)), [], False


def _constant(batch: Batch, data: Sequence[Array]) -> Batch:
    """The batch, whatever the arguments."""
    return batch


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype.kind in "fiub"


def _trace(
    program: Program,
    given: Callable[[Sequence[Array]], Batch],
    data: Sequence[Array],
    run: Run,
    latents: Mapping[str, object],
    trusted: bool,
) -> Traced:
    """See `trace`: `given` makes the batch of what stands for `data`."""
    seen: list[tuple[_Look, Run]] = []
    indices = {name: value for name, value in run.values.items() if name.startswith(PLATE)}

    def inside(
        params: Mapping[str, Array], values: Mapping[str, object], key: Array, rest: _Rest
    ) -> tuple[list[Array], ...]:
        look, (buffers, drawn, arrays_given) = _Look(frozenset(latents), key), rest
        done = program.run(params, buffers, key, given(arrays_given), {**drawn, **values}, observer=look)
        seen.append((look, done))
        return look.outputs, look.ends, look.densities, [one for _, one in look.draws.values() if one is not None]

    rest = (program.buffers, indices, list(data))
    jaxpr = jax.make_jaxpr(inside)(program.params, dict(latents), program.key(), rest)
    names = [*(PARAM + name for name in sorted(program.params)), *sorted(latents), NOISE]
    return seen[-1][0].traced(jaxpr, names, seen[-1][1], trusted)


_Rest = tuple[Mapping[str, object], Mapping[str, object], Sequence[Array]]
"""Buffers, what plates drew, and the arrays of the batch."""


class _Look:
    """An observer of one run, which collects the arrays that its graph is to give."""

    def __init__(self, latents: frozenset[str], key: Array) -> None:
        self.latents, self.key = latents, key
        self.draws: dict[str, tuple[str, Array | None]] = {}
        self.outputs: list[Array] = []
        self.ends: list[Array] = []
        self.densities: list[Array] = []
        self.layout: list[tuple[Term, bool]] = []
        self.limits: list[tuple[str, str]] = []
        self.terms: list[Term] = []
        self.supports: dict[str, Constraint] = {}
        self.behind: dict[int, Term] = {}
        self.hidden: set[Term] = set()
        self.ending: set[str] = set()
        self.own: set[Term] = set()

    def __call__(self, message: Message[jax.Array]) -> None:
        """Take what is inside a site, and its density."""
        term, fn = message.term, message.distribution
        hidden, start = held_arrays(fn), len(self.outputs)
        self.behind.update(dict.fromkeys(range(start, start + len(hidden)), term))
        found = [*hidden, *arrays((fn, message.scale, message.value if message.observed else None))]
        edge = [] if message.is_bookkeeping else arrays(unmasked(fn).support)
        self.layout += [(term, False)] * len(found) + [(term, True)] * len(edge)
        self.outputs += [*found, *edge]
        if message.name in self.latents and not message.observed:
            self._support(message.name, fn)
            own = strangers(fn, IN_DRAWS) if message.role == "guide" and fn.has_rsample else []
            if own:
                self.draws[message.name] = ", ".join(dict.fromkeys(own)), self._draw(fn)
        self._density(message)

    def _support(self, name: str, fn: Distribution) -> None:
        if name in self.supports:  # drawn by the guide: this is what the model makes of it
            self.ending |= {name} if ends_inside(named(fn)) else set()
            return
        self.supports[name] = unmasked(fn).support
        ends = {"value": named(fn).v} if type(named(fn)).__name__ == "Delta" else ends_of(self.supports[name])
        for what, end in ends.items():
            if isinstance(end, jax.Array):
                self.limits.append((name, what))
                self.ends.append(end)

    def _draw(self, fn: Distribution) -> Array | None:
        try:
            return draw(fn, self.key)
        except Exception:  # whatever a user's sampler does that cannot be traced
            return None

    def _density(self, message: Message[jax.Array]) -> None:
        """A site's log density, element by element: as its distribution has it, and as masks and scales leave it."""
        term, fn, value, scale = message.term, message.distribution, message.value, message.scale
        if not message.is_bookkeeping and strangers(fn, IN_DENSITIES):
            self.own.add(term)
        bare = unmasked(fn)
        try:
            weighed = [bare.log_prob(value), fn.log_prob(value) * scale]
        except NotImplementedError:  # a transform without an inverse: whatever it holds may move every element
            inside = [*held_arrays(fn), *arrays((fn, value, scale))]
            whole = sum((jnp.sum(jnp.asarray(array, float)) for array in inside), jnp.zeros(()))
            weighed = [jnp.broadcast_to(whole, bare.batch_shape)]
            self.hidden.add(term)
        self.densities += map(jnp.asarray, weighed)
        self.terms += [term] * len(weighed)

    def traced(self, jaxpr: ClosedJaxpr, names: Sequence[str], run: Run, trusted: bool) -> Traced:
        """All that was collected; `names` are those of the first inputs."""
        number = len(self.outputs) + len(self.ends)
        places = itertools.count(last := number + len(self.densities))
        return Traced(
            facts=part(jaxpr, 0, number),
            densities=part(jaxpr, number, last),
            labels=[*names, *[""] * (len(jaxpr.jaxpr.invars) - len(names))],
            layout=self.layout,
            terms=self.terms,
            limits=self.limits,
            supports=self.supports,
            behind=self.behind,
            hidden=frozenset(self.hidden),
            ending=frozenset(self.ending),
            trusted=trusted,
            run=run,
            own=frozenset(self.own),
            whole=jaxpr,
            draws={name: (own, None if one is None else next(places)) for name, (own, one) in self.draws.items()},
        )
