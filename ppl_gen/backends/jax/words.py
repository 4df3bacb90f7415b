"""Which elements of a JAX program's inputs reach which elements of its outputs, whatever their values.

The walker pushes words of marks (see `ppl_gen.program.independence`) through a jaxpr. It never looks at a value that depends on an
input; a position that depends on none, such as a permutation written down in the program, it works out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from ppl_gen.backends.jax.calls import Atom, Function, called, mutable, opened, scan_lengths, shape_of
from ppl_gen.backends.jax.constants import evaluate
from ppl_gen.backends.jax.flows.rules import RULES
from ppl_gen.backends.jax.flows.words import Constant, Present, Words, all_of, everything, fitted, full, gathered, union
from ppl_gen.backends.jax.known import dtype_of
from ppl_gen.program import Site, Term
from ppl_gen.program.independence import Marks, Mixes, length, lengths_of, rounds

PATIENCE = 8  # rounds of a loop in which marks are followed element by element; what still grows then is taken together


def spread(closed_jaxpr: ClosedJaxpr, sources: Sequence[Words], trusted: bool = True) -> list[Present]:
    """The word of every element of every output.

    Args:
        closed_jaxpr: the program.
        sources: the words of each input's elements, as many dimensions as it has, of length 1 where they are alike.
        trusted: whether arrays that the program holds are the same in every batch, so that positions among them may be read.
    """
    outs = _Walker(trusted).through(closed_jaxpr, list(sources))
    return [full(out, shape_of(atom)) for out, atom in zip(outs, closed_jaxpr.jaxpr.outvars, strict=True)]


class _Walker:
    """Pushes words through jaxprs.

    Attributes:
        trusted: see `spread`.
    """

    def __init__(self, trusted: bool) -> None:
        self.trusted = trusted

    def _walk(
        self, jaxpr: Jaxpr, words: Sequence[Words], known: Sequence[Constant], constants: Sequence[Constant] = ()
    ) -> list[Words]:
        """Words of the outputs of an open jaxpr, given those of its inputs, and inputs' values where they depend on nothing."""
        known_words: dict[Var, Words] = dict(zip(jaxpr.invars, words, strict=True))
        values: dict[Var, Constant] = dict(zip(jaxpr.invars, known, strict=True))
        values.update(zip(jaxpr.constvars, constants, strict=True))

        def words_of(atom: Atom) -> Words:
            return None if isinstance(atom, Literal) else known_words.get(atom)

        def value(atom: Atom) -> Constant:
            return partial(np.asarray, atom.val) if isinstance(atom, Literal) else values.get(atom)

        for eqn in jaxpr.eqns:
            ins, own = [words_of(atom) for atom in eqn.invars], [value(atom) for atom in eqn.invars]
            if all(constant is not None for constant in own) and not eqn.effects:
                values.update(_later(eqn, own))
            if all(one is None for one in ins):
                continue
            known_words.update(zip(eqn.outvars, self._through(eqn, ins, own), strict=True))
            for ref in mutable(eqn):  # what was written can be read again
                known_words[ref] = fitted(union(*map(all_of, ins)), len(shape_of(ref)))
        return [words_of(atom) for atom in jaxpr.outvars]

    def through(
        self, function: Function, words: Sequence[Words], known: Sequence[Constant] | None = None
    ) -> list[Words]:
        jaxpr, arrays = opened(function)
        constants = [partial(np.asarray, value) if self.trusted else None for value in arrays]
        return self._walk(jaxpr, words, known or [None] * len(words), constants)

    def _through(self, eqn: JaxprEqn, ins: list[Words], known: Sequence[Constant]) -> list[Words]:
        """Words of the outputs of one equation."""
        if mutable(eqn):
            return everything(eqn, ins)
        inner = called(eqn)
        if inner is not None:
            return self.through(inner, ins, known)
        name = eqn.primitive.name
        structured = {"scan": self._scan, "while": self._while, "cond": self._cond, "custom_linear_solve": self._solve}
        rule = structured.get(name) or RULES.get(name, everything)
        return rule(eqn, ins, known)

    def _scan(self, eqn: JaxprEqn, ins: list[Words], known: Sequence[Constant]) -> list[Words]:
        """Each step sees its own slices, and whatever the steps before may have left in the carry."""
        first, carried = scan_lengths(eqn)
        last = first + carried
        body, constants = eqn.params["jaxpr"], [*known[:first], *[None] * (len(ins) - first)]
        slices = [gathered(words, [0]) for words in ins[last:]]

        def step(carry: list[Words]) -> list[Words]:
            return self.through(body, [*ins[:first], *carry, *slices], constants)

        carry = _settle(ins[first:last], step)
        if all(words is None or words.shape[0] == 1 for words in ins[last:]):
            outs = step(carry)[len(carry) :]
            return [*carry, *(None if out is None else out[None] for out in outs)]
        axes = [None] * last + [0] * (len(ins) - last)
        shapes = [jax.ShapeDtypeStruct(shape_of(atom), dtype_of(atom)) for atom in body.jaxpr.invars[:last]]
        shapes += [jax.ShapeDtypeStruct(shape_of(atom), dtype_of(atom)) for atom in eqn.invars[last:]]
        try:
            side_by_side = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(body), in_axes=axes))(*shapes)
        except NotImplementedError:  # a primitive that cannot be batched
            return [*carry, *everything(eqn, ins)[len(carry) :]]
        outs = self.through(side_by_side, [*ins[:first], *carry, *ins[last:]], [*constants[:last], *known[last:]])
        return [*carry, *outs[len(carry) :]]

    def _while(self, eqn: JaxprEqn, ins: list[Words], known: Sequence[Constant]) -> list[Words]:
        """How often a loop runs moves all that it leaves."""
        test, body = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        carry = _settle(ins[body:], lambda carry: self.through(eqn.params["body_jaxpr"], [*ins[test:body], *carry]))
        (going,) = self.through(eqn.params["cond_jaxpr"], [*ins[:test], *carry])
        going = all_of(going)
        return [union(out, fitted(going, len(shape_of(atom)))) for out, atom in zip(carry, eqn.outvars, strict=True)]

    def _cond(self, eqn: JaxprEqn, ins: list[Words], known: Sequence[Constant]) -> list[Words]:
        branches = [self.through(branch, ins[1:], known[1:]) for branch in eqn.params["branches"]]
        choice = all_of(ins[0])
        joined = [union(*outs) for outs in zip(*branches, strict=True)]
        return [union(out, fitted(choice, len(shape_of(atom)))) for out, atom in zip(joined, eqn.outvars, strict=True)]

    def _solve(self, eqn: JaxprEqn, ins: list[Words], known: Sequence[Constant]) -> list[Words]:
        lengths = eqn.params["const_lengths"]
        start = lengths.matvec + lengths.vecmat
        right = sum(lengths)
        return self.through(eqn.params["jaxprs"].solve, [*ins[start : start + lengths.solve], *ins[right:]])


