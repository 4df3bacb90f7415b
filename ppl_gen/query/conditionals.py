"""What a network of conditionals says along orders of visit, on the host, in batches.

Codes are integers here, -1 where there is no value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_gen.query.orders import Bools, Ints, Orders, Small, draw_orders

Floats = NDArray[np.float64]
Network = Callable[[NDArray[np.float32], Bools], NDArray[Any]]

_CALL = 4096  # most rows of one network call
_BLOCK = 2**22  # most entries, contexts times variables, held at one time


class Conditionals:
    """A network of conditionals: evaluated in batches, each context once, normalized in float64.

    Args:
        network: codes (n, variables) and which of them are visited (n, variables) -> log-probabilities in
            nats, shape (n, variables, levels), -inf beyond a variable's own levels. Codes that are not
            visited are 0.

    Attributes:
        evaluations: rows the network has been called on so far.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.evaluations = 0

    def at(self, contexts: Small, targets: Ints) -> Floats:
        """Log p(target | context), nats, shape (n, levels), for contexts (n, variables), targets (n,).

        Raises:
            ValueError: the network's answer has another shape or is not a number.
        """
        different, inverse = _distinct(contexts)
        found: list[tuple[Ints, Floats]] = []
        for start in range(0, len(different), _CALL):
            here = np.flatnonzero((inverse >= start) & (inverse < start + _CALL))
            table = self._call(different[start : start + _CALL])
            found.append((here, table[inverse[here] - start, targets[here]].astype(np.float64)))
        picked = np.empty((len(contexts), found[0][1].shape[1]))
        for here, logits in found:
            picked[here] = logits
        return picked - logsumexp(picked)[:, None]

    def _call(self, contexts: Small) -> NDArray[Any]:
        visited = contexts >= 0
        table = np.asarray(self.network(np.where(visited, contexts, 0).astype(np.float32), visited))
        self.evaluations += len(contexts)
        if table.ndim != 3 or table.shape[:2] != contexts.shape:
            raise ValueError(
                f"query: expected the network's log-probabilities of shape {(*contexts.shape, 'levels')}; "
                f"got {table.shape}. Return one row of levels for each variable."
            )
        if np.isnan(table).any():
            raise ValueError(
                "query: expected log-probabilities from the network; got NaN. Look at the fit's parameters."
            )
        return table

    def along(self, codes: Small, rows: Ints, orders: Orders, part: str) -> Floats:
        """Log p of the given or the asked part of each code vector along each of its row's orders.

        Args:
            codes: shape (n, variables).
            rows: which row of `orders` each belongs to, shape (n,).
            orders: the orders.
            part: "given", or "asked" for the asked part given the given part.

        Returns:
            Nats, shape (n, orders); -inf where a row has fewer orders.
        """
        used = orders.used(rows)
        total = np.full(used.shape, -np.inf)
        item, k = np.nonzero(used)
        longest = int((orders.num_asked if part == "asked" else orders.num_given).max())
        for block in blocks(len(item), longest * codes.shape[1]):
            here, way = item[block], k[block]
            total[here, way] = self._sums(codes[here], rows[here], way, orders, part)
        return total

    def _sums(self, codes: Small, rows: Ints, k: Ints, orders: Orders, part: str) -> Floats:
        """Sum of log conditionals of the part along order k[i] for codes[i], shape (n,)."""
        pattern = orders.pattern[rows]
        start = orders.num_given[pattern] * (part == "asked")
        length = orders.num_asked[pattern] if part == "asked" else orders.num_given[pattern]
        item = np.repeat(np.arange(len(codes)), length)
        if not len(item):
            return np.zeros(len(codes))
        position = np.arange(len(item)) - np.repeat(np.cumsum(length) - length, length) + start[item]
        contexts, targets = _step(codes[item], pattern[item], k[item], position, orders)
        values = self.at(contexts, targets)[np.arange(len(item)), codes[item, targets]]
        return np.bincount(item, weights=values, minlength=len(codes)).astype(np.float64)

    def complete(
        self, codes: Small, rows: Ints, k: Ints, orders: Orders, rng: np.random.Generator | None
    ) -> Iterator[tuple[Ints, Floats]]:
        """Fill in, in place, the asked variables of codes[i] along order k[i].

        Levels are drawn or, without `rng`, the likeliest ones. Yields, after each step, the variable that
        each row of `codes` still under way has set, and its log-probabilities there (nats, (n, levels)).
        """
        pattern = orders.pattern[rows]
        for step in range(int(orders.num_asked[pattern].max(initial=0))):
            item = np.flatnonzero(step < orders.num_asked[pattern])
            position = orders.num_given[pattern[item]] + step
            contexts, targets = _step(codes[item], pattern[item], k[item], position, orders)
            log_probs = self.at(contexts, targets)
            codes[item, targets] = log_probs.argmax(1) if rng is None else draw_levels(np.exp(log_probs), rng)
            yield targets, log_probs


