"""What the plan is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ppl_gen.program.site import Site, Term


@dataclass(frozen=True)
class Facts:
    """Everything the plan is made from.

    Attributes:
        sites: term -> site, the guide's first, in order of execution.
        params: names of the parameters.
        mixes: (latent, term, plate) where an element of the latent moves other elements of the term in that plate.
        eager: why the program cannot be captured (a Python branch on a latent, ...); None where it can.
        relaxable: binary latents along whose value, taken as a real number, every cost is differentiable.
        summed: how finite sites of the model alone are summed out, and the facts before: see `ppl_gen.elimination.sums`.
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
