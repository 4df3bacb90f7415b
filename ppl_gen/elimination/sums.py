"""Finite latents that stand in the model only are summed out, exactly: which runs that takes, and the elimination.

A term of the log density is a table over the values of the summed sites that it reads (see `ppl_gen.elimination.trials`). The
tables are combined by variable elimination, innermost plates first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ppl_gen.elimination.trials import Trials, align
from ppl_gen.errors import ProgramError
from ppl_gen.program import Facts, Path, Run, Site, Term, merge
from ppl_gen.program.arrays import Array, Namespace

MOST_RUNS = 256
MOST_LEVELS = 64
MOST_CELLS = 10**7  # numbers in one table, on the way of an elimination


@dataclass(frozen=True)
class Sums:
    """How the model's own finite sites are summed out.

    Attributes:
        sites: in order of elimination.
        reads: term -> the summed sites it is a table over, in order of elimination.
        trials: the runs that it takes.
        root: site -> the last site of its connected group, which the group's term is named after.
    """

    sites: tuple[Site, ...]
    reads: Mapping[Term, tuple[str, ...]]
    trials: Trials
    root: Mapping[str, str]


def is_summed(site: Site, sites: Mapping[Term, Site]) -> bool:
    """Whether a site stands in the model only and is small enough to be summed out."""
    return (
        site.role == "model"
        and not site.observed
        and ("guide", site.name) not in sites
        and site.support == "finite"
        and site.size is not None
        and site.size <= MOST_LEVELS
    )


def plan_sums(facts: Facts) -> Facts:
    """The facts as they are once the model's own finite sites are summed out; `summed` says how.

    Raises:
        ProgramError: a sum that plates do not allow, or one of too many runs.
    """
    summed = [site for site in facts.sites.values() if is_summed(site, facts.sites)]
    if not summed:
        return facts
    place = {site.name: i for i, site in enumerate(summed)}
    summed.sort(key=lambda site: (-len(site.plates), place[site.name]))
    summed = _ordered(summed, list(_reads(facts, summed).values()))
    names = [site.name for site in summed]
    reads = _reads(facts, summed)
    _check(facts, reads)
    trials = Trials.of({site.name: site.size or 1 for site in summed}, list(reads.values()))
    if trials.number > MOST_RUNS:
        raise ProgramError(
            f"site '{names[0]}': expected finite latents of the model that {MOST_RUNS} runs can sum out; got {trials.number}. "
            "Add some of them to the guide."
        )
    _check_order(facts, summed, reads)
    sums = Sums(tuple(summed), reads, trials, _roots(names, reads.values()))
    return replace(_reduced(facts, sums), summed=(sums, facts))


def _reads(facts: Facts, summed: Sequence[Site]) -> dict[Term, tuple[str, ...]]:
    """Term of the model -> the summed sites that it is a table over, in their order."""
    names = [site.name for site in summed]
    found = {
        term: tuple(name for name in names if name in site.reach or term == ("model", name))
        for term, site in facts.sites.items()
        if term[0] == "model"
    }
    return {term: over for term, over in found.items() if over}


def _ordered(summed: Sequence[Site], groups: Sequence[tuple[str, ...]]) -> list[Site]:
    """The order of elimination: innermost plates first, then what leaves the smallest table, then as they come.

    Raises:
        ProgramError: one of the tables would be too large to hold.
    """
    sizes = {site.name: site.size or 1 for site in summed}
    tables, waiting, order = [set(group) for group in groups], list(summed), list[Site]()

    def joined(site: Site) -> set[str]:
        return set().union(*(table for table in tables if site.name in table))

    while waiting:
        inner = [site for site in waiting if len(site.plates) == len(waiting[0].plates)]
        site = min(inner, key=lambda one: math.prod(sizes[name] for name in joined(one)))
        cells = math.prod(sizes[name] for name in joined(site)) * math.prod(site.batch_shape)
        if cells > MOST_CELLS:
            raise ProgramError(
                f"site '{site.name}' ({site.distribution}): expected finite latents of the model that can be summed out by tables "
                f"of at most {MOST_CELLS} numbers; got one of {cells}. Add some of them to the guide."
            )
        tables = [*(table for table in tables if site.name not in table), joined(site) - {site.name}]
        waiting.remove(site)
        order.append(site)
    return order


def _check(facts: Facts, reads: Mapping[Term, tuple[str, ...]]) -> None:
    for term, names in reads.items():
        if facts.sites[term].scaled:
            raise ProgramError(
                f"site '{term[1]}' ({facts.sites[term].distribution}): expected no scale but its plates', for a sum over "
                f"'{names[0]}'; got another. Add '{names[0]}' to the guide, or drop the scale."
            )
        for name in names:
            own = facts.sites["model", name]
            if own.loose:
                raise ProgramError(
                    f"site '{name}' ({own.distribution}): expected elements that stand in a plate or an event, to be summed out; got "
                    f"batch shape {own.batch_shape} in plates {sorted(own.plates)}. Put it in a plate, or use to_event; "
                    "write the steps of a scan as a Python loop."
                )
            for plate in sorted(set(facts.subsampled) & set(facts.sites[term].plates) - set(own.plates)):
                raise part_of_sum(own, plate)
            wide = _wide(own)
            lost = wide - set(facts.sites[term].plates)
            mixed = {plate for plate in wide if (name, term, plate) in facts.mixes}
            for plate in sorted(lost | mixed):
                raise ProgramError(
                    f"site '{name}' ({own.distribution}): expected elements of plate '{plate}' that can be summed out side by side; "
                    f"they meet at site '{term[1]}'. Add '{name}' to the guide."
                )


def _check_order(facts: Facts, summed: Sequence[Site], reads: Mapping[Term, tuple[str, ...]]) -> None:
    """What is left when a site is summed out must stand in no plate but the site's: its elements would share one value."""
    tables = [set(names) for names in reads.values()]
    for site in summed:
        over = set().union(*(table for table in tables if site.name in table)) - {site.name}
        tables = [*(table for table in tables if site.name not in table), over]
        for name in sorted(over):
            for plate in sorted(_wide(facts.sites["model", name]) - set(site.plates)):
                raise ProgramError(
                    f"site '{site.name}' ({site.distribution}): expected plates that nest around what is summed out together; got "
                    f"'{name}' in plate '{plate}', where '{site.name}' is not, though one distribution depends on both. Add "
                    f"'{site.name}' to the guide."
                )


