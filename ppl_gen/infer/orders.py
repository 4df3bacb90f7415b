"""Orders in which variables are visited: what is given first, then what is asked for, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

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


def draw_orders(given: Bools, asked: Bools, num_orders: int, seed: int) -> Orders:
    """Random orders for every row, without replacement: all where there are no more than `num_orders`.

    Args:
        given: variables that come first, shape (rows, variables).
        asked: variables that come next, same shape, never both.
        num_orders: at most this many for each row.
        seed: of the draw; the same mask gets the same orders.

    Raises:
        ValueError: `num_orders` is not a positive whole number.
    """
    if isinstance(num_orders, bool) or not isinstance(num_orders, int | np.integer) or num_orders < 1:
        raise ValueError(f"query: expected orders to be a whole number of one or more; got {num_orders!r}. Use 16.")
    states, pattern = np.unique(given + 2 * asked.astype(np.int8), axis=0, return_inverse=True)
    drawn = [_draw(np.flatnonzero(state == 1), np.flatnonzero(state == 2), num_orders, seed) for state in states]
    num_variables = given.shape[1]
    order = np.full((len(states), max(map(len, drawn)), num_variables), -1, dtype=np.int16)
    rank = np.full_like(order, num_variables)
    for index, orders in enumerate(drawn):
        places = np.arange(orders.shape[1], dtype=np.int16)
        order[index, : len(orders), : len(places)] = orders
        np.put_along_axis(rank[index, : len(orders)], orders, places[None], axis=1)
    num_given, num_asked = (states == 1).sum(1), (states == 2).sum(1)
    count = np.array([len(orders) for orders in drawn])
    return Orders(pattern.reshape(-1), order, rank, num_given, num_asked, count)


def _draw(given: Ints, asked: Ints, num_orders: int, seed: int) -> Ints:
    """At most `num_orders` different orders of `given`, then `asked`, shape (orders, given + asked)."""
    rng = np.random.default_rng(seed)
    ways = factorial(len(asked))
    total = factorial(len(given)) * ways
    if total > _COUNTABLE:  # so many that two draws are never alike
        parts = [rng.permuted(np.tile(part, (num_orders, 1)), axis=1) for part in (given, asked)]
        return np.concatenate(parts, axis=1)
    picks = np.arange(total) if total <= num_orders else rng.choice(total, num_orders, replace=False)
    return np.concatenate(
        [given[_permutations(picks // ways, len(given))], asked[_permutations(picks % ways, len(asked))]], 1
    )


def _permutations(numbers: Ints, size: int) -> Ints:
    """The permutations of 0 .. size - 1 with these lexicographic numbers, shape (len(numbers), size)."""
    permutations = np.zeros((len(numbers), size), dtype=np.intp)
    for place in reversed(range(size)):
        digit = numbers // factorial(size - 1 - place) % (size - place)
        permutations[:, place] = digit
        permutations[:, place + 1 :] += permutations[:, place + 1 :] >= digit[:, None]
    return permutations
