"""The NumPy dialect (float64): a random choice is not drawn; its value is given, or asked for by `Branch`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ppl_gen.errors import ProgramError
from ppl_gen.program.arrays import Namespace
from tests.reference import distributions as laws
from tests.reference.distributions import Array

Params = Mapping[str, Any]
Breaks = Mapping[str, Sequence[float]]

MAX_BRANCHES = 50_000


class Branch(BaseException):
    """Not an Exception, so that a program's own ``except Exception`` lets it pass."""

    def __init__(self, name: str, values: Sequence[Array], log_weights: Array) -> None:
        super().__init__(name)
        self.name, self.values, self.log_weights = name, values, log_weights


def _refuse(statement: str, reason: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{statement}: the exact reference cannot run it: {reason}. Leave it out here.")

    return refuse


def _one_hot(indices: Array, num: int) -> Array:
    return (np.asarray(indices)[..., None] == np.arange(num)).astype(float)


_noise = _refuse("xp.random", "fresh noise has no support to enumerate")
xp = Namespace(
    np,
    float32=np.float64,  # the judge computes in double precision whatever the program asks for
    softplus=laws.softplus,
    sigmoid=laws.sigmoid,
    relu=lambda x: np.maximum(x, 0.0),
    leaky_relu=lambda x, slope=0.01: np.where(np.asarray(x) > 0, x, slope * np.asarray(x)),
    log_sigmoid=lambda x: -laws.softplus(-np.asarray(x)),
    softmax=lambda x, axis=-1: np.exp(x - laws.logsumexp(x, axis=axis, keepdims=True)),
    log_softmax=lambda x, axis=-1: x - laws.logsumexp(x, axis=axis, keepdims=True),
    logsumexp=laws.logsumexp,
    one_hot=_one_hot,
    lgamma=laws.lgamma,
    erf=laws.erf,
    stop_gradient=_refuse("xp.stop_gradient", "finite differences see through it"),
    random=Namespace(None, uniform=_noise, normal=_noise),
)
dist = SimpleNamespace(**laws.LAWS, constraints=laws.constraints)


@dataclass
class _Plate:
    """Pushes (dim, number of rows, scale) on `entered` while it is open; may be entered again."""

    name: str
    entered: list[tuple[int, int, float]]
    indices: Array
    scale: float
    dim: int | None

    def __enter__(self) -> Array:
        taken = {dim for dim, _, _ in self.entered}
        dim = next(d for d in itertools.count(-1, -1) if d not in taken) if self.dim is None else self.dim
        if dim >= 0 or dim in taken:
            raise ProgramError(f"plate '{self.name}': expected a free negative dim; got {dim}. Leave dim out.")
        self.entered.append((dim, len(self.indices), self.scale))
        return self.indices

    def __exit__(self, *exception: object) -> None:
        self.entered.pop()


class Reference:
    """The dialect; one instance is one run of a guide, a model, or both in this order.

    Attributes:
        params: parameter name -> unconstrained array.
        values: latent site or subsampled plate -> the value it is to take.
        terms: (role, site) -> log density in nats, scaled and masked.
        role: "guide" or "model".
    """

    name, xp, dist = "reference", xp, dist

    def __init__(
        self,
        params: Params | None = None,
        values: Mapping[str, Array] | None = None,
        breaks: Breaks | None = None,
        record: bool = False,
    ) -> None:
        self.params = {name: np.asarray(value, dtype=float) for name, value in (params or {}).items()}
        self.values, self.breaks, self.record = values or {}, breaks or {}, record
        self.role = "model"
        self.terms: dict[tuple[str, str], float] = {}
        self.latent: dict[str, bool] = {}
        self._plates: list[tuple[int, int, float]] = []  # of the plates entered: dim, number of rows, scale

    def sample(self, name: str, distribution: laws.Distribution, obs: Any, infer: Mapping[str, Any] | None) -> Any:
        """See `ppl_gen.language.sample`."""
        if (self.role, name) in self.terms:
            raise ProgramError(
                f"site '{name}': expected a name that is new to the {self.role}; got it twice. Rename one."
            )
        if obs is not None and (self.role == "guide" or name in self.latent):
            raise ProgramError(
                f"site '{name}': expected a latent in the guide and in the model; got obs. Drop one of them."
            )
        shape = self._batch_shape(name, distribution.batch_shape)
        value = np.asarray(obs) if obs is not None else self._latent(name, distribution, shape, dict(infer or {}))
        log_prob = np.broadcast_to(distribution.log_prob(value), shape)
        scale = math.prod(scale for _, _, scale in self._plates)
        self.terms[self.role, name] = scale * float(np.sum(log_prob))
        return value

    def param(self, name: str, init: Any, constraint: Any) -> Array:
        """See `ppl_gen.language.param`."""
        constraint = laws.constraints.real if constraint is None else constraint
        if name not in self.params:
            if not self.record or init is None:
                raise ProgramError(
                    f"param '{name}': expected a value among the parameters {sorted(self.params)}; got none. "
                    "Start from initial_params."
                )
            start = np.asarray(init() if callable(init) else init, dtype=float)
            self.params[name] = constraint.inverse(start)
        return np.asarray(constraint.forward(self.params[name]))

    def plate(self, name: str, size: int, subsample_size: int | None, dim: int | None) -> _Plate:
        """See `ppl_gen.language.plate`; a subsample is one uniform choice among all sorted index sets."""
        rows = size if subsample_size is None else min(subsample_size, size)
        indices = np.arange(size) if rows == size else self._subset(name, size, rows)
        return _Plate(name, self._plates, indices, size / rows, dim)

    def module(self, name: str, network: Any) -> Any:
        """See `ppl_gen.language.module`; the reference has no networks of its own kind."""
        return _refuse(f"module '{name}'", "its layers belong to torch or JAX")()

    def deterministic(self, name: str, value: Any) -> Any:
        """See `ppl_gen.language.deterministic`."""
        return value

    def factor(self, name: str, log_factor: Any) -> None:
        """See `ppl_gen.language.factor`; broadcast to the enclosing plates, as Pyro and NumPyro do."""
        if self.role == "guide":
            _refuse(f"factor '{name}'", "it stands in the guide")()
        self.sample(name, laws.Delta(0.0, log_factor), np.asarray(0.0), None)

    def density(self, name: str, *args: Any) -> Any:
        """See `ppl_gen.language.density`; the reference integrates over laws that it knows."""
        return _refuse(f"density '{name}'", "its law is a function")()

    def _batch_shape(self, name: str, own: tuple[int, ...]) -> tuple[int, ...]:
        """The distribution's batch shape broadcast to the plates.

        Raises:
            ProgramError: a batch dimension lies in no plate or has another size than its plate.
        """
        depth = max((-place for place, _, _ in self._plates), default=0)
        rows = {place: size for place, size, _ in self._plates}
        plates = tuple(rows.get(place, 1) for place in range(-depth, 0))
        for place, size in zip(range(-len(own), 0), own, strict=True):
            if size not in (1, rows.get(place, 1)):
                raise ProgramError(
                    f"site '{name}': expected a batch shape within the plates {plates}; got {own}. "
                    "Use to_event or a plate."
                )
        return np.broadcast_shapes(own, plates)

    def _latent(
        self, name: str, distribution: laws.Distribution, shape: tuple[int, ...], infer: Mapping[str, Any]
    ) -> Array:
        if self.role == "guide":
            self.latent[name] = bool(infer.get("is_auxiliary"))
        elif name not in self.values:
            raise ProgramError(
                f"site '{name}': expected a value from the guide; got a latent that it lacks. Add the site there."
            )
        elif self.latent.get(name):
            raise ProgramError(f"site '{name}': expected a guide site; got an auxiliary one. Drop is_auxiliary.")
        if name not in self.values:
            raise Branch(name, *_outcomes(distribution, shape, self.breaks.get(name, ())))
        value = np.asarray(self.values[name])
        if value.shape != shape + distribution.event_shape:
            raise ProgramError(
                f"site '{name}': expected one shape in guide and model; got {value.shape} and "
                f"{shape + distribution.event_shape}. Use the same plates and events in both."
            )
        return value

    def _subset(self, name: str, size: int, rows: int) -> Array:
        if name not in self.values:
            subsets = [np.array(subset) for subset in itertools.combinations(range(size), rows)]
            raise Branch(name, subsets, np.full(len(subsets), -math.log(len(subsets))))
        return self.values[name]


def _outcomes(distribution: laws.Distribution, shape: tuple[int, ...], breaks: Sequence[float]) -> tuple[Array, Array]:
    """Every joint value of a site's elements (branches, *batch, *event) and its log weight (branches,)."""
    full = shape + distribution.event_shape
    nodes, log_weight = distribution.rule(breaks)
    num, elements = len(nodes), math.prod(full)
    if num**elements > MAX_BRANCHES:
        raise ValueError(
            f"reference: expected at most {MAX_BRANCHES} branches; got {num} nodes for {elements} elements. "
            "Make the program smaller."
        )
    spread = [np.broadcast_to(_align(part, full), (num, *full)).reshape(num, elements) for part in (nodes, log_weight)]
    index = np.indices((num,) * elements).reshape(elements, num**elements)
    values = spread[0][index, np.arange(elements)[:, None]].T.reshape(-1, *full)
    log_measure = spread[1][index, np.arange(elements)[:, None]].sum(0)
    log_q = np.broadcast_to(distribution.log_density(values), (len(values), *shape))
    return values, log_measure + log_q.reshape(len(values), -1).sum(1)


def _align(part: Array, full: tuple[int, ...]) -> Array:
    """Put the missing batch dimensions behind the node axis."""
    return part.reshape(part.shape[:1] + (1,) * (len(full) + 1 - part.ndim) + part.shape[1:])
