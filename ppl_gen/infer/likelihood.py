"""A log-likelihood from runs of a trained program: exact without latents, else by importance weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from ppl_gen.data import fingerprint
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Plan
from ppl_gen.estimators.likelihood import refuse_likelihood
from ppl_gen.evaluate.log_prob import LogProb
from ppl_gen.program import Batch, Facts, Term
from ppl_gen.training.batches import is_array, to_host

NUMBERS = {
    "f": np.float32,
    "i": np.int64,
    "u": np.int64,
    "b": np.int64,
}  # what a program is given, whatever the library
Terms = Mapping[Term, np.ndarray]


def check_whole(plan: Plan, row_plates: Collection[str]) -> None:
    """Raise where a plate draws a subsample of its own.

    Raises:
        ProgramError: the message names the plate.
    """
    for plate in set(plan.facts.subsampled) - set(row_plates):
        raise ProgramError(
            f"plate '{plate}': expected all its elements, for a likelihood of the data; got a plate that draws some. Leave "
            "subsample_size to training: batch_size= there does the same."
        )


def check_normalized(facts: Facts) -> None:
    """Raise where no likelihood follows.

    Raises:
        ProgramError: the message names the site.
    """
    why = refuse_likelihood(facts)
    if why is not None:
        raise ProgramError(
            f"{why.where}: expected a normalized density, for a likelihood of the data; got one that is {why.got}. {why.instead}"
        )


def row_dims(plan: Plan, row_plates: Collection[str]) -> dict[Term, int] | None:
    """The dimension of each term along the data rows; None where a term or latent lies outside, or rows mix."""
    if any(plate in row_plates for _, _, plate in plan.facts.mixes):
        return None
    dims = {}
    for term, site in plan.facts.sites.items():
        inside = [dim for plate, dim in site.plates.items() if plate in row_plates]
        if not inside:
            return None
        dims[term] = inside[0]
    return dims


def exact(terms: Terms, rows: Mapping[Term, int] | None, batch: Batch) -> LogProb:
    """Of a program without latents, from its one run."""
    value = _by_row(terms, rows)
    return LogProb(value, np.zeros_like(value), "exact", fingerprint_of(batch))


def importance_weighted(runs: Iterable[Terms], rows: Mapping[Term, int] | None, batch: Batch) -> LogProb:
    """The log of the mean importance weight of draws from the guide, whose mean is a lower bound (eq. 20.79)."""
    log_weights = np.stack([_by_row(terms, rows) for terms in runs])
    top, number = log_weights.max(0), len(log_weights)
    weights = np.exp(log_weights - top)
    mean = weights.mean(0)
    error = weights.std(0, ddof=1) / mean / np.sqrt(number) if number > 1 else np.full_like(mean, np.nan)
    return LogProb(top + np.log(mean), error, "lower_bound", fingerprint_of(batch))


def _by_row(terms: Terms, rows: Mapping[Term, int] | None) -> np.ndarray:
    """Sum of all terms, one value per data row where there are rows."""
    total = np.zeros(())
    for term, value in terms.items():
        value = np.asarray(value, dtype=np.float64)
        axes = tuple(d for d in range(-value.ndim, 0) if rows is None or d != rows[term])
        total = total + value.sum(axis=axes)
    return np.asarray(total)


def fingerprint_of(batch: Batch) -> str:
    """Of all arrays, as the program was given them: one number type for each kind, whatever the library."""
    given = [*batch.args, *(value for _, value in sorted(batch.kwargs.items()))]
    arrays = [to_host(value) for value in given if is_array(value)]
    return fingerprint(*(a.astype(NUMBERS[a.dtype.kind], copy=False) for a in arrays if a.dtype.kind in NUMBERS))
