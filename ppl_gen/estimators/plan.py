"""The plan: site -> estimator, reason, cost, measured variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.elimination.expectations import Enumeration, enumeration
from ppl_gen.elimination.sums import describe_sums, plan_sums
from ppl_gen.errors import ProgramError
from ppl_gen.estimators.base import Estimator
from ppl_gen.estimators.choose import choose, refuse
from ppl_gen.estimators.enumerate import Enumerate
from ppl_gen.estimators.likelihood import describe_masks, lone_masks, refuse_likelihood, unlearned
from ppl_gen.program import PARAM, Facts, Term

COMPARISONS = ("gt", "ge", "lt", "le")
MOST_TRIED = 1024  # runs of the program that enumeration may take


@dataclass(frozen=True)
class Row:
    """One latent site's entry.

    Attributes:
        site: its name.
        distribution: its distribution's class name.
        estimator: how its gradient is estimated.
        reason: why.
        cost: runs of the program per particle.
        variance: measured variance of the gradient; None until measured.
        terms: the cost terms in its signal, each with the plates summed over.
    """

    site: str
    distribution: str
    estimator: Estimator
    reason: str
    cost: int
    variance: float | None
    terms: Mapping[Term, frozenset[str]]

    @property
    def depends(self) -> frozenset[str]:
        """Names of the sites whose cost terms this site moves."""
        return frozenset(name for _, name in self.terms)

    @property
    def summed_plates(self) -> frozenset[str]:
        """Plates whose elements mix on the way to some term, so that the signal sums over them."""
        return frozenset(plate for mixed in self.terms.values() for plate in mixed)


class Plan:
    """What each latent site got, and why. `plan["z"]` is one `Row`; `print(plan)` is a table."""

    def __init__(
        self, rows: Mapping[str, Row], facts: Facts, num_particles: int = 1, notes: tuple[str, ...] = ()
    ) -> None:
        self.rows, self.facts, self.num_particles, self.notes = dict(rows), facts, num_particles, notes

    @property
    def enumeration(self) -> Enumeration:
        """How the sites under `Enumerate` are tried."""
        tried = [name for name, row in self.rows.items() if row.estimator.enumerates]
        return enumeration(self.facts, {name: row.terms for name, row in self.rows.items()}, tried)

    @property
    def cost_is(self) -> str:
        """What the cost of a program without latents is."""
        return "exact likelihood" if refuse_likelihood(self.facts) is None else "a cost that is no likelihood"

    def __getitem__(self, site: str) -> Row:
        if site not in self.rows:
            raise KeyError(f"site '{site}': expected one of {sorted(self.rows)}.")
        return self.rows[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, site: object) -> bool:
        return site in self.rows

    def lacks(self, other: Plan) -> str | None:
        """What the same program, read another time with these estimators, needs beyond this plan; None if nothing."""
        ours, theirs = (plan.facts.whole.sites for plan in (self, other))
        for term in ours.keys() & theirs.keys():
            if ours[term].observed != theirs[term].observed:
                kinds = ("observed", "latent") if ours[term].observed else ("latent", "observed")
                return (
                    f"site '{term[1]}': expected it to be {kinds[0]}, as at first; it is {kinds[1]}. Give what is seen in part "
                    "with obs_mask="
                )
        if set(self) != set(other):
            return f"expected the latent sites {sorted(self)}; got {sorted(other)}"
        for name, row in self.rows.items():
            for term, plates in other[name].terms.items():
                if term not in row.terms:
                    return f"site '{name}': expected it to move what it moved at first; it moves site '{term[1]}' too"
                if not plates <= row.terms[term]:
                    mixed = ", ".join(sorted(plates - row.terms[term]))
                    return f"site '{name}': expected elements that keep to themselves; they mix in plate '{mixed}'"
        return None

    def __str__(self) -> str:
        head = ("site", "distribution", "estimator", "cost", "variance", "reason")
        lines = [
            (
                r.site,
                r.distribution,
                repr(r.estimator),
                str(r.cost),
                "-" if r.variance is None else f"{r.variance:.3g}",
                r.reason,
            )
            for r in self.rows.values()
        ]
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [head, *lines]
        ]
        if not lines:
            table = [f"no latent sites: {self.cost_is}, plain gradient"]
        return "\n".join([*table, *self.notes])

    __repr__ = __str__

    def to_frame(self) -> Any:
        """The table as a pandas DataFrame, indexed by site."""
        import pandas

        fields = ("site", "distribution", "estimator", "reason", "cost", "variance")
        return pandas.DataFrame(
            [{f: getattr(r, f) for f in fields} for r in self.rows.values()], columns=fields
        ).set_index("site")


def make_plan(facts: Facts, estimators: Mapping[str, Estimator] | None = None, num_particles: int = 1) -> Plan:
    """Choose for every latent site.

    Args:
        facts: of the program.
        estimators: site name (or ``"*"``) -> estimator, where the user has asked for one.
        num_particles: draws per step.

    Raises:
        ProgramError: an unknown site, an estimator that would be wrong, or more values than can be tried.
    """
    facts, asked = plan_sums(facts), dict(estimators or {})
    names = [site.name for site in facts.latents()]
    for name in asked:
        if name != "*" and name not in names:
            raise ProgramError(
                f"estimators: expected latent sites of the guide, {names}; got '{name}'. Correct the name."
            )
    rows = {}
    for site in facts.latents():
        wanted = asked.get(site.name)
        if wanted is None and "*" in asked:
            wanted = asked["*"]
            if refuse(wanted, site, facts, num_particles) is not None:
                wanted = None  # "*" means: wherever it is right
        estimator, reason = choose(site, facts, num_particles, wanted)
        rows[site.name] = Row(
            site.name, site.distribution, estimator, reason, estimator.cost(site), None, facts.downstream(site.name)
        )
    notes = [f"runs eagerly: {facts.eager} leaves the array library"] if facts.eager else []
    plan = Plan(
        rows,
        facts,
        num_particles,
        (
            *describe_sums(facts),
            *_describe_marks(facts, rows),
            *describe_masks(facts),
            *_describe_mixing(rows),
            *_describe_cost(facts),
            *_lost_ways(facts),
            *_kinks(facts),
            *facts.notes,
            *notes,
        ),
    )
    _check_enumeration(plan.enumeration)
    tried = [*plan.enumeration.sites, *(site.name for site in (facts.summed[0].sites if facts.summed else ()))]
    if facts.noise and not facts.noise_shared and (len(plan.enumeration.sites) > 1 or facts.summed):
        raise ProgramError(
            f"site '{next(iter(tried), '')}': expected values that are tried under the same noise; got a program that draws random "
            f"numbers of its own at {facts.noise}. Draw them in a sample statement, switch dropout off, or use Score()."
        )
    return plan


def _check_enumeration(found: Enumeration) -> None:
    most = max(found.runs, found.largest)
    if most > MOST_TRIED:
        name, site = next(iter(found.sites.items()))
        what = "runs of the program" if found.runs == most else "cells in one table"
        raise ProgramError(
            f"site '{name}' ({site.distribution}): expected enumerated sites that take at most {MOST_TRIED} runs, or cells "
            f"in one table; got {len(found.sites)} sites that take {most} {what}. Use Score() or LeaveOneOut() at some of them."
        )


def _describe_mixing(rows: Mapping[str, Row]) -> list[str]:
    """Where elements of a plate may move one another's cost, so that each one's signal holds them all."""
    notes = []
    for name, row in rows.items():
        for plate in sorted(row.summed_plates if row.estimator.cuts else ()):
            met = sorted({site for (_, site), mixed in row.terms.items() if plate in mixed})
            where = ", ".join(f"'{site}'" for site in met)
            notes.append(
                f"site '{name}': elements of plate '{plate}' may meet at site {where}; the signal sums over the plate"
            )
    return notes


def _lost_ways(facts: Facts) -> list[str]:
    """Parameters that decide, with a random value, on which side of a jump a draw falls."""
    lost: dict[str | None, dict[str, None]] = {}
    for site in facts.sites.values():
        for name, path in site.reach.items():
            if path.beside:
                lost.setdefault(path.jump, {})[f"'{name.removeprefix(PARAM)}'"] = None
    return [
        f"param {', '.join(sorted(names))}: one way to the cost jumps at {where}, where a random value comes in too; if that is "
        "a step, and not the kink of a continuous function, its derivative is not followed. Move the parameter into a latent's "
        "distribution"
        for where, names in lost.items()
    ]


def _kinks(facts: Facts) -> list[str]:
    """Continuous latents whose cost jumps, by the reading, at a comparison: it may be the kink of a continuous function."""
    own = [s for s in facts.latents() if s.support == "real" and s.reparametrized and not s.is_point]
    jumps = {site.name: facts.jump(site.name) for site in own}
    return [
        f"site '{name}': if the function at {where} is continuous there (a kink, no step), write it with relu, abs, maximum "
        "or clip; their derivatives are followed, and the pathwise gradient is less noisy"
        for name, where in jumps.items()
        if where is not None and where.rsplit(": ", 1)[-1] in COMPARISONS
    ]


def _describe_cost(facts: Facts) -> list[str]:
    """What to say where the loss is no likelihood of data, nor a bound on one; masks have a line of their own."""
    why = refuse_likelihood(facts) if not lone_masks(facts) else None
    nothing = unlearned(facts)
    return [*([f"no likelihood: {why}"] if why else []), *([nothing] if nothing else [])]


def _describe_marks(facts: Facts, rows: Mapping[str, Row]) -> list[str]:
    """Marks for enumeration that are not followed, each with the reason."""
    left = []
    for site in facts.whole.sites.values():
        row = rows.get(site.name)
        if not site.marked or site.observed or row is None or row.estimator.enumerates:
            continue
        if site.role == "guide":
            why = refuse(Enumerate(), site, facts, 1) or f"{row.estimator!r} is asked for"
        elif facts.sites["guide", site.name].marked:
            continue
        else:
            why = f"it cannot be summed out ({facts.unsummed})" if facts.unsummed else "the guide proposes it, unmarked"
        left.append(f"site '{site.name}': marked for enumeration in the {site.role}, which is not followed, as {why}")
    return left
