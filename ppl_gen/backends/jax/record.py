"""NumPyro's messages, handed over to a recorder; and what only NumPyro has: parameters, buffers, keys and control flow."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from numpyro.primitives import Messenger

from ppl_gen.backends.interface import Frame, Message
from ppl_gen.backends.record import Recorder
from ppl_gen.errors import ProgramError
from ppl_gen.program import PLATE, Choice, Draw

T = TypeVar("T")
NumPyroMessage = dict[str, Any]
DRAWN = ("sample", "plate", "control_flow")


class Table(Protocol):
    """The parameters of one run."""

    def value(self, name: str) -> Any:
        """A parameter's value; None where it is not known yet."""

    def meet(self, msg: NumPyroMessage) -> Any:
        """The value of a parameter after its statement, a new one's too."""


class Handler(Messenger):
    """Outermost handler of one program run, outside of `numpyro.handlers.seed`.

    Args:
        recorder: of the run.
        params: the parameters.
    """

    def __init__(self, recorder: Recorder[jax.Array], params: Table) -> None:
        super().__init__()
        self.recorder, self.params = recorder, params
        self._sizes: dict[str, int] = {}  # plate -> its full size
        self._given: set[str] = set()  # parameters that a handler of the user's gave a value
        self._flow = ""  # the control flow that sites last came out of

    def process_message(self, msg: NumPyroMessage) -> None:
        """Supply parameters, buffers and replayed values."""
        name, kind = msg.get("name", ""), msg["type"]
        if kind in DRAWN and msg["value"] is None:  # anew in every run, whatever key the program brings along
            msg["kwargs"]["rng_key"] = None
        if kind == "param":
            if msg["value"] is None:
                msg["value"] = self.params.value(name)
            else:  # a handler of the user's has given it
                self._given.add(name)
        elif kind == "mutable":
            known = self.recorder.run.buffers.get(name)
            msg["value"] = copy_tree(msg["value"]) if known is None else known
        elif kind == "plate":
            rows = self.recorder.indices(name, *msg["args"])
            msg["value"] = msg["value"] if rows is None else jnp.asarray(rows)
        elif kind == "control_flow":
            self._enter_flow(msg)
        elif kind == "sample" and msg.get("_control_flow_done"):
            self._check_flow(self._message(msg))
        elif kind == "sample":
            message = self._message(msg)
            is_given = self.recorder.before(message)
            if message.observed != msg["is_observed"]:
                msg.update(is_observed=message.observed, value=None)
            if is_given:
                msg["value"] = message.value

    def postprocess_message(self, msg: NumPyroMessage) -> None:
        """Note what the statement did."""
        name, kind, run = msg.get("name", ""), msg["type"], self.recorder.run
        if kind == "param":
            if msg["value"] is not None and name not in self._given:
                msg["value"] = self.params.meet(msg)
        elif kind == "plate":
            size, length = msg["args"]
            self._sizes[name] = size
            if length not in (None, size):
                run.values[PLATE + name] = msg["value"]
        elif kind == "mutable" and msg["value"] is not None:  # a network asks first whether there is any
            run.buffers[name] = msg["value"]
        elif kind == "prng_key":
            run.noise = True
        elif kind == "deterministic":
            run.records[name] = msg["value"]
        elif kind == "sample":
            self._sample(msg)

    def _sample(self, msg: NumPyroMessage) -> None:
        message = self._message(msg)
        if self.recorder.cut_off(message):
            msg["value"] = message.value
            msg["intermediates"] = None  # the draw before its transforms, which the cut value no longer hangs on
            message.kwargs = {}
        self.recorder.note(message)

    def _enter_flow(self, msg: NumPyroMessage) -> None:
        self._flow = msg["fn"].__name__.removesuffix("_wrapper")
        given = {n: v for n, v in self.recorder.fixed.items() if not isinstance(v, Choice | Draw)}
        msg["kwargs"]["substitute_stack"].append(("substitute", given))

    def _check_flow(self, message: Message[jax.Array]) -> None:
        """Sites inside `scan` and `cond` come out once all is done: values go in beforehand, or not at all."""
        if message.observed:
            if self.recorder.predictive:
                raise ProgramError(
                    f"site '{message.name}': expected observed sites outside of {self._flow} to be drawn anew; got one inside. "
                    "Write the steps as a Python loop."
                )
            return
        held = isinstance(self.recorder.fixed.get(message.name), Choice | Draw) or self.recorder.is_cut(message.name)
        if held or self._flow != "scan":
            raise ProgramError(
                f"{message.where}: expected latents inside {self._flow} to be drawn by scan and differentiated by Pathwise(), as no "
                "other estimator can hold or try their values there; got another. Write the steps as a Python loop."
            )

    def _message(self, msg: NumPyroMessage) -> Message[jax.Array]:
        before_transforms = msg.get("intermediates")
        return Message(
            role=self.recorder.role,
            name=msg["name"],
            distribution=msg["fn"],
            value=msg["value"],
            observed=bool(msg["is_observed"]),
            frames=[Frame(f.name, f.dim, f.size, self._sizes.get(f.name, f.size)) for f in msg["cond_indep_stack"]],
            scale=1.0 if msg["scale"] is None else msg["scale"],
            infer=msg["infer"],
            kwargs={"intermediates": before_transforms} if before_transforms else {},
            flow=self._flow if msg.get("_control_flow_done") else None,
        )


def copy_tree(holder: T) -> T:
    """The same leaves in containers of their own, which the program may change in place."""
    copied: T = jax.tree.map(lambda leaf: leaf, holder)
    return copied
