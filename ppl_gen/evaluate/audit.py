"""What draws of a plan's gradient show when they are held against a reference, and when they show nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ppl_gen.estimators import Plan
from ppl_gen.evaluate.measure import OFTEN, Draws, Measured, luck
from ppl_gen.evaluate.relative import relative

FALSE_ALARM = 1e-3  # of a whole report
TOLERANCE = 0.1  # of each parameter's gradient: "agrees" leaves no room for a larger bias along it
LOOKS = 3  # at the draws so far, each with its share of the false alarms


@dataclass(frozen=True)
class Audit:
    """How one choice of estimators did.

    Attributes:
        name: "chosen", or the estimator that was put wherever it is right.
        plan: what each site had.
        z: parameter -> largest |mean - reference| in standard errors among its components, and along the reference.
        variance: sum over all parameters' components of a single step's gradient.
        cost: runs of the program per step.
        signal_to_noise: length of the mean gradient over the root of the variance, one step.
        components: number of components compared.
        complaint: what to try where the signal is weak; None where it is not.
        seen: how often, on average, the draws see the rarest value of a latent that is drawn.
        bias: parameter -> relative bias along the reference, as estimated: c - 1 for an estimator multiplied by c.
        resolution: parameter -> the smallest relative bias that these draws would have shown.
        broken: parameters of which a draw is NaN or infinite.
        num_samples: draws.
    """

    name: str
    plan: Plan
    z: Mapping[str, float]
    variance: float
    cost: int
    signal_to_noise: float
    components: int
    complaint: str | None
    seen: float
    bias: Mapping[str, float]
    resolution: Mapping[str, float]
    broken: tuple[str, ...]
    num_samples: int

    @property
    def bound(self) -> float:
        """What |z| stays below by luck alone: Bonferroni over all that is compared, at `FALSE_ALARM` in all."""
        return _bound(self.components, len(self.z))

    @property
    def off(self) -> list[str]:
        """Parameters whose gradient is further from the reference than luck explains, if every value was drawn often."""
        return [name for name, z in self.z.items() if z > self.bound]

    @property
    def biased(self) -> list[str]:
        """Parameters whose gradient is not the reference's, or not finite."""
        return [*self.broken, *(self.off if self.seen >= OFTEN else [])]

    @property
    def open(self) -> list[str]:
        """Parameters whose gradient may be off by more than `TOLERANCE` without having shown it, the worst first."""
        room = {name: abs(self.bias[name]) + self.resolution[name] for name in self.bias}
        return sorted((name for name in room if not room[name] <= TOLERANCE), key=lambda name: -room[name])

    @property
    def ok(self) -> bool | None:
        """True where all gradients agree, False where one is biased, None where the draws cannot tell."""
        if self.biased:
            return False
        return None if self.off or self.open or self.seen < OFTEN else True

    @property
    def verdict(self) -> str:
        """In words."""
        if self.broken:
            return "not finite: " + ", ".join(self.broken)
        if self.seen < OFTEN:
            return f"inconclusive: the rarest value is drawn {self.seen:.2g} times; take more samples"
        if self.biased:
            return "biased: " + ", ".join(self.biased)
        if self.open:
            worst = self.open[0]
            least = self.resolution[worst]
            what = f"a bias below {least:.0%} at {worst}" if least < 10 else f"any bias at {worst}, lost in noise,"
            return f"inconclusive: {what} would not have shown"
        return f"agrees within {TOLERANCE:.0%}"


def _bound(components: int, parameters: int) -> float:
    return luck(LOOKS * (components + parameters), FALSE_ALARM)


def audited(name: str, found: Measured, truth: Draws, size: float, lowest: float) -> Audit:
    """An audit of what was measured.

    Args:
        name: of the audit.
        found: draws of the gradient.
        truth: parameter -> draws of the reference; a single one is exact.
        size: of the loss, nats.
        lowest: probability of the rarest value of a latent.
    """
    number = len(next(iter(found.draws.values()), ()))
    sampled = any(row.estimator.cuts and not row.estimator.enumerates for row in found.plan.rows.values())
    shares = {n: relative(draws, truth[n], size) for n, draws in found.draws.items()}
    each = found.z(truth, size)
    bound = _bound(found.components, len(each))
    return Audit(
        name=name,
        plan=found.plan,
        z={n: max(z, shares[n].z) for n, z in each.items()},
        variance=found.variance,
        cost=found.cost,
        signal_to_noise=found.signal_to_noise,
        components=found.components,
        complaint=found.complaint(),
        seen=lowest * number if sampled else np.inf,
        bias={n: share.bias for n, share in shares.items()},
        resolution={n: bound * share.error for n, share in shares.items()},
        broken=tuple(found.broken),
        num_samples=number,
    )


def unmeasured(name: str, plan: Plan) -> Audit:
    """The audit of a plan whose baselines broke before anything could be measured."""
    nothing = np.nan
    return Audit(name, plan, {}, nothing, 0, nothing, 0, None, np.inf, {}, {}, ("its baseline",), 0)


def needed(audit: Audit) -> float:
    """How many draws it would take to tell, to go by what these have shown; infinite where that cannot be said."""
    wanted = [audit.num_samples * OFTEN / max(audit.seen, 1e-300)]
    for name in audit.open:
        room = TOLERANCE - abs(audit.bias[name])
        wanted.append(audit.num_samples * (audit.resolution[name] / room) ** 2 if room > 0 else np.inf)
    return 1.2 * max(wanted)
