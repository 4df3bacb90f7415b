"""What a program is once it has been read: its sites, and how values reach one another.

Everything here is plain data and pure functions; the backends fill it in, the plan reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Path:
    """How one value reaches another.

    Attributes:
        jump: where the way stops being differentiable, as ``"model.py:12: gt"``; None if nowhere.
        beside: a parameter's: whether what jumps there holds a random value too, so that on average it is no step.
        partly: whether, beside the way that jumps, another is differentiable all along.
    """

    jump: str | None = None
    beside: bool = False
    partly: bool = False

    @property
    def passes(self) -> bool:
        """Whether some way is differentiable all along."""
        return self.jump is None or self.partly

    def joined(self, other: Path) -> Path:
        """Both ways; a jump on either makes the whole a jump, and one beside a random value is told first."""
        told = other if self.jump is None or (other.beside and not self.beside) else self
        return replace(told, partly=told.jump is not None and (self.passes or other.passes))

    def blocked(self, where: str, beside: bool) -> Path:
        """The way through an operation at `where` that passes no gradient."""
        if self.jump is None or (self.partly and beside):
            return Path(where, beside)
        return replace(self, partly=False)


def merge(*reaches: Mapping[str, Path]) -> dict[str, Path]:
    """Union of several ``source -> Path`` maps."""
    merged: dict[str, Path] = {}
    for reach in reaches:
        for source, path in reach.items():
            merged[source] = merged[source].joined(path) if source in merged else path
    return merged


def blocked(reach: Mapping[str, Path], where: str) -> dict[str, Path]:
    """The same sources, after an operation at ``where`` that passes no gradient."""
    random = any(not source.startswith(PARAM) for source in reach)
    return {s: path.blocked(where, random and s.startswith(PARAM)) for s, path in reach.items()}


def named_alike(sites: Mapping[Term, Site]) -> dict[Term, Site]:
    """The sites, a proposal that has no name but that it is transformed onto a support named as the prior on that support."""

    def named(site: Site) -> Site:
        prior = sites.get(("model", site.name))
        nameless = site.role == "guide" and site.distribution == "TransformedDistribution"
        return replace(site, distribution=prior.distribution) if nameless and prior is not None else site

    return {term: named(site) for term, site in sites.items()}


Term = tuple[str, str]  # ("model", site) is + log p of that site, ("guide", site) is - log q
PARAM = "param:"  # prefix of a parameter's label among the sources of a reach
NOISE = "noise:"  # the label of random numbers that the program draws in no sample statement; no reach of a site's
PLATE = "plate:"  # prefix of a subsampled plate's indices among the values of a run
OWN = "objective:"  # what an objective keeps from step to step, among the running averages of the sites


class Choice(NamedTuple):
    """Stands among fixed values for the value of that number of a finite site, at every batch element."""

    number: int


class Draw(NamedTuple):
    """Stands among fixed values for a value made from a finite site's log masses and uniform noise, both (..., levels)."""

    make: Callable[[object, object], object]


def assignments(sizes: Mapping[str, int]) -> list[dict[str, Choice]]:
    """Every joint choice of the finite sites in `sizes`."""
    joint = itertools.product(*(range(size) for size in sizes.values()))
    return [dict(zip(sizes, map(Choice, indices), strict=True)) for indices in joint]