def ensemble_log_prob(
    network: Network, codes: NDArray[Any], orders: int = 16, seed: int = 0, tiers: Ints | None = None
) -> tuple[Floats, Floats]:
    """Log of the mean over orders of p(row): the uniform ensemble (Goodfellow et al. 2016, eq. 20.84).

    It is exact for the mixture over the orders drawn. Variables that are NaN are never visited, which sums
    them out.

    Args:
        network: as for `Conditionals`.
        codes: shape (rows, variables), NaN where missing.
        orders: how many; all where there are no more. The same seed and mask give the same orders.
        seed: of the orders.
        tiers: variables of a lower tier are visited first, shape (variables,); None leaves all orders possible.

    Returns:
        Nats, shape (rows,), and their standard deviation over single orders, shape (rows,).

    Raises:
        ValueError: no rows, not two axes, or fewer than one order.
    """
    codes = np.asarray(codes, dtype=np.float64)
    if codes.ndim != 2 or 0 in codes.shape:
        raise ValueError(f"log_prob: expected codes of shape (rows, variables); got {codes.shape}. Pass some rows.")
    present, rows = ~np.isnan(codes), np.arange(len(codes))
    drawn = draw_orders(np.zeros_like(present), present, orders, seed, tiers)
    per_order = Conditionals(network).along(compact(codes), rows, drawn, "asked")
    value = logsumexp(per_order) - np.log(drawn.count[drawn.pattern])
    return np.minimum(value, 0.0), spread_over(per_order, drawn.used(rows))


def compact(codes: Floats) -> Small:
    """Codes with NaN as integers with -1."""
    return np.where(np.isnan(codes), -1, codes).astype(np.int16)


def spread_over(per_order: Floats, used: Bools) -> Floats:
    """Standard deviation over the orders in use, nats, shape (rows,); zero where there is one order only."""
    values, count = np.where(used, per_order, 0.0), used.sum(1)
    with np.errstate(invalid="ignore"):  # an order may hold a row for impossible
        centred = np.where(used, values - (values.sum(1) / count)[:, None], 0.0)
        deviation = np.sqrt((centred**2).sum(1) / np.maximum(count - 1, 1))
    return np.where(np.isnan(deviation), np.inf, deviation)


def logsumexp(values: Floats) -> Floats:
    """Log of the sum of exp along the last axis; -inf where all are."""
    top = values.max(-1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(values - safe[..., None]).sum(-1)) + safe
    return total


def draw_levels(probabilities: Floats, rng: np.random.Generator) -> Ints:
    """One column per row by inversion, shape (n,); a column of probability zero is never drawn."""
    cumulative = np.cumsum(probabilities, axis=1)
    levels: Ints = (cumulative / cumulative[:, -1:] <= rng.random((len(probabilities), 1))).sum(1)
    return levels


def blocks(size: int, width: int) -> Iterator[slice]:
    """Slices that cover `size` items of `width` entries each, as many at a time as memory should hold."""
    block = max(1, _BLOCK // max(1, width))
    return (slice(start, start + block) for start in range(0, size, block))


def _step(codes: Small, pattern: Ints, k: Ints, position: Ints, orders: Orders) -> tuple[Small, Ints]:
    """The context at a position of an order, -1 where not visited yet, and the variable that comes next."""
    visited = orders.rank[pattern, k] < position[:, None]
    return np.where(visited, codes, np.int16(-1)), orders.order[pattern, k, position].astype(np.intp)


def _distinct(contexts: Small) -> tuple[Small, Ints]:
    """The different rows, and for each row which of them it is."""
    whole = np.dtype((np.void, contexts.itemsize * contexts.shape[1]))  # bytes compare faster than numbers
    keys = np.ascontiguousarray(contexts).view(whole).reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return contexts[first], inverse.reshape(-1)