def _later(eqn: JaxprEqn, known: Sequence[Constant]) -> dict[Var, Constant]:
    """The values of an equation that depends on no input, worked out once they are asked for."""
    found: list[np.ndarray[Any, Any]] = []

    def at(number: int) -> np.ndarray[Any, Any]:
        if not found:
            operands = [constant() for constant in known if constant is not None]
            found.extend(evaluate(eqn, operands))
        return found[number]

    if any(jnp.issubdtype(dtype_of(atom), jax.dtypes.extended) for atom in (*eqn.invars, *eqn.outvars)):
        return {}
    return {out: partial(at, number) for number, out in enumerate(eqn.outvars)}


def _settle(carry: list[Words], step: Callable[[list[Words]], list[Words]]) -> list[Words]:
    """The fixed point of a loop's carry; marks are only ever added, so it comes."""
    number = 0
    while True:
        grown = [union(old, new) for old, new in zip(carry, step(carry), strict=False)]
        changed = [not _same(old, new) for old, new in zip(carry, grown, strict=True)]
        if not any(changed):
            return carry
        number += 1
        if number > PATIENCE:
            grown = [
                fitted(all_of(new), 0 if new is None else new.ndim) if moved else new
                for new, moved in zip(grown, changed, strict=True)
            ]
        carry = grown


def _same(first: Words, second: Words) -> bool:
    if first is None or second is None:
        return first is second
    one, other = np.broadcast_arrays(first, second)
    return np.array_equal(one, other)


def find_mixes(
    program: ClosedJaxpr,
    inputs: Sequence[str],
    terms: Sequence[Term],
    sites: Mapping[Term, Site],
    latents: Mapping[str, Site],
    trusted: bool,
) -> Mixes:
    """(latent, term, plate) for every term of which an element may be moved by another element of the latent.

    Args:
        program: its outputs are the terms' log densities, element by element.
        inputs: what each input is: a latent's name, or anything else.
        terms: the term of each output.
        sites: all of them.
        latents: name -> the site that draws it.
        trusted: see `spread`.
    """

    def strays(marks: Marks, names: Mapping[str, Site]) -> set[tuple[Term, str]]:
        atoms = zip(inputs, program.jaxpr.invars, strict=True)
        marked = [_marked(marks, names.get(name), len(shape_of(atom))) for name, atom in atoms]
        return _strays(marks, spread(program, marked, trusted), terms, sites)

    found: set[tuple[str, Term, str]] = set()
    for marks in rounds(lengths_of(latents)):
        suspected = {plate for _, plate in strays(marks, latents)}
        for name, site in latents.items():
            if not suspected.isdisjoint(site.plates):
                found |= {(name, term, plate) for term, plate in strays(marks, {name: site}) if plate in site.plates}
    return frozenset(found)


def _marked(marks: Marks, site: Site | None, ndim: int) -> Words:
    """The words of a latent's elements; of anything else none."""
    words: Words = None
    if site is None:
        return words
    for plate, dim in site.plates.items():
        if plate in marks.lengths and length(site, dim) == marks.lengths[plate]:
            shape = [1] * ndim
            shape[dim - len(site.event_shape)] = -1
            words = union(words, marks.of(plate).reshape(shape))
    return words


def _strays(
    marks: Marks, words: Sequence[Present], terms: Sequence[Term], sites: Mapping[Term, Site]
) -> set[tuple[Term, str]]:
    found = set()
    for term, own in zip(terms, words, strict=True):
        whole = np.broadcast_to(own, np.broadcast_shapes(own.shape, sites[term].batch_shape))
        for plate, dim in sites[term].plates.items():
            if plate in marks.lengths and marks.strays(plate, whole, dim):
                found.add((term, plate))
    return found
