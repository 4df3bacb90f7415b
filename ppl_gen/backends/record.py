"""What each sample statement means for a run: values given or noted, log densities taken. One text for both libraries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, NamedTuple

from ppl_gen import language
from ppl_gen.backends.interface import A, Distribution, Library, Message, Observer
from ppl_gen.program import PLATE, Batch, Choice, Draw, Run


@dataclass(eq=False)
class Recorder(Generic[A]):
    """Fills `run` from the messages of one program, which the library's own handler hands over.

    Attributes:
        library: the functions of the library that the program is written with.
        role: "guide" or "model".
        run: what is being filled.
        batch: its scale applies to every plate named in `row_plates` (to everything where that is None).
        noise: (site, array) -> uniform noise of the array's shape, for a `Draw`.
        fixed: latent site (or ``plate:`` name) -> value, `Choice` or `Draw` to be used instead of a draw.
        cut: latent sites whose values pass no gradient and whose log q is wanted.
        row_plates: plates that stand for the rows of the data.
        observer: called with each message once its value is drawn; densities are then not taken.
        predictive: draw the observed sites too.
        judging: take a plate's rows for what the batch says, and not for a part of the plate's own size.
    """

    library: Library[A]
    role: str
    run: Run
    batch: Batch
    noise: Callable[[str, A], A]
    fixed: Mapping[str, object] = field(default_factory=dict)
    cut: Collection[str] = ()
    row_plates: Collection[str] | None = ()
    observer: Observer[A] | None = None
    predictive: bool = False
    judging: bool = False

    def before(self, message: Message[A]) -> bool:
        """Decide on a site before it is drawn: whether it is observed, and, where true is returned, its value."""
        if self.predictive and message.observed and not message.is_bookkeeping:
            self.run.shown[message.name] = message.value
            message.observed = False
        if message.observed or message.name not in self.fixed:
            return False
        message.value = self._fixed_value(message)
        return True

    def _fixed_value(self, message: Message[A]) -> Any:
        value = self.fixed[message.name]
        if isinstance(value, Choice):
            return self.library.choose(message.distribution, value.number)
        if isinstance(value, Draw):
            masses = self.library.log_masses(message.distribution)
            return value.make(masses, self.noise(message.name, masses))
        return value

    def indices(self, plate: str, size: int, length: int | None) -> Any:
        """Which elements a plate of `size` takes, if `length` of them: those that are given, or the batch's own rows; else None."""
        if PLATE + plate in self.fixed:
            return self.fixed[PLATE + plate]
        rows: Any = self.batch.rows
        if rows is None or length == size or plate not in (self.row_plates or ()) or rows.shape[0] != length:
            return None
        return rows if round(self.batch.scale * rows.shape[0]) == size else None

    def is_cut(self, name: str) -> bool:
        """Whether a value passes no gradient."""
        return self.role == "guide" and name in self.cut

    def cut_off(self, message: Message[A]) -> bool:
        """Cut a value off, outside every trace the user holds: what is recorded and what the program goes on with are the same."""
        if self.is_cut(message.name):
            message.value = self.library.cut(message.value)
            return True
        return False

    def note(self, message: Message[A]) -> None:
        """Record a site whose value is drawn."""
        self.run.records[message.name] = message.value
        if message.is_deterministic:
            return
        if self.observer is not None:
            self.observer(message)
        if self.role == "guide" and not message.observed:
            self.run.values[message.name] = message.value
        if self.observer is None:
            self._take_densities(message)

    def _take_densities(self, message: Message[A]) -> None:
        library, plates = self.library, message.plates
        log_prob = library.log_density(message, message.distribution)
        rows = next((plate for plate in plates if plate in (self.row_plates or ())), None)
        wholes = {frame.name: frame.full_size / frame.size for frame in message.frames}
        share = self._share(wholes.get(rows or "", 1.0)) if self.row_plates is None or rows else 1.0
        scale = library.as_now(message.scale)
        scale = scale if share == 1.0 else scale * share
        self.run.factors[message.term] = {n: own * (share if n == rows else 1.0) for n, own in wholes.items()}
        term = plate_sum(library, library.weigh(log_prob, scale, message.mask), plates)
        self.run.terms[message.term] = term if self.role == "model" else -term
        if not message.observed:
            self._take_divergence(message, rows, scale)
            if self.is_cut(message.name):
                self._take_score(message, log_prob)

    def _share(self, own: float) -> float:
        """What is still to be done to scale a batch's rows to the data's, where their plate scales by `own` itself."""
        if own == 1.0:
            return self.batch.scale
        return self.batch.scale / own if self.judging else 1.0

    def _take_divergence(self, message: Message[A], rows: str | None, scale: A | float) -> None:
        """Half of it in the guide, the other half in the model."""
        known, weight = self.run.divergences, Weight(message.scale, rows, message.mask)
        if self.role == "guide":
            known[message.name] = partial(scaled_divergence, self.library, message.distribution, weight, message.plates)
        elif message.name in known:
            known[message.name] = partial(known[message.name], message.distribution, weight, scale)

    def _take_score(self, message: Message[A], log_prob: A) -> None:
        """What estimators ask of a latent through which no gradient comes."""
        library, run, name, own = self.library, self.run, message.name, message.distribution
        bare = library.unmasked(own)
        run.logq[name] = plate_sum(
            library, log_prob if bare is own else library.log_density(message, bare), message.plates
        )
        run.inputs[name] = library.features(own)
        run.masses[name] = partial(library.log_masses, own)
        run.parameters[name] = partial(library.parameters, own)


