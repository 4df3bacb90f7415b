"""What is checked at every sample statement of the first run, the same words for both backends."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from ppl_gen.errors import ProgramError
from ppl_gen.program import Facts, Path, Site, Term
from ppl_gen.sums import is_summed

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
    """Raise unless the value has the distribution's shape and fills its plates (name -> (dimension, size))."""
    try:
        joint = np.broadcast_shapes(distribution_shape, value_shape)
    except ValueError:
        joint = ()
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


def check_array(where: str, value: object) -> None:
    """Raise where what is observed is a list or a tuple: neither library takes a density of it."""
    if isinstance(value, list | tuple):
        raise ProgramError(
            f"{where}: expected an array of observations; got a {type(value).__name__} of {len(value)}. Pass numpy.array of it."
        )


def check_value(where: str, value: np.ndarray, inside: np.ndarray | bool, support: str) -> None:
    """Raise unless every observed element is finite and inside the support."""
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise ProgramError(
            f"{where}: expected finite observations; got {value[index]} at index {index}. Remove or impute such rows."
        )
    outside = ~np.broadcast_to(np.asarray(inside, dtype=bool), np.shape(inside))
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ProgramError(
            f"{where}: expected observations in its support, {support}; got {value[index]!r} at index {index}. "
            "Change the data or the distribution."
        )


def is_scaled(scale: Any, plates: Iterable[tuple[int, int]]) -> bool:
    """Whether a density's scale is more than its plates' (full size, size)."""
    expected = np.prod([full / size for full, size in plates])
    return not np.allclose(np.asarray(scale, dtype=float), expected, rtol=1e-5)


def check_repeat(where: str, seen: Iterable[str], name: str) -> None:
    """Raise if a second site has the same name."""
    if name in seen:
        raise ProgramError(f"{where}: expected one site of this name; got a second one. Rename one of the two.")


def check_match(sites: Mapping[Term, Site]) -> None:
    """Raise unless guide and model have the same latents, auxiliary guide sites aside."""
    for (role, name), site in sites.items():
        if role == "guide" and not site.observed and not site.auxiliary:
            if ("model", name) not in sites:
                raise ProgramError(
                    f"site '{name}' ({site.distribution}): expected a site of this name in the model too; got it in the guide only. "
                    "Rename it, or mark it infer={'is_auxiliary': True}."
                )
            if sites["model", name].observed:
                raise ProgramError(
                    f"site '{name}' ({site.distribution}): expected a latent of the model; the model observes it. "
                    "Remove it from the guide."
                )
            proposed, expected = _whole_shape(site), _whole_shape(sites["model", name])
            if proposed != expected:
                raise ProgramError(
                    f"site '{name}' ({site.distribution}): expected a proposal of the shape it has in the model, {expected}; got "
                    f"{proposed}. Give both the same plates and sizes."
                )
        if role == "model" and not site.observed and ("guide", name) not in sites and not is_summed(site, sites):
            kind = "a discrete latent" if site.support != "real" else "a latent"
            raise ProgramError(
                f"site '{name}' ({site.distribution}): expected {kind} to be in the guide too; got it in the model only. "
                f"Add a site '{name}' to the guide, or observe it in the model."
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


def finite_arrays(arrays: Iterable[tuple[str, Any]]) -> tuple[str, str] | None:
    """(where, what) of the first array that is not finite; None if all are."""
    for where, array in arrays:
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            return where, f"{array[index]} at index {index}"
    return None
