"""Pathwise derivative through a reparametrized sample."""

from __future__ import annotations

from ppl_gen.estimators.base import Estimator
from ppl_gen.program import Facts, Site

# Where a way ends although the function may be smooth.
CUTS = frozenset(("detach", "detach_", "item", "tolist", "numpy", "stop_gradient", "no gradient", "threading"))


class Pathwise(Estimator):
    """The gradient passes through the value itself, implicit reparametrization (gamma, beta, Dirichlet) included.

    Right only where the cost is continuous in the value, which the plan proves from the program or else refuses. A
    derivative that the program declares itself (``torch.autograd.Function``, ``jax.custom_vjp``) proves nothing.

    Args:
        trusted: True takes the user's word for it: the cost is continuous in the site's value, a sampler of the user's own
            in its parameters, and the derivatives that the program declares are right.

    Source: Kingma & Welling 2014; Rezende et al. 2014; Figurnov et al. 2018; book eq. 20.55-20.57.

    Example:
        >>> Pathwise().unbiased
        True
        >>> {"z": Pathwise(trusted=True)}  # as estimators=, where z passes through a function with a derivative of its own
        {'z': Pathwise(trusted=True)}
    """

    unbiased = True
    needs = "a continuous support, a reparametrized sampler, a cost without jumps"
    source = "book eq. 20.55-20.57"
    cuts = False
    alone = True
    pathwise = True

    def __init__(self, trusted: bool = False) -> None:
        self.trusted = trusted

    def __repr__(self) -> str:
        return f"Pathwise({'trusted=True' if self.trusted else ''})"

    def refusal(self, site: Site, facts: Facts, num_particles: int) -> str | None:
        """See `Estimator.refusal`."""
        if site.support != "real":
            return "its values are discrete, so no gradient passes through them"
        if not site.reparametrized and not (site.rough and self.trusted):
            return site.rough or f"{site.distribution} has no reparametrized sampler"
        if site.is_point and not site.learns:
            return None  # whatever its value decides is decided by the choices before it
        jump = None if self.trusted else facts.jump(site.name)
        if jump is None:
            return None
        if jump.rsplit(": ", 1)[-1].rsplit(".", 1)[-1] in CUTS:
            return f"no gradient passes from its value to the cost at {jump}"
        return f"the cost jumps with its value at {jump}"