@dataclass(frozen=True)
class Site:
    """One sample statement, as the first run of the program showed it.

    Attributes:
        name: the site's name.
        role: "model" or "guide".
        distribution: the distribution's class name.
        support: "real", "finite" or "countable".
        size: number of values of one batch element where the support is finite (and that number is not huge), else None.
        levels: number of values of one element of its event where the support is finite, else None.
        observed: whether the value is given (data or a factor).
        auxiliary: a guide site that the model is declared to lack.
        reparametrized: whether the distribution's own sampler passes a gradient.
        plates: plate name -> batch dimension (negative, counted from the right).
        batch_shape: shape of the log density.
        event_shape: shape of one event.
        reach: which latents and parameters (prefix ``param:``) reach the density, and how.
        moving: those that reach the boundary of the support.
        num_features: width of the distribution's parameters as a baseline sees them; None for a lone element.
        scaled: whether a handler scales the density beyond what its plates do.
        masked: whether some of its elements may not count.
        marked: whether the program asks for the site to be enumerated.
        declared: a guide's factor: whether the program says that it goes with draws of the guide's (``has_rsample``).
        computed: whether it is observed in name only: a point mass on what the program computed, of no log density.
        rough: why its sampler, which says that it is reparametrized, is not differentiated; None where that is no matter.
        flow: the control flow ("scan") that draws its values, where they can be neither held nor tried; None outside of any.
    """

    name: str
    role: str
    distribution: str
    support: str = "real"
    size: int | None = None
    levels: int | None = None
    observed: bool = False
    auxiliary: bool = False
    reparametrized: bool = False
    plates: Mapping[str, int] = field(default_factory=dict)
    batch_shape: tuple[int, ...] = ()
    event_shape: tuple[int, ...] = ()
    reach: Mapping[str, Path] = field(default_factory=dict)
    moving: frozenset[str] = frozenset()
    num_features: int | None = None
    scaled: bool = False
    masked: bool = False
    marked: bool = False
    declared: bool = False
    computed: bool = False
    rough: str | None = None
    flow: str | None = None

    @property
    def learns(self) -> bool:
        """Whether a parameter reaches the density without a choice in between."""
        return any(source.startswith(PARAM) for source in self.reach)

    @property
    def is_factor(self) -> bool:
        """Whether it is a factor statement, behind which both libraries put the same distribution."""
        return self.distribution == "Unit"

    @property
    def is_point(self) -> bool:
        """Whether all mass lies on one value, which what is before it decides."""
        return self.distribution == "Delta"

    @property
    def term(self) -> Term:
        """The key of this site's contribution to the log density."""
        return self.role, self.name

    @property
    def loose(self) -> bool:
        """Whether there are batch elements that no plate stands for, so that log q is one number for several choices."""
        own, width = set(self.plates.values()), len(self.batch_shape)
        return any(size > 1 and axis - width not in own for axis, size in enumerate(self.batch_shape))

    def settled(self) -> Site:
        """The site as estimators may take it: elements that share one log q share one baseline, without features."""
        return replace(self, num_features=None) if self.loose else self


@dataclass(frozen=True)
class Facts:
    """Everything the plan is made from.

    Attributes:
        sites: term -> site, the guide's first, in order of execution.
        params: names of the parameters.
        mixes: (latent, term, plate) where an element of the latent moves other elements of the term in that plate.
        eager: why the program cannot be captured (a Python branch on a latent, ...); None where it can.
        relaxable: binary latents along whose value, taken as a real number, every cost is differentiable.
        summed: how finite sites of the model alone are summed out, and the facts before: see `ppl_gen.sums`.
        subsampled: plates that draw which of their elements are seen.
        noise: where the program draws random numbers of its own (dropout), in no sample statement; None if nowhere.
        noise_shared: whether the values that are tried in one step share that noise.
        unlike_masks: latents that model and guide mask, but not alike.
        unsummed: why the model's finite latents are proposed by the automatic guide; None where that did not come up.
        notes: what the plan is to say of the reading.
        by_data: whether the program reads data on the host, so that all this holds for these data.
    """

    sites: Mapping[Term, Site]
    params: tuple[str, ...] = ()
    mixes: frozenset[tuple[str, Term, str]] = frozenset()
    eager: str | None = None
    relaxable: frozenset[str] = frozenset()
    summed: Any = None
    subsampled: tuple[str, ...] = ()
    noise: str | None = None
    noise_shared: bool = False
    unlike_masks: frozenset[str] = frozenset()
    unsummed: str | None = None
    notes: tuple[str, ...] = ()
    by_data: bool = False

    @property
    def whole(self) -> Facts:
        """The facts before anything was summed out."""
        before: Facts = self.summed[1] if self.summed else self
        return before

    def latents(self) -> Iterable[Site]:
        """The guide's random choices, in order."""
        return [site for site in self.sites.values() if site.role == "guide" and not site.observed]

    def jump(self, latent: str) -> str | None:
        """Where a way from `latent` to the cost stops being differentiable; None if every way is smooth.

        A way through a point mass goes on behind it: its value is no choice of its own.
        """
        for site in self.sites.values():
            if latent in site.reach and site.reach[latent].jump:
                return site.reach[latent].jump
            if latent in site.moving:
                return f"the support of site '{site.name}' ({site.distribution})"
            further = self.jump(site.name) if latent in site.reach and site.role == "guide" and site.is_point else None
            if further:
                return further
        return None

    def downstream(self, latent: str) -> dict[Term, frozenset[str]]:
        """The terms that `latent` moves, each with the plates over which its elements mix on the way.

        A way through a choice outside a plate mixes that plate's elements, however tidy each single step is.
        """
        own = self.sites["guide", latent]
        found: dict[Term, frozenset[str]] = {}
        frontier: list[tuple[str, frozenset[str]]] = [(latent, frozenset())]
        for term in (("guide", latent), ("model", latent)):
            if term in self.sites:
                found[term] = frozenset()
        while frontier:
            source, mixed = frontier.pop()
            for term, site in self.sites.items():
                if source not in site.reach:
                    continue
                mixes = mixed | {plate for plate in own.plates if (source, term, plate) in self.mixes}
                self._visit(site, mixes, own, found, frontier)
        return found

    def _visit(
        self,
        site: Site,
        mixes: frozenset[str],
        own: Site,
        found: dict[Term, frozenset[str]],
        frontier: list[tuple[str, frozenset[str]]],
    ) -> None:
        union = found.get(site.term, frozenset()) | mixes
        if site.term in found and union == found[site.term]:
            return
        found[site.term] = union
        if site.role == "guide" and not site.observed:
            lost = frozenset(own.plates) - frozenset(site.plates)
            if ("model", site.name) in self.sites:  # its log p moves with its value
                model_term: Term = ("model", site.name)
                found[model_term] = found.get(model_term, frozenset()) | union
            frontier.append((site.name, union | lost))


