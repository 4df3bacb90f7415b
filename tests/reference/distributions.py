"""Distributions of the NumPy reference: densities in float64, and quadrature rules instead of samplers.

A rule replaces the expectation over one scalar by a weighted sum. Finite supports are exact. For a smooth
integrand that grows at most polynomially the others are good to about 1e-7 relative: Normal and LogNormal by
Gauss-Hermite (24 nodes), Gamma, Exponential, HalfNormal and Beta by the trapezoid rule after a log or logit
transform, Uniform by tanh-sinh; logarithmic ends such as ``log z`` are covered. Concentrations should lie
between 0.5 and 10. A Normal whose cost has steps or kinks takes their places as `breaks` and is then
integrated piece by piece by Gauss-Legendre (20 nodes each).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Array = Any  # NumPy's, or a number

Rule = tuple[Array, Array]  # nodes (n, *shape), log of the quadrature weights of dz (0 for a finite support)

_HERMITE = np.polynomial.hermite.hermgauss(24)
_LEGENDRE = np.polynomial.legendre.leggauss(20)
_TAIL = 32.0  # nats below the mode where a trapezoid rule ends: 1e-14
_STEP = 0.25  # trapezoid spacing; its error is about |Gamma(a + 2 i pi / step)| / Gamma(a): 1e-12 at a = 5
_REACH = 7.0  # standard deviations that the pieces of a Normal cover: 3e-12 of the mass is left out

_lgamma = np.frompyfunc(math.lgamma, 1, 1)
_erf = np.frompyfunc(math.erf, 1, 1)


def lgamma(x: ArrayLike) -> Array:
    """Log of the gamma function, elementwise."""
    return np.asarray(_lgamma(x), dtype=float)


def erf(x: ArrayLike) -> Array:
    """The error function, elementwise."""
    return np.asarray(_erf(x), dtype=float)


def softplus(x: ArrayLike) -> Array:
    """``log(1 + exp(x))``, elementwise."""
    return np.logaddexp(0.0, x)


def sigmoid(x: ArrayLike) -> Array:
    """``1 / (1 + exp(-x))``, elementwise."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x)))


def logsumexp(x: ArrayLike, axis: int = -1, keepdims: bool = False) -> Array:
    """``log(sum(exp(x)))`` along `axis`."""
    reduce: Any = np.logaddexp.reduce  # its stub lacks a keepdims that is not literal
    return np.asarray(reduce(x, axis=axis, keepdims=keepdims))


class Distribution:
    """A batch of independent scalars.

    Attributes:
        batch_shape: shape of `log_prob`.
        event_shape: what `to_event` has moved out of the batch.
    """

    def __init__(self, **params: ArrayLike) -> None:
        self.params = {name: np.asarray(value, dtype=float) for name, value in params.items()}
        self.batch_shape = np.broadcast_shapes(*(value.shape for value in self.params.values()))
        self.event_shape: tuple[int, ...] = ()
        self._prepare(**self.params)

    def _prepare(self, probs: Array = None, logits: Array = None, **params: Array) -> None:
        """Set what `log_density` needs beyond the parameters."""

    def log_density(self, value: Array) -> Array:
        """Log density (nats) before any mask; shape of the batch, or of `value` with its event reduced."""
        raise NotImplementedError

    def log_prob(self, value: ArrayLike) -> Array:
        """Log density (nats) with masked elements at 0."""
        return self.log_density(np.asarray(value))

    def rule(self, breaks: Sequence[float] = ()) -> Rule:
        """Nodes and log weights of the expectation, elementwise."""
        raise TypeError(
            f"reference: expected a latent whose expectation can be computed; got {type(self).__name__}. "
            "Use Bernoulli, Categorical, Delta, Normal, LogNormal, Gamma, Exponential, HalfNormal, Beta "
            "or Uniform."
        )

    def to_event(self, num_dims: int | None = None) -> Distribution:
        """The last `num_dims` batch dimensions (all by default) become one event."""
        num_dims = len(self.batch_shape) if num_dims is None else num_dims
        return Independent(self, num_dims) if num_dims else self

    def mask(self, mask: ArrayLike) -> Distribution:
        """The same draws; `log_prob` counts only where `mask` (broadcastable to the batch) is true."""
        return Masked(self, mask)


