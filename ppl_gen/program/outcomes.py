"""What the paths of a program, read one by one, say together; and what must be assumed where not all were read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ppl_gen.errors import ProgramError
from ppl_gen.program import PARAM, Path, Site, Term, merge

SAME = ("support", "size", "observed", "plates", "event_shape")


def united(paths: Sequence[Mapping[Term, Site]]) -> dict[Term, Site]:
    """Sites that are reached by whatever reaches them on some path.

    Args:
        paths: the sites on each path, the same ones on all.

    Raises:
        ProgramError: a latent that is of another kind on another path.
    """
    sites = dict(paths[0])
    for other in paths[1:]:
        for term, site in other.items():
            sites[term] = _joined(sites[term], site)
    return sites


def _joined(site: Site, other: Site) -> Site:
    for name in SAME:
        if not site.observed and getattr(site, name) != getattr(other, name):
            raise ProgramError(
                f"site '{site.name}' ({site.distribution}): expected one kind of site in every run; got another {name} "
                f"({getattr(site, name)} and {getattr(other, name)}) where the program turns on a random value. "
                "Give each its own name, and mask it where it does not count."
            )
    return replace(
        site,
        reach=merge(site.reach, other.reach),
        moving=site.moving | other.moving,
        reparametrized=site.reparametrized and other.reparametrized,
        scaled=site.scaled or other.scaled,
        masked=site.masked or other.masked,
    )


def widened(
    sites: Mapping[Term, Site], after: Collection[Term], latents: Collection[str], params: Iterable[str], where: str
) -> dict[Term, Site]:
    """Sites after a reading whose outcomes are not all known: all that was drawn before may reach them, and jump.

    Args:
        sites: in order of execution.
        after: the terms in question.
        latents: names of latents.
        params: names of parameters.
        where: of the reading.
    """
    found: dict[Term, Site] = {}
    drawn: dict[str, Path] = {}
    learned = {PARAM + name: Path() for name in params}
    for term, site in sites.items():
        before = {name: path for name, path in drawn.items() if name != site.name}
        found[term] = replace(site, reach=merge(site.reach, before, learned)) if term in after else site
        if site.name in latents:
            drawn[site.name] = Path(where)
    return found


BY_DATA = "the program reads data on the host (Python control flow or NumPy): what was read of some batches is taken to hold of all"

PRINTED = "values that change from step to step are made into text at {}, to be read by people: nothing read back from it is followed"


def told(where: str | None, runs: int, unfinished: str | None) -> tuple[str, ...]:
    """What the plan says of it."""
    if where is None:
        return ()
    if unfinished is None:
        return (
            f"values that change from step to step are read on the host at {where}: every outcome was followed, in {runs} "
            "runs of the program",
        )
    return (
        f"values that change from step to step are read on the host at {where}, and not every outcome was followed, as {unfinished}: "
        "all that comes after counts in every signal, and no gradient is let through to it",
    )
