"""One run of a NumPyro program under our own recorder: parameters supplied, values replayed, densities taken."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.primitives import Messenger

from ppl_gen.backends.jax.distributions import (
    choose,
    corrected,
    divergence,
    features,
    log_masses,
    named,
    parameters,
    unmasked,
)
from ppl_gen.errors import ProgramError
from ppl_gen.program import PLATE, Batch, Choice, Draw, Run

Array = Any
DRAWN = ("sample", "plate", "control_flow")
Observer = Callable[[str, Any, dict[str, int]], None]


@dataclass(eq=False)
class Recorder(Messenger):
    """Outermost handler of one program run, outside of `numpyro.handlers.seed`; it fills `run`.

    Attributes:
        role: "guide" or "model".
        run: what is being filled.
        batch: its scale applies to every plate named in `row_plates` (to everything where that is None).
        params: a table with `value(msg)` for a known parameter (None else) and `meet(msg)` after a new one.
        fixed: latent site (or ``plate:`` name) -> value or `Choice` to be used instead of a draw.
        cut: latent sites whose values pass no gradient and whose log q is wanted.
        row_plates: plates that stand for the rows of the data.
        observer: called with (role, message, plates) after each sample statement; densities are then not taken.
        predictive: draw the observed sites too.
        key: of the noise that `Draw` is given; NumPyro's own draws have theirs.
        judging: take a plate's rows for what the batch says, and not for a part of the plate's own size.
    """

    role: str
    run: Run
    batch: Batch
    params: Any
    fixed: Mapping[str, Any] = field(default_factory=dict)
    cut: Collection[str] = ()
    row_plates: Collection[str] | None = ()
    observer: Observer | None = None
    predictive: bool = False
    key: Array = None
    judging: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._sizes: dict[str, int] = {}  # plate -> its full size
        self._given: set[str] = set()  # parameters that a handler of the user's gave a value
        self._flow = ""  # the control flow that sites last came out of

    def process_message(self, msg: Any) -> None:
        """Supply parameters, buffers and replayed values."""
        name = msg.get("name")
        if msg["type"] in DRAWN and msg["value"] is None:  # anew in every run, whatever key the program brings along
            msg["kwargs"]["rng_key"] = None
        if msg["type"] == "param":
            if msg["value"] is None:
                msg["value"] = self.params.value(name)
            else:  # a handler of the user's has given it
                self._given.add(name)
        elif msg["type"] == "mutable":
            known = self.run.buffers.get(name)
            msg["value"] = copy_tree(msg["value"]) if known is None else known
        elif msg["type"] == "plate" and PLATE + name in self.fixed:
            msg["value"] = self.fixed[PLATE + name]
        elif msg["type"] == "plate" and self._takes_rows(name, *msg["args"]):
            msg["value"] = jnp.asarray(self.batch.rows)
        elif msg["type"] == "control_flow":
            self._flow = msg["fn"].__name__.removesuffix("_wrapper")
            given = {n: v for n, v in self.fixed.items() if not isinstance(v, Choice | Draw)}
            msg["kwargs"]["substitute_stack"].append(("substitute", given))
        elif msg["type"] == "sample" and msg.get("_control_flow_done"):
            self._check_flow(name, msg)
        elif msg["type"] == "sample":
            if self.predictive and msg["is_observed"] and not is_bookkeeping(msg):
                self.run.shown[name] = msg["value"]
                msg.update(is_observed=False, value=None)
            if not msg["is_observed"] and name in self.fixed:
                msg["value"] = self._fixed_value(name, msg["fn"])

    def _takes_rows(self, name: str, size: int, subsample_size: int | None) -> bool:
        """Whether a plate's subsample is the batch: the rows that it states are all there are, and it is of their number."""
        rows: Array = self.batch.rows
        if rows is None or subsample_size == size or name not in (self.row_plates or ()):
            return False
        return rows.shape[0] == subsample_size and round(self.batch.scale * rows.shape[0]) == size

    def postprocess_message(self, msg: Any) -> None:
        """Note what the statement did."""
        name = msg.get("name")
        if msg["type"] == "param":
            if msg["value"] is not None and name not in self._given:
                msg["value"] = self.params.meet(msg)
        elif msg["type"] == "plate":
            self._sizes[name] = msg["args"][0]
            if msg["args"][0] != msg["args"][1] and msg["args"][1] is not None:
                self.run.values[PLATE + name] = msg["value"]
        elif msg["type"] == "mutable" and msg["value"] is not None:  # a network asks first whether there is any
            self.run.buffers[name] = msg["value"]
        elif msg["type"] == "prng_key":
            self.run.noise = True
        elif msg["type"] == "deterministic":
            self.run.records[name] = msg["value"]
        elif msg["type"] == "sample":
            self._sample(name, msg)

    def _check_flow(self, name: str, msg: Any) -> None:
        """Sites inside `scan` and `cond` come out once all is done: values go in beforehand, or not at all."""
        if msg["is_observed"]:
            if self.predictive:
                raise ProgramError(
                    f"site '{name}': expected observed sites outside of {self._flow} to be drawn anew; got one inside. Write the "
                    "steps as a Python loop."
                )
            return
        held = isinstance(self.fixed.get(name), Choice | Draw) or (self.role == "guide" and name in self.cut)
        if held or self._flow != "scan":
            raise ProgramError(
                f"site '{name}' ({type(named(msg['fn'])).__name__}): expected latents inside {self._flow} to be drawn by scan and "
                "differentiated by Pathwise(), as no other estimator can hold or try their values there; got another. Write the "
                "steps as a Python loop."
            )

    def _fixed_value(self, name: str, distribution: Any) -> Any:
        value = self.fixed[name]
        if isinstance(value, Choice):
            return choose(distribution, value.number)
        if isinstance(value, Draw):
            masses = log_masses(distribution)
            key = jax.random.fold_in(self.key, zlib.crc32(name.encode()))
            return value.make(masses, jax.random.uniform(key, masses.shape))
        return value

    def _sample(self, name: str, msg: Any) -> None:
        if self.role == "guide" and name in self.cut:
            # outside every trace the user holds: what is recorded and what the program goes on with are the same
            msg["value"] = jax.lax.stop_gradient(msg["value"])
            msg["intermediates"] = None  # the draw before its transforms, which the cut value no longer hangs on
        self.run.records[name] = msg["value"]
        plates = {frame.name: frame.dim for frame in msg["cond_indep_stack"]}
        if self.observer is not None:
            msg["full_sizes"] = self._sizes
            msg["flow"] = self._flow if msg.get("_control_flow_done") else None
            self.observer(self.role, msg, plates)
        if self.role == "guide" and not msg["is_observed"]:
            self.run.values[name] = msg["value"]
        if self.observer is None:
            self._densities(name, msg, plates)

    def _densities(self, name: str, msg: Any, plates: dict[str, int]) -> None:
        log_prob = _log_prob(msg["fn"], msg)
        scale = 1.0 if msg["scale"] is None else msg["scale"]
        rows = next((p for p in plates if p in (self.row_plates or ())), None)
        wholes = {f.name: self._sizes.get(f.name, f.size) / f.size for f in msg["cond_indep_stack"]}
        share = self._share(wholes.get(rows or "", 1.0)) if self.row_plates is None or rows else 1.0
        scale = scale * share
        self.run.factors[self.role, name] = {n: own * (share if n == rows else 1.0) for n, own in wholes.items()}
        term = plate_sum(log_prob * scale, plates)
        self.run.terms[self.role, name] = term if self.role == "model" else -term
        if not msg["is_observed"]:
            self._divergence(name, msg["fn"], Weight(msg["scale"], rows), plates, scale)
        if self.role == "guide" and name in self.cut and not msg["is_observed"]:
            bare = unmasked(msg["fn"])
            log_prob = log_prob if bare is msg["fn"] else _log_prob(bare, msg)
            self.run.logq[name] = plate_sum(log_prob, plates)
            self.run.inputs[name] = features(msg["fn"])
            self.run.masses[name] = partial(log_masses, msg["fn"])
            self.run.parameters[name] = partial(parameters, msg["fn"])

    def _share(self, own: float) -> float:
        """What is still to be done to scale a batch's rows to the data's, where their plate scales by `own` itself."""
        if own == 1.0:
            return self.batch.scale
        return self.batch.scale / own if self.judging else 1.0

    def _divergence(self, name: str, fn: Any, weight: Weight, plates: dict[str, int], scale: Any) -> None:
        """Half of it in the guide, the other half in the model."""
        known = self.run.divergences
        if self.role == "guide":
            known[name] = partial(scaled_divergence, fn, weight, plates)
        elif name in known:
            known[name] = partial(known[name], fn, weight, scale)


