"""One run of a Pyro program under our own recorder: parameters supplied, values replayed, densities taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import Independent

from ppl_gen.backends.torch.distributions import divergence, features, log_masses, parameters
from ppl_gen.backends.torch.masks import unmasked
from ppl_gen.backends.torch.supports import seen
from ppl_gen.errors import ProgramError
from ppl_gen.program import PLATE, Batch, Choice, Draw, Run

LONGEST_LOOP = 1000  # elements of a plate that a Python loop goes through, all of which are taken


class StartAgain(ProgramError):
    """A plate was found, in a first run, that must be treated in another way from its beginning on."""


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
        judging: take a plate's rows for what the batch says, and not for a part of the plate's own size.
        loops: subsampled plates that a Python loop goes through, name -> full size: all their elements are taken, as
            the sites of a subsample have other names in each run. New ones are added.
        leaves: give every real latent a gradient, for a program that differentiates by it.
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
    judging: bool = False
    loops: dict[str, int] = field(default_factory=dict)
    leaves: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is None:  # no handler of the user's has given it
            msg["value"], msg["done"] = self.param(msg), True

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            self._pyro_indices(msg)
            return
        name = msg["name"]
        if self.predictive and msg["is_observed"] and not is_bookkeeping(msg):
            self.run.shown[name] = msg["value"]
            msg.update(is_observed=False, value=None, done=False)
        if not msg["is_observed"] and name in self.fixed:
            msg["value"], msg["done"] = fixed_value(self.fixed[name], msg["fn"]), True

    def _pyro_indices(self, msg: Any) -> None:
        """Which elements a plate takes: those that are given, the batch's own rows, or all of a Python loop's."""
        name, fn = msg["name"], msg["fn"]
        rows: Any = self.batch.rows
        if msg["value"] is not None:
            return
        if name in self.loops and fn.subsample_size not in (None, fn.size):
            msg["value"], msg["done"] = Everything(fn.size, fn.subsample_size), True
        elif PLATE + name in self.fixed:
            msg["value"], msg["done"] = self.fixed[PLATE + name], True
        elif rows is not None and name in (self.row_plates or ()) and rows.shape[0] == fn.subsample_size != fn.size:
            if round(self.batch.scale * rows.shape[0]) == fn.size:
                msg["value"], msg["done"] = torch.as_tensor(rows, device=fn.device), True

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if isinstance(msg["fn"], _Subsample):
            if msg["fn"].subsample_size not in (None, msg["fn"].size) and name not in self.loops:
                self.run.values[PLATE + name] = msg["value"]
            return
        self._whole_loops(msg)
        fill_plates(msg)
        msg["mask"] = copied(msg["mask"])
        if self.role == "guide" and name in self.cut:
            # outside every trace the user holds: what is recorded and what the program goes on with are the same
            msg["value"] = msg["value"].detach()
        if self.leaves and not msg["is_observed"] and _is_plain(msg["value"]):
            msg["value"] = msg["value"].detach().requires_grad_()
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
        log_prob = log_density(msg)
        frames = [f for f in msg["cond_indep_stack"] if f.vectorized]
        rows = next((p for p in plates if p in (self.row_plates or ())), None)
        own = next(((f.full_size or f.size) / f.size for f in frames if f.name == rows), 1.0)
        scale, share = copied(msg["scale"]), self._share(own) if self.row_plates is None or rows else 1.0
        if share != 1.0:
            scale = scale * share
        self.run.factors[self.role, name] = {
            f.name: (f.full_size or f.size) / f.size * (share if f.name == rows else 1.0) for f in frames
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

    def _share(self, own: float) -> float:
        """What is still to be done to scale a batch's rows to the data's, where their plate scales by `own` itself."""
        if own == 1.0:
            return self.batch.scale
        return self.batch.scale / own if self.judging else 1.0

    def _whole_loops(self, msg: Any) -> None:
        """All elements of a plate that a Python loop goes through, without the scale of a subsample."""
        frames = list(msg["cond_indep_stack"])
        for place, frame in enumerate(frames):
            full = frame.full_size or frame.size
            if frame.vectorized or frame.size == full:
                continue
            if frame.name not in self.loops:
                self._meet_loop(frame.name, full)
            frames[place] = frame._replace(size=full)
            msg["scale"] = msg["scale"] * (frame.size / full)
        msg["cond_indep_stack"] = tuple(frames)

    def _meet_loop(self, name: str, full: int) -> None:
        if full > LONGEST_LOOP:
            raise ProgramError(
                f"plate '{name}': expected at most {LONGEST_LOOP} elements in a Python loop, which are all taken as the sites of a "
                f"subsample have other names in each run; got {full}. Use it as a context: with pyro.plate(...) as indices."
            )
        self.loops[name] = full
        raise StartAgain(
            f"plate '{name}': expected the same plates in every run; got a Python loop over a subsample in some runs only. "
            "State it in every run."
        )

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


class Everything(list[int]):
    """All of a plate's indices, of the length that the plate expects of a subsample."""

    def __init__(self, size: int, length: int) -> None:
        super().__init__(range(size))
        self.length = length

    def __len__(self) -> int:
        return self.length


