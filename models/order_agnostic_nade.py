"""The order-agnostic NADE: one network for p(any variable | any others), trained on all orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_gen.data.columns import Rows
from ppl_gen.data.schema import Codes, Schema
from ppl_gen.language import factor, plate, xp
from ppl_gen.nn import linear
from ppl_gen.program.arrays import Array

_NEVER = -1e9  # logit of a level that a variable lacks: its probability is exactly zero, its gradient finite


class OrderAgnosticNADE:
    """p(x_j | x_observed) for every variable and every set of observed ones (Uria, Murray, Larochelle 2014).

    A residual multilayer perceptron sees the observed values (plus or minus one, or one-hot, zero where not
    observed) and which of them are observed; it returns logits of all variables. Each order of visit is a
    proper distribution; training maximizes the mean over orders of the log-likelihood, one random mask per
    row and step.

    What is assumed of missing values: p(x_j | x_S) is learned from the rows in which x_j and all of x_S are recorded,
    each such row counting alike. It is the distribution in the population if, among rows of one x_S, being recorded does
    not depend on x_j. That holds for all j and S where values go missing completely at random. Where the gaps of one column
    depend on the values of others that are recorded more often (colour is known only for owners), it holds for S that
    has those others in it; so a joint distribution visits columns with fewer gaps first (`Schema.tiers`), and draws,
    log-likelihoods and marginals are right. With such a column as evidence the answer is one about rows that record it.
    Where gaps depend on the missing value itself nothing can be learned of it from the data.

    Args:
        variables: a `data.Schema`, or a number of binary variables.
        hidden: widths of the hidden layers; a layer as wide as the one before is added to it.
        data: rows whose marginals start the output biases, and which say what gaps each column has; None starts
            the biases at even odds and takes the gaps from the schema.

    Raises:
        TypeError: `variables` is neither.
        ValueError: no variables, no hidden layer, or a width below one.
    """

    def __init__(self, variables: Schema | int, hidden: Sequence[int] = (500, 500), data: Rows | None = None) -> None:
        if isinstance(variables, bool) or not isinstance(variables, Schema | int):
            raise TypeError(
                "models.OrderAgnosticNADE: expected variables to be a Schema or a number of binary variables;"
                f" got {type(variables).__name__}. Use data.Schema.of(rows)."
            )
        if isinstance(variables, int) and variables < 1:
            raise ValueError(f"models.OrderAgnosticNADE: expected one variable or more; got {variables}. Use data_dim.")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"models.OrderAgnosticNADE: expected widths of one or more; got {hidden}. Use (500, 500).")
        self.schema = Schema.binary(variables) if isinstance(variables, int) else variables
        self.hidden = tuple(hidden)
        self._units = _Units(self.schema.cardinalities)
        self._bias: Any = 0.0
        if data is not None:
            codes = self.prepare(data)
            self.schema, self._bias = self.schema.with_gaps_of(codes), self._units.log_odds(codes)

    def __repr__(self) -> str:
        """Variables and widths."""
        return f"OrderAgnosticNADE({self.schema!r}, hidden={self.hidden})"

    def prepare(self, data: Rows) -> Codes:
        """Rows as codes, shape (rows, variables), NaN where missing.

        Raises:
            TypeError: data is neither an array nor a frame.
            ValueError: another number of columns, or a value that is not a level.
        """
        return self.schema.encode(data)

    def __call__(self, codes: Array) -> None:
        """The training program: one unbiased estimate of each row's mean over orders of log p, up to the first gap.

        Of all D! orders of the D variables, each is followed until it comes to a variable that the row lacks. So the term
        log p(x_j | x_S) has weight d! (D - d - 1)! / D!, d the size of S, in every row that has x_j and x_S, and none in
        the others: what else a row has does not matter. (A mean over the orders of what the row has would give rows
        with few values more weight, and the conditionals of such rows would be learned.) Without gaps it is the mean over
        all orders of the row's log-likelihood.

        It is estimated from one set: of the m variables a row has, d are observed, d uniform on 0 .. m - 1 and the set
        uniform of its size; the sum of log p of the m - d others counts with

            m / (m - d) * [m (m - 1) ... (m - d)] / [D (D - 1) ... (D - d)],

        the weight above over the probability of the set, (m - d)! d! / (m m!). Sizes are stratified over the rows, which
        leaves each row's own d uniform. What is missing is never an input and never a target.

        Args:
            codes: shape (rows, variables), NaN where missing.
        """
        present = xp.astype(~xp.isnan(codes), xp.float32)
        values = xp.where(xp.isnan(codes), xp.zeros_like(codes), codes)
        with plate("data", codes.shape[0]):
            observed, weight = self._draw_mask(present)
            log_probs = self._units.log_prob(self._logits(values, observed), values)
            factor("x", weight * xp.sum((present - observed) * log_probs, axis=1))

    def log_conditionals(self, codes: Array, mask: Array) -> Array:
        """Log p(x_j = level | x_mask) of all variables at once.

        Args:
            codes: shape (rows, variables); what the mask leaves out is not looked at and may be NaN.
            mask: which variables are observed, booleans of the same shape.

        Returns:
            Nats, shape (rows, variables, levels), -inf beyond a variable's own levels; at observed variables
            too.
        """
        observed = xp.astype(mask, xp.float32)
        values = xp.where(observed > 0, codes, xp.zeros_like(codes))
        log_probs = self._units.log_probs(self._logits(values, observed))
        if self._units.absent is None:
            return log_probs
        absent = xp.asarray(self._units.absent)
        return xp.where(absent, xp.full_like(log_probs, -float("inf")), log_probs)

    def _draw_mask(self, present: Array) -> tuple[Array, Array]:
        """Which variables are observed (rows, variables), and the weight of the others, shape (rows,)."""
        num_rows = present.shape[0]
        stratum = xp.astype(xp.argsort(xp.random.uniform((num_rows,))), xp.float32)
        fraction = (stratum + xp.random.uniform((num_rows,))) / num_rows
        count = xp.sum(present, axis=1)
        last = xp.clip(count - 1, 0, None)
        size = xp.minimum(xp.floor(fraction * count), last)  # rounding may lift a fraction to one
        place = xp.random.uniform(present.shape) + 2 * (1 - present)  # what is missing comes last
        rank = xp.argsort(xp.argsort(place, axis=1), axis=1)
        observed = xp.astype(xp.astype(rank, xp.float32) < xp.expand_dims(size, axis=1), xp.float32)
        return observed, count / xp.clip(count - size, 1, None) * self._share_of_orders(count, size)

    def _share_of_orders(self, count: Array, size: Array) -> Array:
        """The share of all orders whose first d + 1 variables a row has, shape (rows,); one where nothing is missing."""
        place = xp.asarray(np.arange(len(self.schema), dtype=np.float32))
        left, after = xp.expand_dims(count, axis=1) - place, xp.expand_dims(size, axis=1)
        ratio = xp.clip(left, 0, None) / (len(self.schema) - place)
        return xp.prod(xp.where(place <= after, ratio, xp.ones_like(ratio)), axis=1)

    def _logits(self, values: Array, observed: Array) -> Array:
        inputs = xp.concat([self._units.of_values(values, observed), observed], axis=1)
        hidden = _silu(linear("hidden.0", inputs, self.hidden[0]))
        for depth, width in enumerate(self.hidden[1:], start=1):
            update = _silu(linear(f"hidden.{depth}", _normalize(hidden), width))
            hidden = hidden + update if hidden.shape[1] == width else update
        return linear("output", hidden, self._units.size, scale=0.1, bias=self._bias)


class _Units:
    """The packed segments of inputs and logits: one unit for a variable of two levels, else one per level.

    Attributes:
        size: number of units.
        absent: levels that a variable lacks, shape (variables, levels); None where all have the same number.
    """

    def __init__(self, cardinalities: Sequence[int]) -> None:
        self.cardinalities = np.array(cardinalities)
        self.levels = int(self.cardinalities.max())
        self._binary = self.cardinalities == 2
        width = np.where(self._binary, 1, self.cardinalities)
        self.start = np.cumsum(width) - width
        self.size = int(width.sum())
        self._owner = np.repeat(np.arange(len(width)), width)
        self._level = np.arange(self.size) - self.start[self._owner] + self._binary[self._owner]
        beyond = np.arange(self.levels) >= self.cardinalities[:, None]
        self.absent: NDArray[np.bool_] | None = beyond if beyond.any() else None
        self._place = self._places(beyond)

    def _places(self, beyond: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Where each level's logit lies among the units, then one that is 0 and one that is never chosen."""
        place = self.start[:, None] + np.arange(self.levels) - self._binary[:, None]
        place[self._binary, 0] = self.size
        return np.where(beyond, self.size + 1, place).reshape(-1)

    def of_values(self, values: Array, observed: Array) -> Array:
        """Inputs (rows, units): plus or minus one for two levels, else one-hot; zero where not observed."""
        if self._binary.all():
            return (2 * values - 1) * observed
        owner = xp.asarray(self._owner)
        level = xp.asarray(self._level.astype(np.float32))
        two = xp.asarray(self._binary[self._owner].astype(np.float32))
        chosen = xp.astype(xp.take(values, owner, axis=1) == level, xp.float32)
        return (chosen * (1 + two) - two) * xp.take(observed, owner, axis=1)

    def log_probs(self, logits: Array) -> Array:
        """Log-probabilities (rows, variables, levels) of logits (rows, units); very low where no level is."""
        num_rows, num_variables = logits.shape[0], len(self.cardinalities)
        if self._binary.all():
            return xp.stack([xp.log_sigmoid(-logits), xp.log_sigmoid(logits)], axis=2)
        zeros = xp.zeros_like(logits[:, :1])
        if self.absent is not None or self._binary.any():
            logits = xp.take(xp.concat([logits, zeros, zeros + _NEVER], axis=1), xp.asarray(self._place), axis=1)
        return xp.log_softmax(xp.reshape(logits, (num_rows, num_variables, self.levels)), axis=2)

    def log_prob(self, logits: Array, values: Array) -> Array:
        """Logits (rows, units) -> log-probabilities of the values, shape (rows, variables)."""
        if self._binary.all():
            return xp.log_sigmoid((2 * values - 1) * logits)
        log_probs = self.log_probs(logits)
        levels = xp.asarray(np.arange(self.levels, dtype=np.float32))
        chosen = xp.expand_dims(values, axis=2) == levels
        return xp.sum(xp.where(chosen, log_probs, xp.zeros_like(log_probs)), axis=2)

    def log_odds(self, codes: Codes) -> NDArray[np.float32]:
        """Logits (units,) of the marginals in `codes`, each level counted once more than it occurs."""
        counts = np.stack([(codes == level).sum(0) for level in range(self.levels)], axis=1) + 1.0
        own = np.log(counts[self._owner, self._level])
        reference = np.where(self._binary, np.log(counts[:, 0]), np.log(counts.sum(1)))
        start: NDArray[np.float32] = (own - reference[self._owner]).astype(np.float32)
        return start


def _silu(values: Array) -> Array:
    return values * xp.sigmoid(values)


def _normalize(values: Array) -> Array:
    """Each row with mean zero and variance one, without parameters (the next layer has its own)."""
    centred = values - xp.mean(values, axis=1, keepdims=True)
    return centred / xp.sqrt(xp.mean(centred**2, axis=1, keepdims=True) + 1e-5)
