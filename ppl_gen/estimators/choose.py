"""From the facts about a site to its estimator and the reason: a pure function."""

from __future__ import annotations

from ppl_gen.errors import ProgramError
from ppl_gen.estimators.base import Estimator, refuse_flow
from ppl_gen.estimators.enumerate import Enumerate
from ppl_gen.estimators.leave_one_out import LeaveOneOut
from ppl_gen.estimators.pathwise import Pathwise
from ppl_gen.estimators.score import Score
from ppl_gen.program import Facts, Site


def choose(site: Site, facts: Facts, num_particles: int, asked: Estimator | None = None) -> tuple[Estimator, str]:
    """(estimator, reason) for one latent site of the guide.

    Args:
        site: the site.
        facts: of the whole program.
        num_particles: draws per step.
        asked: what the user asked for, if anything.

    Raises:
        ProgramError: what was asked for would be wrong here, or nothing is right.
    """
    if asked is not None:
        return _checked(asked, site, facts, num_particles), "as asked"
    if site.marked:
        against = refuse(Enumerate(), site, facts, num_particles)
        if against is None:
            return Enumerate(), "marked for enumeration in the program"
    smooth = Pathwise()
    why_not = smooth.refusal(site, facts, num_particles)
    if why_not is None and site.is_point and facts.jump(site.name):
        return smooth, "a point mass: no choice of its own, so that its jumps are those of the choices before it"
    if why_not is None:
        return smooth, f"{site.distribution} is reparametrized and every way to the cost is differentiable"
    score: Estimator = LeaveOneOut() if num_particles > 1 else Score()
    against = score.refusal(site, facts, num_particles)
    if against is not None:
        advice = f"Write the steps of {site.flow} as a Python loop" if site.flow else "Reparametrize the site"
        raise ProgramError(
            f"site '{site.name}' ({site.distribution}): expected an estimator that is right here; got none: not Pathwise, as "
            f"{why_not}; not {type(score).__name__}, as {against}. {advice} or smooth the cost."
        )
    return score, why_not


def refuse(estimator: Estimator, site: Site, facts: Facts, num_particles: int) -> str | None:
    """Why an estimator would be wrong for a site, or cannot be had there; None where it is right."""
    flow = None if estimator.pathwise else refuse_flow(site)
    return flow or estimator.refusal(site, facts, num_particles)


def _checked(asked: Estimator, site: Site, facts: Facts, num_particles: int) -> Estimator:
    if not isinstance(asked, Estimator):
        raise TypeError(
            f"estimators['{site.name}']: expected an estimator instance such as Score(); got {asked!r}. "
            "Pass an instance from ppl_gen.estimators."
        )
    refusal = refuse(asked, site, facts, num_particles)
    if refusal is not None:
        raise ProgramError(
            f"site '{site.name}' ({site.distribution}): expected an estimator that is right here; got {asked!r}, but {refusal}. "
            "Use another one, or leave the choice to ppl_gen."
        )
    return asked
