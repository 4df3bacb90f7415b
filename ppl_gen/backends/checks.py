"""What is checked at every sample statement of the first run, the same words for both backends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppl_gen.elimination.sums import is_summed
from ppl_gen.errors import NonFinite, ProgramError
from ppl_gen.program import Facts, Path, Site, Term

Shape = tuple[int, ...]
SAMPLERS = (
    "sample",
    "bernoulli",
    "normal",
    "poisson",
    "binomial",
    "multinomial",
    "_standard_gamma",
    "_sample_dirichlet",
)


def check_plates(
    where: str, distribution_shape: Shape, value_shape: Shape, plates: Mapping[str, tuple[int, int]], event_dim: int
) -> None:
    """Raise unless the value has the distribution's shape, or widens to it, and fills its plates (name -> (dimension, size))."""
    try:
        joint = np.broadcast_shapes(distribution_shape, value_shape)
    except ValueError:
        joint = ()
    if joint == distribution_shape and _widens(value_shape, joint, plates, event_dim):
        value_shape = joint
    expected = "(" + ", ".join(f"plate '{name}' of {size}" for name, (_, size) in plates.items()) + ")"
    if joint != value_shape:
        raise ProgramError(
            f"{where}: expected a value of the distribution's shape {distribution_shape}, {expected}; got shape {value_shape}. "
            "Give one value per plate element, and shape distribution and value alike (unsqueeze, squeeze or to_event)."
        )
    batch = value_shape[: len(value_shape) - event_dim]
    for name, (dim, size) in plates.items():
        actual = batch[dim] if len(batch) >= -dim else 1
        if actual != size:
            raise ProgramError(
                f"{where}: expected {size} elements along plate '{name}' (dimension {dim}); got shape {value_shape}. "
                "Make data and plate the same length."
            )


def check_width(where: str, what: str, shape: Shape, batch: Shape) -> None:
    """Raise where a mask or scale is wider than the site's batch: the site's density would count several times."""
    try:
        fits = np.broadcast_shapes(shape, batch) == batch
    except ValueError:
        fits = False
    if not fits:
        raise ProgramError(
            f"{where}: expected a {what} that fits the site's batch of shape {batch}; got one of shape {shape}, by which its log "
            f"density would count several times. Put the {what} around the sites that it is meant for."
        )


def check_array(where: str, value: object) -> None:
    """Raise where what is observed is a list or a tuple: neither library takes a density of it."""
    if isinstance(value, list | tuple):
        raise ProgramError(
            f"{where}: expected an array of observations; got a {type(value).__name__} of {len(value)}. Pass numpy.array of it."
        )


def _widens(shape: Shape, joint: Shape, plates: Mapping[str, tuple[int, int]], event_dim: int) -> bool:
    """Whether a value stands for several elements of its plates, as the libraries take it: whole events, in plates only.

    A single row where a plate expects more is no such value, but data of another length.
    """
    width = len(joint) - event_dim
    own, dims = shape[: len(shape) - event_dim], {dim for dim, _ in plates.values()}
    fits = len(shape) >= event_dim and shape[len(own) :] == joint[width:]
    apart = any(size > 1 and place - width not in dims for place, size in enumerate(joint[:width]))
    return fits and not apart and (not own or max(own) > 1)


def check_value(
    where: str, value: np.ndarray, inside: np.ndarray | bool, support: str, *, checked: bool = True
) -> list[str]:
    """Raise unless every observed element is finite and inside the support; what to say of one that is not.

    Args:
        where: the site.
        value: the observations, with something inside the support wherever they do not count.
        inside: which of them are inside the support.
        support: in words.
        checked: whether an observation outside the support is an error; the user may have let it pass.
    """
    _check_finite(where, value)
    outside = ~np.broadcast_to(np.asarray(inside, dtype=bool), np.shape(inside))
    if not outside.any():
        return []
    index = tuple(int(i) for i in np.argwhere(outside)[0])
    if not checked:
        return [
            f"{where}: {int(outside.sum())} of {outside.size} observations are outside its support, {support}, as the program "
            "allows (validate_args=False): the loss is no log-likelihood"
        ]
    raise ProgramError(
        f"{where}: expected observations in its support, {support}; got {value[index]!r} at index {index}. "
        "Change the data or the distribution, or pass it validate_args=False."
    )


def _check_finite(where: str, value: np.ndarray) -> None:
    """Raise on an observation that is NaN or infinite."""
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise ProgramError(
            f"{where}: expected finite observations; got {value[index]} at index {index}. Remove, impute or mask such rows."
        )


def is_scaled(scale: ArrayLike, plates: Iterable[tuple[int, int]]) -> bool:
    """Whether a density's scale is more than its plates' (full size, size)."""
    expected = np.prod([full / size for full, size in plates])
    return not np.allclose(np.asarray(scale, dtype=float), expected, rtol=1e-5)


def check_repeat(where: str, seen: Iterable[str], name: str) -> None:
    """Raise if a second site has the same name."""
    if name in seen:
        raise ProgramError(f"{where}: expected one site of this name; got a second one. Rename one of the two.")


def check_normalized(site: Site) -> None:
    """Raise where what the guide states is no density of its own choices, so that the loss would fall without end."""
    if site.role == "model" or not site.observed or site.is_point:
        return
    if not site.is_factor:
        raise ProgramError(
            f"site '{site.name}' ({site.distribution}): expected the guide to observe nothing; got an observation, whose density "
            "would make the guide unnormalized. Observe it in the model, or draw it."
        )
    if not site.declared:
        raise ProgramError(
            f"site '{site.name}' (factor): expected a guide of normalized densities; got a factor, by which the loss may fall without "
            "end. Move it to the model, or say that it goes with the guide's own draws, as a Jacobian does: "
            "factor(name, value, has_rsample=True), in plain NumPyro infer={'has_rsample': True} by handlers.infer_config."
        )