class Independent(Distribution):
    """See `Distribution.to_event`."""

    def __init__(self, base: Distribution, num_dims: int) -> None:
        if num_dims > len(base.batch_shape):
            raise ValueError(
                f"to_event({num_dims}): expected that many batch dimensions; got batch {base.batch_shape}. "
                "Give the parameters their full shape."
            )
        self.base, self.axes = base, tuple(range(-num_dims, 0))
        self.batch_shape = base.batch_shape[:-num_dims]
        self.event_shape = base.batch_shape[-num_dims:] + base.event_shape

    def log_density(self, value: Array) -> Array:  # noqa: D102
        return self._reduce(self.base.log_density(value))

    def log_prob(self, value: ArrayLike) -> Array:  # noqa: D102
        return self._reduce(self.base.log_prob(value))

    def _reduce(self, log_prob: Array) -> Array:
        return np.asarray(np.sum(log_prob, axis=self.axes))

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        return self.base.rule(breaks)


class Masked(Distribution):
    """See `Distribution.mask`."""

    def __init__(self, base: Distribution, mask: ArrayLike) -> None:
        self.base, self._mask = base, np.asarray(mask, dtype=bool)
        self.batch_shape = np.broadcast_shapes(base.batch_shape, self._mask.shape)
        self.event_shape = base.event_shape

    def log_density(self, value: Array) -> Array:  # noqa: D102
        return self.base.log_density(value)

    def log_prob(self, value: ArrayLike) -> Array:  # noqa: D102
        return np.where(self._mask, self.base.log_prob(value), 0.0)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        return self.base.rule(breaks)


class Discrete(Distribution):
    """Common to `Bernoulli` and `Categorical`: exactly one of probs and logits."""

    def __init__(self, probs: ArrayLike | None = None, logits: ArrayLike | None = None) -> None:
        if (probs is None) == (logits is None):
            raise ValueError(f"{type(self).__name__}: expected one of probs and logits; got both or neither. Give one.")
        super().__init__(**({"logits": logits} if probs is None else {"probs": probs}))


class Bernoulli(Discrete):
    """P(1) = probs = sigmoid(logits); values are floats."""

    def _prepare(self, probs: Array = None, logits: Array = None, **params: Array) -> None:
        with np.errstate(divide="ignore"):
            self.log_one = -softplus(-logits) if probs is None else np.log(probs)
            self.log_zero = -softplus(logits) if probs is None else np.log1p(-probs)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        if not np.all((value == 0) | (value == 1)):
            raise ValueError(f"Bernoulli: expected values 0 and 1; got {value}. Binarize first.")
        return np.where(value == 1, self.log_one, self.log_zero)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        nodes = np.arange(2.0).reshape((2,) + (1,) * len(self.batch_shape))
        return nodes, np.zeros_like(nodes)


class Categorical(Discrete):
    """Levels 0 to K - 1 along the last axis of probs or logits; values are integers."""

    def _prepare(self, probs: Array = None, logits: Array = None, **params: Array) -> None:
        with np.errstate(divide="ignore"):
            scores = np.log(probs) if logits is None else logits
        self.scores = scores - logsumexp(scores, keepdims=True)
        self.batch_shape = self.scores.shape[:-1]

    def log_density(self, value: Array) -> Array:  # noqa: D102
        shape = np.broadcast_shapes(value.shape, self.batch_shape)
        scores = np.broadcast_to(self.scores, shape + self.scores.shape[-1:])
        index = np.broadcast_to(value, shape).astype(int)[..., None]
        return np.asarray(np.take_along_axis(scores, index, axis=-1)[..., 0])

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        num = self.scores.shape[-1]
        nodes = np.arange(num).reshape((num,) + (1,) * len(self.batch_shape))
        return nodes, np.zeros(nodes.shape)


class Delta(Distribution):
    """All mass at `v`, with log density `log_density` there."""

    def __init__(self, v: ArrayLike, log_density: ArrayLike = 0.0, event_dim: int = 0) -> None:
        if event_dim:
            raise ValueError(f"Delta: expected event_dim 0; got {event_dim}. Use Delta(v).to_event({event_dim}).")
        super().__init__(v=v, height=log_density)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        return np.where(value == self.params["v"], self.params["height"], -np.inf)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        return self.params["v"][None], -self.params["height"][None]  # a density: the mass is 1 whatever the height


