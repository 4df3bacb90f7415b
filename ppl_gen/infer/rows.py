"""Which plates stand for the rows of the data, so that a batch is scaled to all of them."""

from __future__ import annotations

from dataclasses import replace

from ppl_gen.backends.interface import Backend, Program, Sizes
from ppl_gen.backends.restore import as_they_were
from ppl_gen.elimination.sums import part_of_sum
from ppl_gen.errors import ProgramError
from ppl_gen.program import Batch, Facts, Latent
from ppl_gen.training.batches import Stream, Table, length
from ppl_gen.training.prepare import Prepared

Following = tuple[set[str], set[str], list[Latent]]


def resized(source: Table | Stream) -> Batch | None:
    """The first batch with one row less, or with another one where it has but one; None where rows are not counted."""
    rows = source.first_rows
    return None if not rows else source.first(rows - 1 if rows > 1 else 2)


def followers(backend: Backend, program: Program, first: Batch, other: Batch | None, guide: bool = True) -> Following:
    """(plates whose size follows the number of rows, the model's sites whose shape does, its latents).

    The size of a plate that draws a subsample is the subsample's: such a plate follows where it states the whole number of
    rows, and the batch's as the size of a subsample.

    Args:
        backend: the backend module.
        program: the program.
        first: what it is read on.
        other: the same with one row more or less; None where rows are not counted.
        guide: whether the guide is run too.
    """
    sizes, latents, shapes = backend.survey(program, first, guide=guide)
    if other is None:
        return set(), set(), latents
    rows = length(first) or 1
    try:
        with as_they_were(program.model, program.guide):
            changed, resized_latents, others = backend.survey(program, other, guide=guide)
    except Exception:  # a program that cannot run on another number of rows: go by length
        plates, beside = {name for name, (size, _) in sizes.items() if size == rows}, set()
    else:
        plates = {name for name, (size, _) in sizes.items() if abs(changed.get(name, (size, 0))[0] - size) == 1}
        shapes |= {latent.name: latent.shape for latent in latents}
        others |= {latent.name: latent.shape for latent in resized_latents}
        beside = {name for name, shape in shapes.items() if others.get(name, shape) != shape}
    return plates, beside, _marked(latents, sizes, plates, round(first.scale * rows))


def _marked(latents: list[Latent], sizes: Sizes, plates: set[str], num_rows: int) -> list[Latent]:
    """The latents, those told that lie in a plate that draws a subsample of its own, and not of the rows."""
    own = {name for name, (size, full) in sizes.items() if size != full}
    whole = {name for name in own & plates if sizes[name][1] == num_rows}
    return [replace(latent, subsampled=bool(own & set(latent.plates) - whole)) for latent in latents]


def settle(following: set[str], beside: set[str], prepared: Prepared, first: Batch) -> set[str] | None:
    """The plates that are scaled from a batch's rows to the data's.

    Args:
        following: plates whose size follows the number of rows.
        beside: observed sites whose shape does.
        prepared: the program.
        first: the batch.

    Raises:
        ProgramError: it cannot be told what belongs to the rows.
    """
    if first.scale == 1.0:
        return following
    facts = prepared.plan.facts
    sites = facts.whole.sites  # what is summed out stands in its place
    latents = [site.name for site in facts.latents()]
    if not following and not latents:
        factors = [site.name for site in sites.values() if site.is_factor and not site.plates]
        if not factors or len(sites) == 1:
            return None  # nothing but the rows: every term is scaled
        beside = set(factors)
    lost = [] if following else latents
    _check_none_lost([*lost, *(n for n in sorted(beside) if following.isdisjoint(sites["model", n].plates))])
    _check_parts_of_sums(facts, following)
    _check_pairs(facts, following)
    return following


def _check_none_lost(lost: list[str]) -> None:
    """Raise where sites belong to the rows and stand in no plate of them."""
    if lost:
        raise ProgramError(
            f"site '{lost[0]}': expected a plate over the rows of the batch, so that its terms can be scaled to the "
            "whole data; got none. Put what belongs to the rows into plate('data', len(x)), or train without batch_size."
        )


def _check_parts_of_sums(facts: Facts, following: set[str]) -> None:
    """Raise where what is summed out lies outside a plate of rows whose terms it moves."""
    sites, sums = facts.whole.sites, facts.summed[0] if facts.summed else None
    for term, names in sums.reads.items() if sums else ():
        for name in names:
            for plate in sorted(following & set(sites[term].plates) - set(sites["model", name].plates)):
                raise part_of_sum(sites["model", name], plate)


def _check_pairs(facts: Facts, following: set[str]) -> None:
    """Raise where a site lies in two plates of rows."""
    for site in facts.whole.sites.values():
        if len(following & set(site.plates)) > 1:
            raise ProgramError(
                f"site '{site.name}': expected one plate over the rows of the batch; got {sorted(following & set(site.plates))}: "
                "pairs of a batch's rows do not stand for all pairs. Train without batch_size."
            )
