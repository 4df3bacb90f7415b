"""Exact expectation over a small finite support."""

from __future__ import annotations

from ppl_gen.estimators.base import Estimator, refuse_meeting
from ppl_gen.program import Facts, Site


class Enumerate(Estimator):
    """Every value of the site is tried and weighted by its probability: no variance from this site.

    The elements of a plate are tried side by side, which is exact as long as they do not move one another's cost. Of
    several such sites only those that some term reads together are tried together, so that a chain of any length with K
    levels takes K^2 runs; those that move other draws are tried jointly. Marking a site in the program
    (``infer={"enumerate": "parallel"}``, or Pyro's ``config_enumerate`` around the guide) asks for the same.

    Args:
        max_size: the largest number of values that is still tried.

    Source: book section 20.9.1 (the expectation itself, eq. 20.59).

    Example:
        >>> Enumerate(max_size=8).max_size
        8
    """

    unbiased = True
    needs = "a finite support, and plate elements that do not move one another's cost"
    source = "book eq. 20.59"
    cuts = True  # the value is fixed, and log q weighs it
    alone = True
    enumerates = True

    def __init__(self, max_size: int = 64) -> None:
        self.max_size = max_size

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if site.support != "finite":
            return "its support is not finite"
        if site.size is None or site.size > self.max_size:
            return f"one element has {site.size or 'too many'} values, more than max_size={self.max_size}"
        return refuse_meeting(site, facts)

    def cost(self, site: Site) -> int:
        """See `Estimator.cost`."""
        return site.size or 1
