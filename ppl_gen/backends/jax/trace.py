"""A NumPyro program as one graph: from latents, parameters and data to what is inside each distribution, and to its density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from ppl_gen.backends.jax.calls import part
from ppl_gen.backends.jax.distributions import arrays, held_arrays, unmasked
from ppl_gen.backends.jax.program import Program
from ppl_gen.backends.jax.record import is_bookkeeping
from ppl_gen.program import NOISE, PARAM, PLATE, Batch, Run, Term

Array = Any
OPAQUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


@dataclass(frozen=True)
class Traced:
    """One traced run of a program.

    Attributes:
        facts: from the inputs to each site's arrays.
        densities: from the inputs to each term's log density, element by element.
        labels: what each input is: a latent's name, ``param:`` and a parameter's, `NOISE`; "" for data, buffers and such.
        layout: for each output of `facts` its term, and whether it belongs to the edge of the support.
        terms: for each output of `densities` its term.
        behind: outputs of `facts` that are held by functions, of which is not seen what they do -> the site's name.
        trusted: whether what the program holds is the same in every batch: the data are inputs.
        run: what the run did.
    """

    facts: ClosedJaxpr
    densities: ClosedJaxpr
    labels: Sequence[str]
    layout: Sequence[tuple[Term, bool]]
    terms: Sequence[Term]
    behind: Mapping[int, str]
    trusted: bool
    run: Run

    @property
    def inputs(self) -> Sequence[str]:
        """For each input the latent it is, or "" for anything else."""
        return ["" if label == NOISE or label.startswith(PARAM) else label for label in self.labels]


def trace(program: Program, batch: Batch, run: Run, latents: Mapping[str, Array]) -> Traced:
    """The program on `batch`, the latents having these values, as a graph.

    The arrays of the batch are inputs of the graph. Where the program reads one on the host it is run again with arrays that
    it can read; the graph is then that of these data.

    Raises:
        OPAQUE: a latent or parameter is read on the host.
    """
    leaves, tree = jax.tree.flatten((batch.args, dict(batch.kwargs), batch.rows))
    places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]

    def given(data: Sequence[Array]) -> Batch:
        full = list(leaves)
        for place, value in zip(places, data, strict=True):
            full[place] = value
        args, kwargs, rows = jax.tree.unflatten(tree, full)
        return replace(batch, args=args, kwargs=kwargs, rows=rows)

    data = [leaves[place] for place in places]
    if data:
        try:
            return _trace(program, given, data, run, latents, True)
        except Exception:  # whatever is wrong with the program itself is wrong with data that can be read, too
            pass
    try:
        return _trace(program, lambda _: batch, [], run, latents, not data)
    except OPAQUE:  # JAX traces whatever is done to its arrays, known or not; NumPy's it leaves alone
        if not any(isinstance(value, jax.Array) for value in data):
            raise
        readable = given([np.asarray(value) for value in data])
        return _trace(program, lambda _: readable, [], run, latents, False)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype.kind in "fiub"


def _trace(
    program: Program,
    given: Callable[[Sequence[Array]], Batch],
    data: Sequence[Array],
    run: Run,
    latents: Mapping[str, Array],
    trusted: bool,
) -> Traced:
    """See `trace`: `given` makes the batch of what stands for `data`."""
    layout: list[tuple[Term, bool]] = []
    terms: list[Term] = []
    behind: dict[int, str] = {}
    runs: list[Run] = []
    indices = {name: value for name, value in run.values.items() if name.startswith(PLATE)}

    def inside(params: Any, values: Any, key: Array, rest: Any) -> tuple[list[Array], list[Array]]:
        outputs: list[Array] = []
        densities: list[Array] = []

        def look(role: str, msg: Any, plates: dict[str, int]) -> None:
            hidden = held_arrays(msg["fn"])
            behind.update(dict.fromkeys(range(len(outputs), len(outputs) + len(hidden)), msg["name"]))
            found = [*hidden, *arrays((msg["fn"], msg["scale"], msg["value"] if msg["is_observed"] else None))]
            edge = [] if is_bookkeeping(msg) else arrays(unmasked(msg["fn"]).support)
            layout.extend([((role, msg["name"]), False)] * len(found) + [((role, msg["name"]), True)] * len(edge))
            outputs.extend([*found, *edge])
            weighed = _densities(msg)
            terms.extend([(role, msg["name"])] * len(weighed))
            densities.extend(weighed)

        buffers, drawn, arrays_given = rest
        done = program.run(params, buffers, key, given(arrays_given), {**drawn, **values}, observer=look)
        runs.append(done)
        return outputs, densities

    rest = (program.buffers, indices, list(data))
    jaxpr = jax.make_jaxpr(inside)(program.params, dict(latents), jax.random.key(program.seed), rest)
    names = [*(PARAM + name for name in sorted(program.params)), *sorted(latents), NOISE]
    labels = [*names, *[""] * (len(jaxpr.jaxpr.invars) - len(names))]
    number = len(layout)
    return Traced(
        part(jaxpr, 0, number),
        part(jaxpr, number, len(jaxpr.jaxpr.outvars)),
        labels,
        layout,
        terms,
        behind,
        trusted,
        runs[-1],
    )


def _densities(msg: Any) -> list[Array]:
    """A site's log density, element by element: as its distribution has it, and as masks and scales leave it."""
    scale = 1.0 if msg["scale"] is None else msg["scale"]
    bare = unmasked(msg["fn"])
    try:
        return [bare.log_prob(msg["value"]), jnp.asarray(msg["fn"].log_prob(msg["value"]) * scale)]
    except NotImplementedError:  # a transform without an inverse: whatever it holds may move every element
        held = arrays((msg["fn"], msg["value"], scale))
        whole = sum((jnp.sum(jnp.asarray(array, float)) for array in held), jnp.zeros(()))
        return [jnp.broadcast_to(whole, bare.batch_shape)]