class Weight(NamedTuple):
    """How a site's log density is weighed: by what handlers and plates scale it, on which plate of rows; what masks it."""

    scale: Any
    rows: str | None
    mask: Any


def scaled_divergence(
    library: Library[A],
    q: Distribution,
    weight: Weight,
    plates: Mapping[str, int],
    p: Distribution,
    other: Weight,
    scale: A | float,
) -> A | None:
    """KL(q || p) as the difference of the site's two terms would be; None where it cannot stand for that."""
    plain = library.unmasked(q) is q and library.unmasked(p) is p and weight.mask is None and other.mask is None
    if not plain or weight.rows != other.rows or not same_scale(weight.scale, other.scale):
        return None
    found = library.divergence(q, p)
    return None if found is None else plate_sum(library, found * scale, plates)


def same_scale(scale: object, other: object) -> bool:
    """Whether two scales are one: the same number, or the same array."""
    return scale is other or (isinstance(scale, float | int) and isinstance(other, float | int) and scale == other)


def plate_sum(library: Library[A], log_prob: A, plates: Mapping[str, int]) -> A:
    """Sum over the batch dimensions that belong to no plate, kept with size 1."""
    free = tuple(d for d in range(-log_prob.ndim, 0) if d not in plates.values() and log_prob.shape[d] != 1)
    return library.total(log_prob, free) if free else log_prob


def record(
    recorder: Recorder[A],
    handle: Callable[[Recorder[A]], AbstractContextManager[object]],
    guide: Callable[..., object] | None,
    model: Callable[..., object],
    *,
    predictive: bool = False,
) -> Run:
    """Run the guide, then the model on its choices.

    Args:
        recorder: of the guide.
        handle: the library's handlers around one program, which hand its messages to a recorder.
        guide: the guide; None for the model alone.
        model: the model.
        predictive: draw what the model observes, too.
    """
    run, batch = recorder.run, recorder.batch
    with language.on_rows(batch.rows):
        if guide is not None:
            with handle(recorder):
                guide(*batch.args, **batch.kwargs)
            run.records.clear()
        fixed = {**recorder.fixed, **run.values}
        with handle(replace(recorder, role="model", fixed=fixed, predictive=predictive)):
            model(*batch.args, **batch.kwargs)
    return run
