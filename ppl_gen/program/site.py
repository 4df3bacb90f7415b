"""One sample statement, as reading shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ppl_gen.program.paths import PARAM, Path

Term = tuple[str, str]  # ("model", site) is + log p of that site, ("guide", site) is - log q


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
    def is_binary(self) -> bool:
        """Whether its elements are independent and binary."""
        return self.distribution == "Bernoulli"

    @property
    def is_categorical(self) -> bool:
        """Whether its elements are independent and categorical: each an index."""
        return self.distribution == "Categorical"

    @property
    def is_choice(self) -> bool:
        """Whether its elements are independent, and binary or categorical."""
        return self.is_binary or self.is_categorical

    @property
    def gives_other_value(self) -> bool:
        """Whether the value that it gives is another than the one its log density is of."""
        return self.support == "real" and self.distribution.endswith("StraightThrough")

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


def named_alike(sites: Mapping[Term, Site]) -> dict[Term, Site]:
    """The sites, a proposal that has no name but that it is transformed onto a support named as the prior on that support."""

    def named(site: Site) -> Site:
        prior = sites.get(("model", site.name))
        nameless = site.role == "guide" and site.distribution == "TransformedDistribution"
        return replace(site, distribution=prior.distribution) if nameless and prior is not None else site

    return {term: named(site) for term, site in sites.items()}


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
    def is_binary(self) -> bool:
        """Whether its elements are binary; the libraries have several classes for them."""
        return self.distribution.startswith("Bernoulli")

    @property
    def is_categorical(self) -> bool:
        """Whether its elements are indices; likewise."""
        return self.distribution.startswith("Categorical")

    @property
    def is_one_hot(self) -> bool:
        """Whether its elements are categorical, written as zeros and a one; likewise."""
        return self.distribution.startswith("OneHotCategorical")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a value."""
        return (*self.batch_shape, *self.event_shape)