class Normal(Distribution):
    """Gaussian with standard deviation `scale`."""

    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        super().__init__(loc=loc, scale=scale)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        loc, scale = self.params["loc"], self.params["scale"]
        return -0.5 * ((value - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        loc, scale = np.broadcast_arrays(self.params["loc"], self.params["scale"])
        if breaks:
            return _pieces(loc - _REACH * scale, loc + _REACH * scale, breaks)
        x, weight = (part.reshape((-1,) + (1,) * loc.ndim) for part in _HERMITE)
        step = math.sqrt(2) * scale
        return loc + step * x, np.log(weight) + x**2 + np.log(step)


class LogNormal(Distribution):
    """exp of a Normal."""

    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        super().__init__(loc=loc, scale=scale)
        self._normal = Normal(loc, scale)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        return self._normal.log_density(np.log(value)) - np.log(value)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        nodes, log_weight = self._normal.rule()
        return np.exp(nodes), log_weight + nodes


class Gamma(Distribution):
    """Density ``rate^a z^(a - 1) exp(-rate z) / Gamma(a)`` with a the concentration."""

    def __init__(self, concentration: ArrayLike, rate: ArrayLike) -> None:
        super().__init__(concentration=concentration, rate=rate)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        shape, rate = self.params["concentration"], self.params["rate"]
        return shape * np.log(rate) + (shape - 1) * np.log(value) - rate * value - lgamma(shape)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        below, above = _log_gamma_range(self.params["concentration"])
        mode = np.log(self.params["concentration"] / self.params["rate"])
        log_z, log_weight = _trapezoid(mode - below, mode + above, _STEP)
        return np.exp(log_z), log_weight + log_z


def Exponential(rate: ArrayLike) -> Gamma:  # noqa: N802
    """Gamma with concentration 1."""
    return Gamma(np.ones(np.shape(rate)), rate)


class HalfNormal(Distribution):
    """Absolute value of a centered Normal."""

    def __init__(self, scale: ArrayLike = 1.0) -> None:
        super().__init__(scale=scale)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        return Normal(0.0, self.params["scale"]).log_density(value) + math.log(2)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        # z^2 / (2 scale^2) is Gamma(1/2, 1), so log z takes half its range, and half its spacing
        below, above = (0.5 * end for end in _log_gamma_range(np.array(0.5)))
        mode = np.log(self.params["scale"])
        log_z, log_weight = _trapezoid(mode - below, mode + above, _STEP / 2)
        return np.exp(log_z), log_weight + log_z


class Beta(Distribution):
    """Density ``z^(a - 1) (1 - z)^(b - 1) / B(a, b)``."""

    def __init__(self, concentration1: ArrayLike, concentration0: ArrayLike) -> None:
        super().__init__(a=concentration1, b=concentration0)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        a, b = self.params["a"], self.params["b"]
        log_normalizer = lgamma(a) + lgamma(b) - lgamma(a + b)
        return (a - 1) * np.log(value) + (b - 1) * np.log1p(-value) - log_normalizer

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        a, b = self.params["a"], self.params["b"]
        slack = (a + b) * np.log(a + b) - a * np.log(a) - b * np.log(b)
        # logit tails are a t and -b t: the ends lie _TAIL nats below the mode, as long as 1 - z is not 0
        low, high = -(_TAIL + slack) / a, (_TAIL + slack) / b
        t, log_weight = _trapezoid(low, np.minimum(high, 34.0), _STEP)
        return sigmoid(t), log_weight - softplus(t) - softplus(-t)


class Uniform(Distribution):
    """Constant density between `low` and `high`."""

    def __init__(self, low: ArrayLike, high: ArrayLike) -> None:
        super().__init__(low=low, high=high)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        low, high = self.params["low"], self.params["high"]
        return np.where((value >= low) & (value <= high), -np.log(high - low), -np.inf)

    def rule(self, breaks: Sequence[float] = ()) -> Rule:  # noqa: D102
        low, width = self.params["low"], self.params["high"] - self.params["low"]
        t, log_weight = _trapezoid(np.array(-3.0), np.array(3.0), 0.1)
        t = t.reshape((-1,) + (1,) * len(self.batch_shape))
        log_weight = log_weight.reshape(t.shape)
        x = math.pi * np.sinh(t)
        slope = np.log(math.pi * np.cosh(t)) - softplus(x) - softplus(-x)
        return low + width * sigmoid(x), log_weight + slope + np.log(width)


class Poisson(Distribution):
    """Counts; for observed sites only."""

    def __init__(self, rate: ArrayLike) -> None:
        super().__init__(rate=rate)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        return value * np.log(self.params["rate"]) - self.params["rate"] - lgamma(value + 1.0)


class Laplace(Distribution):
    """Density ``exp(-|z - loc| / scale) / (2 scale)``."""

    def __init__(self, loc: ArrayLike, scale: ArrayLike) -> None:
        super().__init__(loc=loc, scale=scale)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        scale = self.params["scale"]
        return -np.abs(value - self.params["loc"]) / scale - np.log(2 * scale)


class StudentT(Distribution):
    """Student's t with `df` degrees of freedom."""

    def __init__(self, df: ArrayLike, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> None:
        super().__init__(df=df, loc=loc, scale=scale)

    def log_density(self, value: Array) -> Array:  # noqa: D102
        df, scale = self.params["df"], self.params["scale"]
        square = ((value - self.params["loc"]) / scale) ** 2
        log_normalizer = lgamma(df / 2) - lgamma((df + 1) / 2) + 0.5 * np.log(math.pi * df) + np.log(scale)
        return -(df + 1) / 2 * np.log1p(square / df) - log_normalizer


def HalfCauchy(scale: ArrayLike = 1.0) -> Distribution:  # noqa: N802
    """Absolute value of a centered Cauchy; for sites whose values are given."""
    return _HalfCauchy(scale=scale)


class _HalfCauchy(Distribution):
    def log_density(self, value: Array) -> Array:
        scale = self.params["scale"]
        return math.log(2 / math.pi) - np.log(scale) - np.log1p((value / scale) ** 2)


def _log_gamma_range(shape: Array) -> tuple[Array, Array]:
    """How far log z of a Gamma reaches below and above its mode: ``shape (e^u - 1 - u) = _TAIL``."""
    depth = _TAIL / shape
    above = np.log1p(depth)
    for _ in range(4):
        above = np.log(1 + above + depth)
    return 1 + depth, above


def _trapezoid(low: Array, high: Array, spacing: float) -> Rule:
    """Equally spaced nodes at most `spacing` apart; both ends are taken to be negligible."""
    low, high = np.broadcast_arrays(low, high)
    num = int(np.ceil(np.max(high - low) / spacing)) + 1
    step = (high - low) / (num - 1)
    grid = np.arange(num).reshape((-1,) + (1,) * low.ndim)
    return low + step * grid, np.log(step) + np.zeros(grid.shape)


def _pieces(low: Array, high: Array, breaks: Sequence[float]) -> Rule:
    """Gauss-Legendre between consecutive breaks."""
    ends = [low, *(np.clip(place, low, high) for place in sorted(breaks)), high]
    x, weight = (part.reshape((-1,) + (1,) * low.ndim) for part in _LEGENDRE)
    nodes, log_weights = [], []
    for left, right in zip(ends[:-1], ends[1:], strict=True):
        half = 0.5 * (right - left)
        nodes.append(left + half * (1 + x))
        with np.errstate(divide="ignore"):
            log_weights.append(np.log(weight) + np.log(half))
    return np.concatenate(nodes), np.concatenate(log_weights)


Law = Callable[..., Distribution]
LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        Bernoulli, Categorical, Delta, Normal, LogNormal, Gamma, Exponential, HalfNormal, Beta, Uniform,
        Poisson, Laplace, StudentT, HalfCauchy,
    )
}  # fmt: skip


class Bijection(SimpleNamespace):
    """A constraint with its map from the reals: `forward` (unconstrained to constrained) and `inverse`."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


def _logit(y: Array) -> Array:
    return np.log(y) - np.log1p(-y)


def interval(lower: float, upper: float) -> Bijection:
    """Between two bounds: a scaled logistic sigmoid, in Pyro and NumPyro alike."""
    width = upper - lower
    return Bijection(forward=lambda x: lower + width * sigmoid(x), inverse=lambda y: _logit((y - lower) / width))


def greater_than(lower: float) -> Bijection:
    """Above a bound: a shifted exponential, in Pyro and NumPyro alike."""
    return Bijection(forward=lambda x: lower + np.exp(x), inverse=lambda y: np.log(y - lower))


def _refuse(name: str) -> Any:
    raise AttributeError(
        f"dist.constraints.{name}: expected a constraint that Pyro and NumPyro transform alike; got one that "
        "they do not, or that the reference lacks. "
        "Use real, real_vector, positive, nonnegative, unit_interval, interval or greater_than."
    )


class _Constraints(SimpleNamespace):
    """The simplex is left out: Pyro's parameters take a softmax, NumPyro's a stick-breaking transform."""

    def __getattr__(self, name: str) -> Any:
        return _refuse(name)


_real = Bijection(forward=lambda x: x, inverse=lambda y: y)
constraints = _Constraints(
    real=_real,
    real_vector=_real,
    positive=greater_than(0.0),
    nonnegative=greater_than(0.0),
    unit_interval=interval(0.0, 1.0),
    interval=interval,
    greater_than=greater_than,
)