@dataclass
class Run:
    """One run of guide and model, as the loss needs it.

    Attributes:
        values: latent site -> value (and subsampled plate -> its indices).
        terms: term -> + log p or - log q, scaled and masked, nats; only plate dimensions are left.
        logq: latent site -> log q, unscaled and unmasked, nats; only plate dimensions are left.
        inputs: latent site -> parameters of its distribution, batch + features, detached; None where there are none.
        masses: cut finite site -> function giving its live log masses, batch + event + (levels,).
        parameters: cut site -> function giving its distribution's live parameters by name, broadcast to batch + event.
        divergences: latent site -> function giving KL(q || p) of its distributions in this run, shaped and scaled like
            its terms; None where there is no formula, or where masks or scales differ.
        factors: term -> plate -> what the plate multiplies the term by (rows left out, in a batch or a subsample).
        records: every sample and deterministic site of the model -> value.
        buffers: state the program itself carries from run to run (running averages of a network).
        noise: whether the program asked for random numbers of its own.
        shown: observed site -> its value in the data, where the run drew another.
        trials: digits -> the run on other values of the sites that are enumerated; see `ppl_gen.trials`.
    """

    values: dict[str, object] = field(default_factory=dict)
    terms: dict[Term, object] = field(default_factory=dict)
    logq: dict[str, object] = field(default_factory=dict)
    inputs: dict[str, object] = field(default_factory=dict)
    masses: dict[str, Callable[[], object]] = field(default_factory=dict)
    parameters: dict[str, Callable[[], Mapping[str, object]]] = field(default_factory=dict)
    divergences: dict[str, Callable[..., object]] = field(default_factory=dict)
    factors: dict[Term, dict[str, float]] = field(default_factory=dict)
    records: dict[str, object] = field(default_factory=dict)
    buffers: dict[str, object] = field(default_factory=dict)
    noise: bool = False
    shown: dict[str, object] = field(default_factory=dict)
    trials: dict[tuple[int, ...], Run] = field(default_factory=dict)

    @property
    def subsampled(self) -> tuple[str, ...]:
        """The plates that drew which of their elements were seen."""
        return tuple(name.removeprefix(PLATE) for name in self.values if name.startswith(PLATE))


@dataclass(frozen=True)
class Batch:
    """The arguments of one call of model and guide.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        scale: number of rows this batch stands for, divided by its own number of rows.
        rows: the batch's row numbers in the whole data; None for the whole data at once.
    """

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    scale: float = 1.0
    rows: object = None


@dataclass(frozen=True)
class Latent:
    """A latent site of a model, as an automatic guide needs it.

    Attributes:
        name: the site's name.
        distribution: the distribution's class name.
        plates: plate name -> (dimension, size), outermost first.
        batch_shape: shape of the log density.
        event_shape: shape of one event.
        support: the backend's constraint object.
        num_values: values of one element of a finite support, else None.
        subsampled: whether a plate around it draws its own subsample.
    """

    name: str
    distribution: str
    plates: Mapping[str, tuple[int, int]]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    support: object
    num_values: int | None
    subsampled: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a value."""
        return (*self.batch_shape, *self.event_shape)
