"""Orders in which variables are visited: what is given first, then what is asked for, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial, prod

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Small = NDArray[np.int16]  # codes and positions: there may be many of them

_COUNTABLE = 2**62  # orders are numbered by 64-bit integers up to here


@dataclass(frozen=True)
class Orders:
    """For each row the orders that visit its given variables first, then those asked for, and no others.

    Rows of one mask share their orders, and the orders of a row do not depend on the other rows.

    Attributes:
        pattern: which entry of the other arrays belongs to a row, shape (rows,).
        order: variables in the order of visit, shape (patterns, orders, variables); -1 after the last.
        rank: position of each variable in it, same shape; the number of variables where it is never visited.
        num_given: how many variables are given, shape (patterns,).
        num_asked: how many are asked for, shape (patterns,).
        count: how many orders there are, shape (patterns,); later entries of `order` are unused.
    """

    pattern: Ints
    order: Small
    rank: Small
    num_given: Ints
    num_asked: Ints
    count: Ints

    def used(self, rows: Ints) -> Bools:
        """Which orders exist, shape (len(rows), orders)."""
        exists: Bools = np.arange(self.order.shape[1]) < self.count[self.pattern[rows], None]
        return exists

    def of_row(self, row: int) -> Ints:
        """The orders of one row, shape (orders, given + asked)."""
        pattern = self.pattern[row]
        length = self.num_given[pattern] + self.num_asked[pattern]
        return self.order[pattern, : self.count[pattern], :length].astype(np.intp)


def draw_orders(given: Bools, asked: Bools, num_orders: int, seed: int, tiers: Ints | None = None) -> Orders:
    """Random orders for every row, without replacement: all where there are no more than `num_orders`.

    Args:
        given: variables that come first, shape (rows, variables).
        asked: variables that come next, same shape, never both.
        num_orders: at most this many for each row.
        seed: of the draw; the same mask gets the same orders.
        tiers: among the given, and among the asked, a variable of a lower tier comes first, shape (variables,); None
            leaves all orders possible.

    Raises:
        ValueError: `num_orders` is not a positive whole number.
    """
    if isinstance(num_orders, bool) or not isinstance(num_orders, int | np.integer) or num_orders < 1:
        raise ValueError(f"query: expected orders to be a whole number of one or more; got {num_orders!r}. Use 16.")
    states, pattern = np.unique(given + 2 * asked.astype(np.int8), axis=0, return_inverse=True)
    num_variables = given.shape[1]
    tiers = np.zeros(num_variables, dtype=np.intp) if tiers is None else np.asarray(tiers)
    drawn = [_draw(_parts(state, tiers), num_orders, seed) for state in states]
    order = np.full((len(states), max(map(len, drawn)), num_variables), -1, dtype=np.int16)
    rank = np.full_like(order, num_variables)
    for index, orders in enumerate(drawn):
        places = np.arange(orders.shape[1], dtype=np.int16)
        order[index, : len(orders), : len(places)] = orders
        np.put_along_axis(rank[index, : len(orders)], orders, places[None], axis=1)
    num_given, num_asked = (states == 1).sum(1), (states == 2).sum(1)
    count = np.array([len(orders) for orders in drawn])
    return Orders(pattern.reshape(-1), order, rank, num_given, num_asked, count)


def _parts(state: NDArray[np.int8], tiers: Ints) -> list[Ints]:
    """Variables that change places only among themselves, first to last: the given by tiers, then the asked."""
    kinds = (np.flatnonzero(state == kind) for kind in (1, 2))
    return [kind[tiers[kind] == tier] for kind in kinds for tier in np.unique(tiers[kind])]


def _draw(parts: list[Ints], num_orders: int, seed: int) -> Ints:
    """At most `num_orders` different orders of the first part, then the second, ..., shape (orders, variables)."""
    rng = np.random.default_rng(seed)
    ways = [factorial(len(part)) for part in parts]
    total = prod(ways)
    if total > _COUNTABLE:  # so many that two draws are never alike
        return np.concatenate([rng.permuted(np.tile(part, (num_orders, 1)), axis=1) for part in parts], axis=1)
    picks = np.arange(total) if total <= num_orders else rng.choice(total, num_orders, replace=False)
    drawn = [np.zeros((len(picks), 0), dtype=np.intp)]
    for number, part in enumerate(parts):
        later = prod(ways[number + 1 :])
        drawn.append(part[_permutations(picks // later % ways[number], len(part))])
    return np.concatenate(drawn, axis=1)


def _permutations(numbers: Ints, size: int) -> Ints:
    """The permutations of 0 .. size - 1 with these lexicographic numbers, shape (len(numbers), size)."""
    permutations = np.zeros((len(numbers), size), dtype=np.intp)
    for place in reversed(range(size)):
        digit = numbers // factorial(size - 1 - place) % (size - place)
        permutations[:, place] = digit
        permutations[:, place + 1 :] += permutations[:, place + 1 :] >= digit[:, None]
    return permutations
