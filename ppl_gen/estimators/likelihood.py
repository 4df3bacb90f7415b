"""Whether the log-likelihood of the data follows from a program, and what its loss is where it does not."""

from __future__ import annotations

from typing import NamedTuple

from ppl_gen.program import Facts, Site


class NoLikelihood(NamedTuple):
    """Why none follows.

    Attributes:
        where: the site.
        got: what stands there.
        instead: what to do about it.
    """

    where: str
    got: str
    instead: str

    def __str__(self) -> str:
        return f"{self.where} is {self.got}"


def refuse_likelihood(facts: Facts) -> NoLikelihood | None:
    """Why no likelihood follows from the program, neither exactly nor as a bound; None where one does.

    Only what is shown counts: a factor may be the log of a normalized density, but nothing tells.
    """
    for site in facts.whole.sites.values():
        found = _refuse_site(site, facts)
        if found is not None:
            return NoLikelihood(f"site '{site.name}' ({'factor' if site.is_factor else site.distribution})", *found)
    for name in lone_masks(facts):
        site = facts.sites["guide", name]
        return NoLikelihood(
            f"site '{name}' ({site.distribution})", "masked differently in the model and in the guide", ALIKE
        )
    return None


ALIKE = "Mask it alike in both."


def _refuse_site(site: Site, facts: Facts) -> tuple[str, str] | None:
    """(what stands there, what to do about it)."""
    if site.observed and site.role == "guide" and not site.computed:
        return "a cost of the guide's, which makes it unnormalized", (
            "Write the guide as distributions alone, with Delta(value, log_density=...) for a change of variables."
        )
    if site.is_factor:
        return "a factor, which need not be the log of a normalized density", (
            "State what is normalized as a distribution, with its data as observations."
        )
    if site.scaled:
        return "scaled, so that its log density is not that of the model", (
            "Take the scale off; kl_weight and batch_size weigh terms in training alone."
        )
    if site.observed and site.is_point and not site.computed:
        return "a point mass that is observed, which has no density at the data", (
            "Give the data a distribution that spreads."
        )
    if _is_held(site, facts):
        return "held by the guide at one learned point, whose density says nothing of the others", (
            "Use a guide that spreads over the latent's values, such as AutoNormal."
        )
    if _is_free(site, facts):
        return "drawn by the guide alone, so that its own entropy is added to the bound", (
            "State it in the model too, or carry its density on, as Delta(value, log_density=...)."
        )
    return None


def _is_held(site: Site, facts: Facts) -> bool:
    """Whether a latent is a point that parameters alone decide: no choice of the guide's spreads it."""
    own = site.role == "guide" and site.is_point and site.learns and not site.observed
    return own and not any(other.name in site.reach for other in facts.latents())


def _is_free(site: Site, facts: Facts) -> bool:
    """Whether a choice of the guide's stands neither in the model nor behind a point mass that carries its density on."""
    if site.role == "model" or site.observed or ("model", site.name) in facts.whole.sites:
        return False
    return not any(other.is_point and site.name in other.reach for other in facts.latents())


def lone_masks(facts: Facts) -> list[str]:
    """Latents whose prior does not count just where their proposal does; the ELBO is no bound then."""
    own = [site for site in facts.latents() if ("model", site.name) in facts.sites]
    unlike = [site.name for site in own if site.masked != facts.sites["model", site.name].masked]
    return [*unlike, *(site.name for site in own if site.name in facts.unlike_masks and site.name not in unlike)]


def describe_masks(facts: Facts) -> list[str]:
    """What the plan says of them."""
    return [
        f"site '{name}': {_difference(facts, name)}, and the loss is no bound; mask it in both alike"
        for name in lone_masks(facts)
    ]


def _difference(facts: Facts, name: str) -> str:
    own, prior = facts.sites["guide", name], facts.sites["model", name]
    if own.masked == prior.masked:
        return (
            "the model and the guide mask different elements, so somewhere its entropy counts with no prior beside it"
        )
    if prior.masked:
        return "the model masks it and the guide does not, so where it is masked its entropy counts with no prior beside it"
    return "the guide masks it and the model does not, so where it is masked its prior counts with no entropy beside it"


def unlearned(facts: Facts) -> str | None:
    """What to say of a model that is held against nothing; None where data or a factor is."""
    own = [site for site in facts.whole.sites.values() if site.role == "model"]
    if any(site.observed and not site.computed for site in own):
        return None
    return (
        "model: expected a site that is given data, or a factor; got none, so that nothing is learned from data. State what is "
        "seen, as in sample(name, distribution, obs=x)"
    )


__all__ = ["NoLikelihood", "describe_masks", "lone_masks", "refuse_likelihood", "unlearned"]
