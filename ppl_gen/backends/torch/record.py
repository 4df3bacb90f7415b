"""One run of a Pyro program under our own recorder: parameters supplied, values replayed, densities taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import Independent

from ppl_gen.backends.torch.distributions import divergence, features, log_masses, parameters, unmasked
from ppl_gen.program import PLATE, Batch, Choice, Draw, Run


def choose(distribution: Any, index: int) -> Tensor:
    """The `index`-th value of a finite distribution, at every batch element."""
    core = distribution = unmasked(distribution)
    while isinstance(core, Independent):
        core = core.base_dist
    values = core.enumerate_support(expand=False)
    values = values.reshape((len(values),) + core.event_shape)
    num_elements = math.prod(distribution.event_shape) // math.prod(core.event_shape)
    digits = [(index // len(values) ** place) % len(values) for place in range(num_elements)]
    value = values[torch.tensor(digits, device=values.device)].reshape(distribution.event_shape)
    return value.expand(distribution.batch_shape + distribution.event_shape).clone()


def fixed_value(value: Any, distribution: Any) -> Any:
    """The value that stands for, or is, `value` at a site of this distribution."""
    if isinstance(value, Choice):
        return choose(distribution, value.number)
    if isinstance(value, Draw):
        masses = log_masses(distribution)
        return value.make(masses, torch.rand_like(masses))
    return value


@dataclass(eq=False)
class Recorder(Messenger):
    """Outermost handler of one program run; it fills `run`.

    Attributes:
        role: "guide" or "model".
        run: what is being filled.
        batch: its scale applies to every plate named in `row_plates` (to everything where that is None).
        param: supplies a parameter's value for a param message.
        fixed: latent site (or ``plate:`` name) -> value or `Choice` to be used instead of a draw.
        cut: latent sites whose values pass no gradient and whose log q is wanted.
        row_plates: plates that stand for the rows of the data.
        observer: called with (role, message, plates) after each sample statement; densities are then not taken.
        predictive: draw the observed sites too.
    """

    role: str
    run: Run
    batch: Batch
    param: Callable[[Any], Tensor]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    cut: Collection[str] = ()
    row_plates: Collection[str] | None = ()
    observer: Callable[[str, Any, dict[str, int]], None] | None = None
    predictive: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is None:  # no handler of the user's has given it
            msg["value"], msg["done"] = self.param(msg), True

    def _pyro_sample(self, msg: Any) -> None:
        name = PLATE + msg["name"] if isinstance(msg["fn"], _Subsample) else msg["name"]
        if self.predictive and msg["is_observed"] and not is_bookkeeping(msg):
            self.run.shown[name] = msg["value"]
            msg.update(is_observed=False, value=None, done=False)
        if not msg["is_observed"] and name in self.fixed:
            msg["value"], msg["done"] = fixed_value(self.fixed[name], msg["fn"]), True

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if isinstance(msg["fn"], _Subsample):
            if msg["fn"].subsample_size not in (None, msg["fn"].size):
                self.run.values[PLATE + name] = msg["value"]
            return
        if self.role == "guide" and name in self.cut:
            # outside every trace the user holds: what is recorded and what the program goes on with are the same
            msg["value"] = msg["value"].detach()
        self.run.records[name] = msg["value"]
        if msg["infer"].get("_deterministic"):
            return
        plates = {frame.name: frame.dim for frame in msg["cond_indep_stack"] if frame.vectorized}
        if self.observer is not None:
            self.observer(self.role, msg, plates)
        if self.role == "guide" and not msg["is_observed"]:
            self.run.values[name] = msg["value"]
        if self.observer is None:
            self._densities(name, msg, plates)

    def _densities(self, name: str, msg: Any, plates: dict[str, int]) -> None:
        with unchecked(msg["fn"]):
            log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        scale, rows = msg["scale"], next((p for p in plates if p in (self.row_plates or ())), None)
        if self.batch.scale != 1.0 and (self.row_plates is None or rows):
            scale = scale * self.batch.scale
        frames = [f for f in msg["cond_indep_stack"] if f.vectorized]
        self.run.factors[self.role, name] = {
            f.name: (f.full_size or f.size) / f.size * (self.batch.scale if f.name == rows else 1.0) for f in frames
        }
        term = plate_sum(scale_and_mask(log_prob, scale, msg["mask"]), plates)
        self.run.terms[self.role, name] = term if self.role == "model" else -term
        if not msg["is_observed"]:
            self._divergence(name, msg["fn"], Weight(msg["scale"], rows, msg["mask"]), plates, scale)
        if self.role == "guide" and name in self.cut and not msg["is_observed"]:
            core = unmasked(msg["fn"])
            log_prob = log_prob if core is msg["fn"] else core.log_prob(msg["value"])
            self.run.logq[name] = plate_sum(log_prob, plates)
            self.run.inputs[name] = features(msg["fn"])
            self.run.masses[name] = partial(log_masses, msg["fn"])
            self.run.parameters[name] = partial(parameters, msg["fn"])

    def _divergence(self, name: str, fn: Any, weight: Weight, plates: dict[str, int], scale: Any) -> None:
        """Half of it in the guide, the other half in the model."""
        known = self.run.divergences
        if self.role == "guide":
            known[name] = partial(scaled_divergence, fn, weight, plates)
        elif name in known:
            known[name] = partial(known[name], fn, weight, scale)


class Weight(NamedTuple):
    """How a site's log density is weighed: by what handlers and plates scale it, on which plate of rows."""

    scale: Any
    rows: str | None
    mask: Any


def scaled_divergence(
    q: Any, weight: Weight, plates: Mapping[str, int], p: Any, other: Weight, scale: Any
) -> Tensor | None:
    """KL(q || p) as the difference of the site's two terms would be; None where it cannot stand for that."""
    plain = unmasked(q) is q and unmasked(p) is p and weight.mask is None and other.mask is None
    if not plain or weight.rows != other.rows or not same_scale(weight.scale, other.scale):
        return None
    found = divergence(q, p)
    return None if found is None else plate_sum(found * scale, plates)


def same_scale(scale: Any, other: Any) -> bool:
    """Whether two scales are one: the same number, or the same array."""
    return scale is other or (isinstance(scale, float | int) and isinstance(other, float | int) and scale == other)


def is_bookkeeping(msg: Any) -> bool:
    """Whether an observed site is no data: a factor or a deterministic value."""
    return bool(msg["infer"].get("_deterministic")) or type(unmasked(msg["fn"])).__name__ == "Unit"


@contextmanager
def unchecked(distribution: Any) -> Iterator[None]:
    """Without checks of values, which a distribution made outside of the program has been told to do."""
    checking = []
    while distribution is not None:
        if vars(distribution).get("_validate_args"):
            checking.append(distribution)
        distribution = getattr(distribution, "base_dist", None)
    for one in checking:
        one._validate_args = False
    try:
        yield
    finally:
        for one in checking:
            one._validate_args = True


def plate_sum(log_prob: Tensor, plates: Mapping[str, int]) -> Tensor:
    """Sum over the batch dimensions that belong to no plate, kept with size 1."""
    if not isinstance(log_prob, Tensor):
        return torch.as_tensor(float(log_prob))
    free = [dim for dim in range(-log_prob.dim(), 0) if dim not in plates.values() and log_prob.shape[dim] != 1]
    return log_prob.sum(free, keepdim=True) if free else log_prob
