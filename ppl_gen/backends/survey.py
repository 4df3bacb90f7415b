"""What a plain run shows of a program: its sites, plates, labels; and every check of them. One text for both libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ppl_gen.backends import checks
from ppl_gen.backends.interface import A, Distribution, Library, Message, Observer, core_of, kind_of
from ppl_gen.backends.labels import Label, is_computed, labelled, mask_of
from ppl_gen.program import Facts, Latent, Site, Term

Surveyed = tuple[dict[str, tuple[int, int]], list[Latent], dict[str, tuple[int, ...]]]
"""(plate -> (size, full size), the model's latents, shapes of what it observes)."""

R = TypeVar("R")
MOST_ELEMENTS = 16  # of an event, whose joint values are counted


class Survey(Generic[A]):
    """An observer of one run, which notes what an automatic guide needs to know of the program."""

    def __init__(self, library: Library[A]) -> None:
        self.library = library
        self.found: Surveyed = {}, [], {}

    def __call__(self, message: Message[A]) -> None:
        """Note a site."""
        sizes, latents, shapes = self.found
        sizes.update({frame.name: (frame.size, frame.full_size) for frame in message.frames})
        if message.role == "guide" or (message.observed and message.is_bookkeeping):
            return
        if not message.observed:
            latents.append(self._latent(message))
        else:
            own = message.distribution
            shapes[message.name] = (*own.batch_shape, *own.event_shape)

    def _latent(self, message: Message[A]) -> Latent:
        own = message.distribution
        return Latent(
            name=message.name,
            distribution=message.kind,
            plates={frame.name: (frame.dim, frame.size) for frame in message.frames},
            batch_shape=tuple(own.batch_shape),
            event_shape=tuple(own.event_shape),
            support=self.library.unmasked(own).support,
            num_values=self.library.num_values(own),
            subsampled=any(frame.size != frame.full_size for frame in message.frames),
        )


def site_of(library: Library[A], message: Message[A]) -> Site:
    """The site that a message shows; what reaches it is for the graph to tell."""
    own = message.distribution
    kind = "real" if message.is_bookkeeping else library.support(own)[0]
    levels = library.num_values(own) if kind == "finite" else None
    num_elements = math.prod(own.event_shape) // max(1, math.prod(core_of(own).event_shape))
    site = Site(
        name=message.name,
        role=message.role,
        distribution=message.kind,
        support=kind,
        size=None if levels is None or num_elements > MOST_ELEMENTS else levels**num_elements,
        levels=levels,
        observed=message.observed,
        auxiliary=bool(message.infer.get("is_auxiliary")),
        reparametrized=library.is_reparametrized(own),
        plates=message.plates,
        batch_shape=tuple(own.batch_shape),
        event_shape=tuple(own.event_shape),
        num_features=library.num_features(own) if math.prod(own.batch_shape) > 1 else None,
        marked=message.infer.get("enumerate") in ("parallel", "sequential"),
        declared="has_rsample" in vars(library.unmasked(own)) or "has_rsample" in message.infer,
        flow=message.flow,
    )
    return site.settled()


def label_of(library: Library[A], message: Message[A]) -> Label:
    """What a message shows of its masks and scales, outside of any trace."""
    own, mask = message.distribution, message.mask
    ratios = [(frame.full_size, frame.size) for frame in message.frames if frame.size]
    return Label(
        mask=mask_of(own, library.to_host).joined(library.to_host(True if mask is None else mask)),
        masked=library.unmasked(own) is not own or not (mask is None or mask is True),
        scaled=checks.is_scaled(library.to_host(message.scale), ratios),
        computed=message.observed and is_computed(own, message.value, library.to_host),
    )


def relabelled(library: Library[A], run: Callable[[Observer[A]], object], facts: Facts) -> Facts:
    """The facts as they are in a run, which is given its observer, as far as masks and scales go."""
    found: dict[Term, Label] = {}

    def look(message: Message[A]) -> None:
        found[message.term] = label_of(library, message)

    run(look)
    return labelled(facts, found)


def check_again(run: Callable[[Observer[Any]], R], sites: Collection[Term]) -> R:
    """A run, which is given its observer; it must have the sites that are known."""
    found: list[Term] = []
    result = run(lambda message: found.append(message.term))
    checks.check_same(sites, found)
    return result


def culprit(library: Library[A], run: Callable[[Observer[A]], object]) -> str | None:
    """The first site of a run, which is given its observer, whose density is not finite."""
    said: list[str] = []

    def look(message: Message[A]) -> None:
        log_prob = library.to_host(message.distribution.log_prob(message.value))
        bad = log_prob[~np.isfinite(log_prob)].flatten()
        if len(bad) and not said:
            what = "the factor" if message.is_bookkeeping else f"the log density of {message.kind}"
            said.append(f"site '{message.name}' ({message.role}): expected {what} to be finite; got {float(bad[0])}")

    run(look)
    return said[0] if said else None


def check_site(
    library: Library[A], message: Message[A], before: Iterable[Term], *, check_values: bool = True
) -> list[str]:
    """Raise on what is wrong with one site of the first run; what the plan is to say of the site.

    Args:
        library: that the program is written with.
        message: of the site.
        before: the sites that came before it.
        check_values: whether observations outside of the support are errors.
    """
    checks.check_repeat(message.where, [name for role, name in before if role == message.role], message.name)
    library.check_distribution(message)
    _check_widths(message)
    is_data = message.role == "model" and message.observed and not message.is_bookkeeping
    return _check_observation(library, message, check_values=check_values) if is_data else []


def _check_widths(message: Message[A]) -> None:
    """The masks and scales that handlers put around a site."""
    own, value = message.distribution, shape_of(message.value)
    try:
        batch = np.broadcast_shapes(tuple(own.batch_shape), value[: len(value) - len(own.event_shape)])
    except ValueError:  # which has a check of its own
        return
    for what, array in (("mask", message.mask), ("scale", message.scale)):
        checks.check_width(message.where, what, shape_of(array), batch)


def _check_observation(library: Library[A], message: Message[A], *, check_values: bool) -> list[str]:
    """Raise on an observation that counts and cannot be; what is to be said of one that the user lets pass."""
    own, where = message.distribution, message.where
    checks.check_array(where, message.value)
    sizes = {frame.name: (frame.dim, frame.size) for frame in message.frames}
    shape = (*own.batch_shape, *own.event_shape)
    checks.check_plates(where, shape, shape_of(message.value), sizes, len(own.event_shape))
    value, constraint = library.counted(message), library.constraint_of(own)
    inside = library.satisfies(constraint, value)
    checked = check_values and not library.is_unchecked(own)
    return checks.check_value(where, library.to_host(value), inside, str(constraint), checked=checked)


def check_proposals(
    library: Library[A],
    priors: Mapping[str, Distribution],
    draws: Mapping[str, Sequence[A]],
    sites: Mapping[Term, Site],
) -> None:
    """Raise unless what the guide draws lies in the model's support.

    Args:
        library: that the program is written with.
        priors: latent -> the model's distribution of it.
        draws: latent -> what the guide may draw: of a finite support every value is looked at, else a few draws.
        sites: of the program.
    """
    for name, prior in priors.items():
        some = draws[name] if sites["guide", name].support == "finite" else draws[name][:3]
        looked_at = [(library.to_host(value), library.satisfies(prior.support, value)) for value in some]
        checks.check_proposal(f"site '{name}' ({kind_of(prior)})", looked_at, str(prior.support))


def shape_of(value: object) -> tuple[int, ...]:
    """Of an array; a plain number, list or nothing has none."""
    return tuple(getattr(value, "shape", ()))
