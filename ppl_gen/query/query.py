"""p(any variables given any others), from a network of conditionals that was trained on all orders.

For every order that visits the evidence b first and then the asked variables a, the network is a proper
distribution p_k. The answers here belong to one joint distribution, the even mixture of the p_k over the
orders drawn:

    p(a | b) = sum_k w_k p_k(a | b),   w_k = p_k(b) / sum_j p_j(b)

so they add up to one over a, whatever the network. Variables neither given nor asked for are never visited,
which sums them out (Uria, Murray, Larochelle 2014 give the even mixture for the joint).

Among the given and among the asked, columns with fewer gaps come first (`Schema.tiers`): where a column's gaps depend on
the values of a column that is recorded more often, only such orders give the joint distribution (Anderson 1957).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_gen.backends.seeds import as_seed
from ppl_gen.data.columns import Name, Rows, is_frame, show
from ppl_gen.data.dataset import fingerprint
from ppl_gen.data.schema import Schema
from ppl_gen.evaluate.log_prob import LogProb
from ppl_gen.program.arrays import Seed
from ppl_gen.query.conditionals import Conditionals, Floats, Network, compact, ensemble_log_prob
from ppl_gen.query.mixture import Mixture
from ppl_gen.query.orders import Bools, Ints, Small, draw_orders

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Conditional", "condition", "ensemble_log_prob"]


def condition(
    network: Network,
    schema: Schema,
    of: Sequence[Name] | None = None,
    given: Mapping[Any, object] | Rows | None = None,
    orders: int = 16,
    seed: int = 0,
    fingerprint: str | None = None,
) -> Conditional:
    """The conditional distribution of the variables `of`, given evidence.

    Args:
        network: host function, codes (n, variables) and visited (n, variables) -> log-probabilities in nats,
            shape (n, variables, levels), -inf beyond a variable's own levels.
        schema: names and levels of the variables.
        of: names of the variables asked for, which make the columns of all answers. None asks for all that is
            not given: after a dict (or nothing) these are the columns; after rows the columns are all
            variables, and what is given in a row is repeated there.
        given: None, a dict (one row), or rows (array or frame) with NaN where nothing is given, which may
            differ from row to row.
        orders: how many orders for each row; all of them where there are no more.
        seed: of the orders; the same mask gets the same orders.
        fingerprint: of the data, passed on to each `LogProb`; None makes one of evidence and values.

    Raises:
        ValueError: an unknown name or level, evidence on a variable asked for, nothing asked for, a name
            twice, no rows, or fewer than one order.
    """
    codes = schema.encode_evidence(given)
    known, asked = ~np.isnan(codes), np.zeros(codes.shape, dtype=bool)
    one_row = given is None or isinstance(given, Mapping)
    if of is None:
        asked = ~known
        columns = np.flatnonzero(asked[0]) if one_row else np.arange(len(schema))
        if not asked.any():
            raise ValueError("query: expected a variable to ask for; got evidence on all. Leave one out of `given`.")
    else:
        columns = _columns_of(of, schema, known)
        asked[:, columns] = True
    index = given.index if is_frame(given) else None
    drawn = draw_orders(known, asked, orders, seed, schema.tiers)
    mixture = Mixture(Conditionals(network), schema.cardinalities, compact(codes), asked, drawn)
    return Conditional(mixture, schema, columns, not one_row, index, fingerprint)


def _columns_of(of: Sequence[Name], schema: Schema, known: Bools) -> Ints:
    """The columns of the names asked for, once they make sense."""
    if isinstance(of, str | int):
        raise TypeError(f"query: expected a list of names; got {of!r}. Write [{of!r}].")
    names = list(of)
    if not names:
        raise ValueError("query: expected at least one name in `of`; got none. Leave `of` out to ask for all the rest.")
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ValueError(f"query: expected distinct names in `of`; got {show(twice)} more than once. Name each once.")
    if unknown := [name for name in names if name not in schema.names]:
        raise ValueError(f"query: expected names among {show(schema.names)}; got {show(unknown)}. Use one of them.")
    columns = np.array([schema.index(name) for name in names], dtype=np.intp)
    if both := [name for name, column in zip(names, columns, strict=True) if known[:, column].any()]:
        raise ValueError(
            f"query: expected evidence on other variables than those asked for; got both for {show(both)}. "
            "Take them out of `of` or out of `given`."
        )
    return columns


class Conditional:
    """p(variables asked for | evidence), one distribution per row; made by `condition` or `Fit.query`.

    Answers have the form of the schema: arrays, or frames with one column per variable asked for.

    Attributes:
        of: names of the columns of all answers.
    """

    def __init__(
        self,
        mixture: Mixture,
        schema: Schema,
        columns: Ints,
        many: bool,
        index: pd.Index[Any] | None,
        fingerprint: str | None,
    ) -> None:
        self.of = tuple(schema.names[column] for column in columns)
        self._mixture, self._columns = mixture, columns
        self._schema = schema.select(self.of)
        self._many, self._index, self._fingerprint = many, index, fingerprint
        self._notes: dict[str, Any] = {"spread": None, "marginals": None, "mode": None}

    def __len__(self) -> int:
        """The number of rows of evidence."""
        return len(self._mixture.codes)

    def __repr__(self) -> str:
        """What is asked for, and how many rows and orders."""
        return f"Conditional(of={show(self.of)}, rows={len(self)}, orders={self._mixture.orders.count.max()})"

    @property
    def info(self) -> dict[str, Any]:
        """How the answers come about.

        Keys:
            kind: "exact": densities and draws are those of the mixture over the orders listed.
            of: names of the columns.
            orders: positions of variables in the schema, the given ones first; an array (orders, given +
                asked) if all rows have one mask, else a list of such arrays, one per row.
            weights: of the orders, shape (rows, orders), in proportion to their probability of the evidence;
                zero where a row has fewer orders.
            effective_orders: 1 / sum of squared weights, shape (rows,).
            spread: standard deviation over orders of the last `log_prob`, nats, one per row; None before one.
            marginals, mode: how the last of them was found; None before one.
            evaluations: rows on which the network has been evaluated.
        """
        weights, orders = np.exp(self._mixture.log_weights), self._mixture.orders
        listed = [orders.of_row(row) for row in range(len(self))]
        return {
            "kind": "exact",
            "of": self.of,
            "orders": listed[0] if len(orders.count) == 1 else listed,
            "weights": weights,
            "effective_orders": 1 / np.square(weights).sum(1),
            "evaluations": self._mixture.conditionals.evaluations,
            **self._notes,
        }

    def log_prob(self, values: Mapping[Any, object] | Rows) -> LogProb:
        """Log p(values | evidence), nats, exact for the mixture over the orders.

        Args:
            values: shape (rows, len(of)), a frame with these columns, or a dict for one row. One row of
                evidence is held against many rows of values, and the other way round.

        Returns:
            One value per row. A value that contradicts the evidence repeated in its row has -inf.

        Raises:
            ValueError: another width or number of rows, a missing value, or one that is not a level.
        """
        asked = compact(self._encode(values))
        codes, rows, possible = self._complete_rows(asked)
        value, self._notes["spread"] = self._mixture.log_prob(codes, rows)
        mark = self._fingerprint or fingerprint(self._mixture.codes, asked, preprocessing=show(self.of))
        return LogProb(np.where(possible, value, -np.inf), 0.0, "exact", mark)

    def sample(self, n: int, seed: Seed = 0) -> Any:
        """Independent draws, each along one order that is drawn by its weight.

        Args:
            n: draws per row of evidence.
            seed: of the draws.

        Returns:
            An array (n, rows, len(of)), or a frame of n * rows rows with index ("sample", "row"); after a
            dict the frame has n rows and index "sample".

        Raises:
            ValueError: `n` is not a positive whole number.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"query.sample: expected n to be a whole number of one or more; got {n!r}. Use 1000.")
        rows = np.tile(np.arange(len(self)), n)
        codes = self._mixture.sample(rows, np.random.default_rng(as_seed(seed)))[:, self._columns]
        if self._schema.form == "array":
            return self._schema.decode(codes.reshape(n, len(self), -1))
        return self._schema.decode(codes).set_axis(self._sample_index(n), axis=0)

    def marginals(self, num_samples: int = 1000, seed: Seed = 0) -> dict[Name, Floats]:
        """The distribution of each single variable given the evidence.

        Exact where a row has at most 4096 completions. Else the mean of the conditionals met along
        `num_samples` draws, which is unbiased; ``info["marginals"]`` says which, with the standard error.

        Returns:
            Variable -> probabilities of its levels in the schema's order, shape (rows, levels). A variable
            that is given in a row has all mass there.

        Raises:
            ValueError: fewer than two samples.
        """
        if num_samples < 2:
            raise ValueError(f"query.marginals: expected num_samples of two or more; got {num_samples}. Use 1000.")
        mean, error = self._mixture.marginals(num_samples, np.random.default_rng(as_seed(seed)))
        exact = bool(self._mixture.few.all())
        self._notes["marginals"] = {
            "kind": "exact" if exact else "estimate",
            "num_samples": 0 if exact else num_samples,
            "standard_error": self._by_variable(error),
        }
        return self._by_variable(mean)

    def mean(self, num_samples: int = 1000, seed: Seed = 0) -> Any:
        """The expected value of each variable, shape (rows, len(of)), or a frame; from `marginals`.

        Raises:
            ValueError: a variable's levels are no numbers.
        """
        levels = [variable.levels for variable in self._schema.variables]
        for name, values in zip(self.of, levels, strict=True):
            if any(isinstance(value, str) for value in values):
                raise ValueError(
                    f"query.mean: expected numbers; got column {name!r} with levels {show(values)}. Use "
                    ".marginals() or .mode()."
                )
        marginals = self.marginals(num_samples, seed)
        columns = [marginals[n] @ np.array(v, dtype=np.float64) for n, v in zip(self.of, levels, strict=True)]
        means = np.stack(columns, axis=1)
        if self._schema.form == "array":
            return means
        import pandas as pd

        return pd.DataFrame(means, columns=list(self.of), index=self._index)

    def mode(self, sweeps: int = 10, seed: Seed = 0) -> Any:
        """The most probable values of all variables together, shape (rows, len(of)), or a frame.

        Exact where a row has at most 4096 completions. Else the best of the completions that are greedy along
        each order and of 32 draws, then raised one variable at a time for at most `sweeps` rounds: a local
        maximum. ``info["mode"]`` says which, with the log-probability found.
        """
        best, log_prob = self._mixture.mode(sweeps, np.random.default_rng(as_seed(seed)))
        kind = "exact" if self._mixture.few.all() else "local maximum"
        self._notes["mode"] = {"kind": kind, "log_prob": log_prob}
        values = self._schema.decode(best[:, self._columns])
        framed = self._index is not None and self._schema.form == "frame"
        return values.set_axis(self._index, axis=0) if framed else values

    def _encode(self, values: Mapping[Any, object] | Rows) -> Floats:
        """Values as codes (rows, len(of))."""
        if isinstance(values, Mapping):
            return self._schema.encode_evidence(values)
        if is_frame(values) and all(name in values.columns for name in self.of):
            values = values[list(self.of)]
        elif not is_frame(values):
            values = np.asarray(values)
            shape = values.shape
            if len(shape) != 2 or shape[1] != len(self.of):
                raise ValueError(
                    f"query.log_prob: expected values of shape (rows, {len(self.of)}), the columns "
                    f"{show(self.of)}; got {shape}. Pass one column per variable asked for."
                )
        return self._schema.encode(values)

    def _complete_rows(self, values: Small) -> tuple[Small, Ints, Bools]:
        """Evidence with values put in, the row of evidence each belongs to, and whether the two agree."""
        num_rows, num_values = len(self), len(values)
        if num_rows != num_values and 1 not in (num_rows, num_values):
            raise ValueError(
                f"query.log_prob: expected {num_rows} rows of values, one per row of evidence; got "
                f"{num_values}. Pass as many, or one."
            )
        rows = np.arange(num_rows) if num_values in (1, num_rows) else np.zeros(num_values, dtype=np.intp)
        codes, asked = self._mixture.codes[rows], self._mixture.asked[rows][:, self._columns]
        values, known = np.broadcast_to(values, (len(rows), len(self.of))), codes[:, self._columns]
        if (lacking := asked & (values < 0)).any():
            name = self.of[int(np.argwhere(lacking)[0, 1])]
            raise ValueError(
                "query.log_prob: expected a value for each variable asked for; got none for column "
                f"{name!r}. Leave it out of `of` to sum it out."
            )
        codes[:, self._columns] = np.where(asked, values, known)
        return codes, rows, ~(~asked & (values >= 0) & (values != known)).any(1)

    def _by_variable(self, table: Floats) -> dict[Name, Floats]:
        levels = self._schema.cardinalities
        places = zip(self.of, self._columns, levels, strict=True)
        return {name: table[:, column, :size].copy() for name, column, size in places}

    def _sample_index(self, n: int) -> Any:
        import pandas as pd

        if not self._many:
            return pd.RangeIndex(n, name="sample")
        rows = range(len(self)) if self._index is None else self._index
        return pd.MultiIndex.from_product([range(n), rows], names=["sample", "row"])