def _log_prob(distribution: Any, msg: Any) -> Array:
    distribution = corrected(distribution)
    if msg["intermediates"]:
        return jnp.asarray(distribution.log_prob(msg["value"], intermediates=msg["intermediates"]))
    return jnp.asarray(distribution.log_prob(msg["value"]))


def copy_tree(holder: Any) -> Any:
    """The same leaves in containers of their own, which the program may change in place."""
    return jax.tree.map(lambda leaf: leaf, holder)


class Weight(NamedTuple):
    """How a site's log density is weighed: by what handlers and plates scale it, on which plate of rows."""

    scale: Any
    rows: str | None


def scaled_divergence(
    q: Any, weight: Weight, plates: Mapping[str, int], p: Any, other: Weight, scale: Any
) -> Array | None:
    """KL(q || p) as the difference of the site's two terms would be; None where it cannot stand for that."""
    plain = unmasked(q) is q and unmasked(p) is p
    if not plain or weight.rows != other.rows or not same_scale(weight.scale, other.scale):
        return None
    found = divergence(q, p)
    return None if found is None else plate_sum(found * scale, plates)


def same_scale(scale: Any, other: Any) -> bool:
    """Whether two scales are one: the same number, or the same array."""
    return scale is other or (isinstance(scale, float | int) and isinstance(other, float | int) and scale == other)


def is_bookkeeping(msg: Any) -> bool:
    """Whether an observed site is no data: a factor."""
    return type(named(msg["fn"])).__name__ == "Unit"


def plate_sum(log_prob: Array, plates: Mapping[str, int]) -> Array:
    """Sum over the batch dimensions that belong to no plate, kept with size 1."""
    free = tuple(d for d in range(-log_prob.ndim, 0) if d not in plates.values() and log_prob.shape[d] != 1)
    return log_prob.sum(free, keepdims=True) if free else log_prob