def _wide(site: Site) -> set[str]:
    """The plates in which a site has more than one element."""
    width = len(site.batch_shape)
    return {plate for plate, dim in site.plates.items() if width >= -dim and site.batch_shape[dim] > 1}


def _roots(names: list[str], groups: Collection[tuple[str, ...]]) -> dict[str, str]:
    """Site -> the last of those that are connected to it by terms."""
    root = {name: name for name in names}
    for group in groups:
        joined = {root[name] for name in group}
        last = max(joined, key=names.index)
        root = {name: last if own in joined else own for name, own in root.items()}
    return root


def _reduced(facts: Facts, sums: Sums) -> Facts:
    """One observed term for each group in place of its members."""
    sites, mixes = dict(facts.sites), set(facts.mixes)
    for root in dict.fromkeys(sums.root.values()):
        members = [term for term, names in sums.reads.items() if sums.root[names[0]] == root]
        own = {site.name for site in sums.sites}
        reach = merge(*(facts.sites[term].reach for term in members))
        kept = {source: path for source, path in reach.items() if source not in own}
        kept |= {name: Path() for _, name in members if ("guide", name) in sites}  # the density of a proposed value
        moving = frozenset().union(*(facts.sites[term].moving for term in members)) - own
        final = replace(facts.sites["model", root], observed=True, reach=kept, moving=moving)
        mixes |= {(name, final.term, plate) for name, term, plate in facts.mixes if term in members}
        for term in members:
            sites.pop(term)
        sites[final.term] = final
    gone = {site.name for site in sums.sites}
    return replace(facts, sites=sites, mixes=frozenset(m for m in mixes if m[0] not in gone and m[1] in sites))