def check_match(sites: Mapping[Term, Site]) -> None:
    """Raise unless guide and model have the same latents, auxiliary guide sites aside, and the guide is normalized."""
    for (role, name), site in sites.items():
        check_normalized(site)
        if role == "guide" and not site.observed and not site.auxiliary:
            _check_proposal(site, sites.get(("model", name)))
        if role == "model" and not site.observed and ("guide", name) not in sites and not is_summed(site, sites):
            kind = "a discrete latent" if site.support != "real" else "a latent"
            raise ProgramError(
                f"site '{name}' ({site.distribution}): expected {kind} to be in the guide too; got it in the model only. "
                f"Add a site '{name}' to the guide, or observe it in the model."
            )


def _check_proposal(site: Site, prior: Site | None) -> None:
    """Raise unless a site of the guide proposes a latent of the model, in its shape."""
    where = f"site '{site.name}' ({site.distribution})"
    if prior is None:
        raise ProgramError(
            f"{where}: expected a site of this name in the model too; got it in the guide only. "
            "Rename it, or mark it infer={'is_auxiliary': True}."
        )
    if prior.observed:
        raise ProgramError(f"{where}: expected a latent of the model; the model observes it. Remove it from the guide.")
    proposed, expected = _whole_shape(site), _whole_shape(prior)
    if proposed != expected:
        raise ProgramError(
            f"{where}: expected a proposal of the shape it has in the model, {expected}; got "
            f"{proposed}. Give both the same plates and sizes."
        )


def _whole_shape(site: Site) -> Shape:
    """Batch and event together, leading ones aside: an element may stand in a plate here and in an event there."""
    shape = tuple(site.batch_shape) + tuple(site.event_shape)
    return shape[next((i for i, size in enumerate(shape) if size != 1), len(shape)) :]


def check_proposal(where: str, values: Iterable[tuple[np.ndarray, np.ndarray]], support: str) -> None:
    """Raise unless what the guide draws lies in the model's support; the bound is minus infinity elsewhere.

    Args:
        where: the site in the model.
        values: (draw of the guide's, which elements are inside).
        support: of the model's distribution.
    """
    for value, inside in values:
        outside = ~np.asarray(inside, dtype=bool)
        if outside.any():
            index = tuple(int(i) for i in np.argwhere(outside)[0])
            example = value[index] if value.shape[: outside.ndim] == outside.shape else value
            raise ProgramError(
                f"{where}: expected proposals in the model's support, {support}; got {example!r} from the guide. "
                "Propose from a distribution with that support, or transform the value."
            )


def check_same(sites: Collection[Term], found: Collection[Term]) -> None:
    """Raise unless a run of the program had the sites that it was planned with."""
    for role, name in [*(term for term in found if term not in sites), *(term for term in sites if term not in found)]:
        raise ProgramError(
            f"site '{name}': expected the same sites in every run of the {role}; got it in some runs only. State it in every run, "
            "under one name, and mask it where it does not count (mask, obs_mask, or a vectorized plate)."
        )


def check_params(facts: Facts, statements: Iterable[str], prefix: str) -> list[str]:
    """Raise for a `param` statement that reaches the loss by no differentiable way; return the parameters that nothing reads."""
    reached: dict[str, Path] = {}
    for site in facts.sites.values():
        for source, path in site.reach.items():
            if source.startswith(prefix) and path.jump and path.jump.rsplit(": ", 1)[-1] in SAMPLERS:
                raise ProgramError(
                    f"param '{source.removeprefix(prefix)}': expected every draw that it decides to be a sample statement; got one "
                    f"at {path.jump}, which site '{site.name}' depends on, and through which no gradient comes. Draw it with "
                    "sample, or by rsample."
                )
            if source not in reached or path.passes:
                reached[source] = path
    idle = []
    for name in facts.params:
        way = reached.get(prefix + name)
        if way is not None and way.passes:
            continue
        if name in statements and way is not None:
            raise ProgramError(
                f"param '{name}': expected a differentiable way to the loss; got none, the only way stops at {way.jump}. Use it in a "
                "distribution, or remove it."
            )
        idle.append(name)
    return idle


def check_gradients(gradients: Mapping[str, np.ndarray]) -> None:
    """Raise where a draw of a parameter's gradient, (draws, *shape), is not finite.

    Raises:
        NonFinite: the message names the parameter.
    """
    for name, draws in gradients.items():
        bad = ~np.isfinite(draws)
        if bad.any():
            rows = bad.reshape(len(draws), -1).any(1)
            raise NonFinite(
                f"param '{name}': expected a finite gradient; got {draws[bad][0]} in {rows.sum()} of {len(draws)} draws. Look "
                "for a square root, logarithm or quotient at its edge, or a probability of zero."
            )


def broken_baseline(site: str, estimator: object) -> str:
    """What to say where what an estimator learns for itself is not finite, while the program's own gradient is."""
    return (
        f"site '{site}': expected what {estimator!r} learns for itself (its weights and running averages) to stay finite; got NaN or "
        "infinity, which would spoil later steps. Scale the cost down, or use another estimator or baseline"
    )


def finite_arrays(arrays: Iterable[tuple[str, Any]]) -> tuple[str, str] | None:
    """(where, what) of the first array that is not finite; None if all are."""
    for where, array in arrays:
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            return where, f"{array[index]} at index {index}"
    return None
