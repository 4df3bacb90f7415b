"""The joint distribution behind a query: p(asked | given) as a weighted mixture over orders, row by row.

Codes are integers here, -1 where there is no value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from ppl_gen.query.conditionals import Conditionals, Floats, blocks, draw_levels, logsumexp, spread_over
from ppl_gen.query.orders import Bools, Ints, Orders, Small

_ENUMERABLE = 4096  # most completions of one row that are listed one by one
_STARTS = 32  # draws among which the search for a mode starts


class Mixture:
    """Densities, draws, marginals and modes of the asked variables of each row.

    Args:
        conditionals: the network.
        cardinalities: number of levels of each variable.
        codes: the evidence, shape (rows, variables).
        asked: the variables asked for, same shape.
        orders: for these rows.
    """

    def __init__(
        self,
        conditionals: Conditionals,
        cardinalities: Sequence[int],
        codes: Small,
        asked: Bools,
        orders: Orders,
    ) -> None:
        self.conditionals, self.orders = conditionals, orders
        self.codes, self.asked = codes, asked
        self._levels = np.array(cardinalities)

    @cached_property
    def log_weights(self) -> Floats:
        """Log w_k = log p_k(given) - log sum_j p_j(given), shape (rows, orders); -inf where no order is.

        Raises:
            ValueError: a row's evidence has probability zero along every order.
        """
        evidence = self.conditionals.along(self.codes, np.arange(len(self.codes)), self.orders, "given")
        total = logsumexp(evidence)
        if not np.isfinite(total).all():
            row = int(np.flatnonzero(~np.isfinite(total))[0])
            raise ValueError(
                f"query: expected possible evidence; got probability zero in row {row}. Give less or other."
            )
        weights: Floats = evidence - total[:, None]
        return weights

    @cached_property
    def few(self) -> Bools:
        """Which rows have so few completions that they are enumerated, shape (rows,)."""
        fewer: Bools = self._num_completions() <= _ENUMERABLE
        return fewer

    def log_prob(self, codes: Small, rows: Ints) -> tuple[Floats, Floats]:
        """Log p(asked | given) of completed rows, nats, and its spread over orders, both of shape (n,)."""
        per_order = self.conditionals.along(codes, rows, self.orders, "asked")
        value = logsumexp(per_order + self.log_weights[rows])
        return np.minimum(value, 0.0), spread_over(per_order, self.orders.used(rows))  # rounding aside

    def sample(self, rows: Ints, rng: np.random.Generator) -> Small:
        """A completion for each of `rows`, shape (len(rows), variables)."""
        drawn = self.codes[rows]
        for block in blocks(len(rows), self.codes.shape[1]):
            for _ in self._steps(drawn[block], rows[block], rng):
                pass
        return drawn

    def marginals(self, num_samples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """p(variable | given) and its standard error, both (rows, variables, levels).

        Exact, with error zero, for rows of few completions; else the mean of the conditionals met along
        draws. A given variable has all mass at its value; what is neither given nor asked for has none.
        """
        mean = np.zeros((*self.codes.shape, int(self._levels.max())))
        error = np.zeros_like(mean)
        row, column = np.nonzero((self.codes >= 0) & ~self.asked)
        mean[row, column, self.codes[row, column]] = 1.0
        for here, codes in self._completions(np.flatnonzero(self.few)):
            probability = np.exp(self.log_prob(codes, here)[0])
            item, column = np.nonzero(self.asked[here])
            np.add.at(mean, (here[item], column, codes[item, column]), probability[item])
        for many in np.flatnonzero(~self.few):
            self._estimate(int(many), num_samples, rng, mean[many], error[many])
        return mean, error

    def mode(self, sweeps: int, rng: np.random.Generator) -> tuple[Small, Floats]:
        """The likeliest completion found of each row, shape (rows, variables), and its log p, shape (rows,).

        The likeliest of all where completions are few; else a local maximum: the best of the greedy path of
        each order and of some draws, raised one variable at a time.
        """
        best, top = self.codes.copy(), np.full(len(self.codes), -np.inf)
        for rows, codes in self._completions(np.flatnonzero(self.few)):
            self._keep(rows, codes, best, top)
        for many in np.flatnonzero(~self.few):
            self._search(int(many), sweeps, rng, best, top)
        return best, top

    def _num_completions(self) -> Floats:
        """How many values the asked variables of a row have together, shape (rows,); inf beyond counting."""
        with np.errstate(over="ignore"):
            count: Floats = np.where(self.asked, self._levels.astype(np.float64), 1.0).prod(1)
        return count

    def _completions(self, rows: Ints) -> Iterator[tuple[Ints, Small]]:
        """All completions of these rows, many rows at a time: rows (n,) and codes (n, variables)."""
        counts = self._num_completions()[rows].astype(np.intp)
        batch = np.cumsum(counts) // _ENUMERABLE
        for number in np.unique(batch):
            here, count = rows[batch == number], counts[batch == number]
            item = np.repeat(here, count)
            rest = np.arange(len(item)) - np.repeat(np.cumsum(count) - count, count)
            codes = self.codes[item]
            for column, levels in enumerate(self._levels):
                asked = self.asked[item, column]
                codes[asked, column] = rest[asked] % levels
                rest[asked] //= levels
            yield item, codes

    def _steps(self, codes: Small, rows: Ints, rng: np.random.Generator) -> Iterator[tuple[Ints, Floats]]:
        """Draw an order for each of `rows` by its weight, then the asked variables of `codes` one by one."""
        k = draw_levels(np.exp(self.log_weights[rows]), rng)
        return self.conditionals.complete(codes, rows, k, self.orders, rng)

    def _estimate(self, row: int, num_samples: int, rng: np.random.Generator, mean: Floats, error: Floats) -> None:
        total, square = np.zeros_like(mean), np.zeros_like(mean)
        rows = np.full(num_samples, row)
        for block in blocks(num_samples, self.codes.shape[1]):
            for targets, log_probs in self._steps(self.codes[rows[block]], rows[block], rng):
                probability = np.exp(log_probs[:, : mean.shape[1]])
                np.add.at(total, targets, probability)
                np.add.at(square, targets, probability**2)
        asked = self.asked[row]
        mean[asked] = total[asked] / num_samples
        variance = np.maximum(square[asked] / num_samples - mean[asked] ** 2, 0.0)
        error[asked] = np.sqrt(variance / (num_samples - 1))

    def _search(self, row: int, sweeps: int, rng: np.random.Generator, best: Small, top: Floats) -> None:
        k = np.flatnonzero(self.orders.used(np.array([row]))[0])
        rows = np.full(len(k), row)
        greedy = self.codes[rows]
        for _ in self.conditionals.complete(greedy, rows, k, self.orders, None):
            pass
        starts = np.concatenate([greedy, self.sample(np.full(_STARTS, row), rng)])
        self._keep(np.full(len(starts), row), starts, best, top)
        for _ in range(sweeps):
            before = top[row]
            for column in np.flatnonzero(self.asked[row]):
                codes = np.repeat(best[row][None], self._levels[column], axis=0)
                codes[:, column] = np.arange(len(codes))
                self._keep(np.full(len(codes), row), codes, best, top)
            if top[row] == before:
                break

    def _keep(self, rows: Ints, codes: Small, best: Small, top: Floats) -> None:
        """Put the likeliest of each row's candidates into `best` and `top` where it beats what is there."""
        log_probs = self.log_prob(codes, rows)[0]
        order = np.argsort(log_probs, kind="stable")
        winner = np.full(len(top), -1)
        winner[rows[order]] = order  # the last written, the likeliest, stays
        found = np.flatnonzero(winner >= 0)
        better = found[log_probs[winner[found]] > top[found]]
        best[better], top[better] = codes[winner[better]], log_probs[winner[better]]