def fill_plates(msg: Any) -> None:
    """Give plates without a size that of the site's tensors, and widen a distribution to them, as Pyro does to others."""
    if not any(frame.vectorized and frame.size == -1 for frame in msg["cond_indep_stack"]):
        return
    num_event = len(msg["fn"].event_shape)
    value = torch.as_tensor(msg["value"])
    batch = torch.broadcast_shapes(msg["fn"].batch_shape, value.shape[: value.dim() - num_event])
    if batch != msg["fn"].batch_shape:
        msg["fn"] = msg["fn"].expand(batch)

    def filled(frame: Any) -> Any:
        if not frame.vectorized or frame.size != -1:
            return frame
        size = batch[frame.dim] if len(batch) >= -frame.dim else 1
        return frame._replace(size=size, full_size=size)

    msg["cond_indep_stack"] = tuple(map(filled, msg["cond_indep_stack"]))


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.requires_grad


def copied(value: Any) -> Any:
    """A tensor as it is now: the program may write to it between this site and the gradient."""
    return value.clone() if isinstance(value, Tensor) else value


def log_density(msg: Any) -> Tensor:
    """The log density of a site's value, nats, before the masks and scales around it.

    What no mask lets count may hold anything, NaN too.
    """
    value = msg["value"]
    if msg["is_observed"] and isinstance(value, Tensor) and not is_bookkeeping(msg):
        value = seen(msg["fn"], msg["mask"], value)
    with _settled(msg["fn"]):
        log_prob: Tensor = msg["fn"].log_prob(value, *msg["args"], **msg["kwargs"])
    return log_prob


@contextmanager
def _settled(distribution: Any) -> Iterator[None]:
    """Without checks of values, which a distribution made outside of the program may do, and with masks as they are now."""
    with ExitStack() as stack:
        while distribution is not None:
            own = vars(distribution)
            if own.get("_validate_args"):
                stack.callback(setattr, distribution, "_validate_args", True)
                distribution._validate_args = False
            if isinstance(own.get("_mask"), Tensor):
                stack.callback(setattr, distribution, "_mask", own["_mask"])
                distribution._mask = own["_mask"].clone()
            distribution = getattr(distribution, "base_dist", None)
        yield


def plate_sum(log_prob: Tensor, plates: Mapping[str, int]) -> Tensor:
    """Sum over the batch dimensions that belong to no plate, kept with size 1."""
    if not isinstance(log_prob, Tensor):
        return torch.as_tensor(float(log_prob))
    free = [dim for dim in range(-log_prob.dim(), 0) if dim not in plates.values() and log_prob.shape[dim] != 1]
    return log_prob.sum(free, keepdim=True) if free else log_prob