class _Table(NamedTuple):
    """A factor: `array` is (levels of each site of `over`, ..., batch dimensions)."""

    over: tuple[str, ...]
    array: Array
    plates: Mapping[str, int]


def describe_sums(facts: Facts) -> list[str]:
    """What the plan says of them."""
    if facts.summed is None:
        return []
    sums, _ = facts.summed
    sites = ", ".join(f"{site.name} ({site.distribution}, {site.size} levels)" for site in reversed(sums.sites))
    return [f"summed out exactly, by {sums.trials.number} runs of the model: {sites}"]


def sum_out(xp: Namespace, facts: Facts, first: Run, again: Callable[[Mapping[str, Any]], Run]) -> Run:
    """The run with each group's terms replaced by the log of their sum.

    Args:
        xp: array namespace.
        facts: from `plan_sums`.
        first: a run; the values its guide drew stay.
        again: (summed sites' choices) -> the model run on those values.
    """
    if facts.summed is None:
        return first
    sums, facts = facts.summed
    runs = {digits: again(sums.trials.choices(digits)) for digits in sums.trials}
    factor = {plate: value for found in first.factors.values() for plate, value in found.items()}
    batch = max((-dim for term in sums.reads for dim in facts.sites[term].plates.values()), default=0)
    tables = [_tabulate(xp, sums, facts, term, runs, factor, batch) for term in sums.reads]
    terms = {term: value for term, value in first.terms.items() if term not in sums.reads}
    for site in sums.sites:
        with_it = [table for table in tables if site.name in table.over]
        tables = [table for table in tables if site.name not in table.over]
        joined = _eliminate(xp, site, with_it, factor, batch)
        if joined.over:
            tables.append(joined)
        else:
            scale = math.prod(factor.get(plate, 1.0) for plate in joined.plates)
            terms["model", sums.root[site.name]] = (
                terms.get(("model", sums.root[site.name]), 0.0) + scale * joined.array
            )
    return replace(first, terms=terms)


def part_of_sum(site: Site, plate: str) -> ProgramError:
    """What to say where a part of a plate would stand for all of it inside a sum's logarithm."""
    return ProgramError(
        f"site '{site.name}' ({site.distribution}): expected all elements of plate '{plate}' at once, as one sum runs over all of "
        f"them; got a batch or a subsample. Take the whole data, or add '{site.name}' to the guide."
    )


def _tabulate(
    xp: Namespace,
    sums: Sums,
    facts: Facts,
    term: Term,
    runs: Mapping[Any, Run],
    factor: Mapping[str, float],
    batch: int,
) -> _Table:
    over, plates = sums.reads[term], facts.sites[term].plates
    scale = math.prod(factor.get(plate, 1.0) for plate in plates)

    def cell(digits: tuple[int, ...]) -> Array:
        value: Array = runs[digits].terms[term]
        return value / scale

    array = sums.trials.table(xp, over, batch, cell)
    if term[1] in over and facts.sites[term].masked:  # where it does not count its values would sum to their number
        array = array - xp.logsumexp(array, axis=over.index(term[1]), keepdims=True)
    return _Table(over, array, plates)


def _eliminate(xp: Namespace, site: Site, tables: list[_Table], factor: Mapping[str, float], batch: int) -> _Table:
    """The log of the sum over one site of the product of the tables that read it."""
    over = tuple(dict.fromkeys(name for table in tables for name in table.over))
    total: Any = 0.0
    for table in tables:
        inner = {plate: dim for plate, dim in table.plates.items() if plate not in site.plates}
        array = table.array
        for plate, dim in inner.items():  # elements of inner plates are independent given the site
            if factor.get(plate, 1.0) != 1.0:
                raise part_of_sum(site, plate)
            array = xp.sum(array, axis=dim, keepdims=True)
        total = total + align(xp, array, table.over, over)
    summed = xp.logsumexp(total, axis=over.index(site.name))
    return _Table(tuple(name for name in over if name != site.name), summed, site.plates)
