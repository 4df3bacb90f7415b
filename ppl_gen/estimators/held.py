"""No estimator: the objective takes values as they were drawn."""

from __future__ import annotations

from ppl_gen.estimators.base import Estimator
from ppl_gen.program import Facts, Site


class Held(Estimator):
    """Stands in the plan of an objective that differentiates at fixed values, such as wake-sleep.

    Example:
        >>> Held()
        Held()
    """

    unbiased = False
    needs = "an objective that differentiates at fixed values"
    source = "none"
    cuts = True
    alone = True

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        return "only an objective can say that no estimator is needed"
