"""One program text for both backends: sample, param, plate, module, deterministic, factor, density, dist, xp.

Each statement is passed on to the active backend's own primitive, so a portable program *is* a Pyro program on
torch and a NumPyro program on JAX. The backend is set by whoever runs the program (`infer.fit` and its siblings)
through a context variable.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppl_gen.program.arrays import Array, Namespace

Network = TypeVar("Network")


class Distribution(Protocol):
    """One of `dist`, an object of the library's own."""

    def to_event(self, number: int, /) -> Distribution:
        """The same with its last `number` batch dimensions as one event."""

    def expand(self, batch_shape: Sequence[int], /) -> Distribution:
        """As many of it as `batch_shape` says."""

    def mask(self, mask: Array | bool, /) -> Distribution:
        """The same, its log density counted where `mask` (an array, or one truth value) says."""

    def log_prob(self, value: Array, /) -> Array:
        """The log density of a value, nats."""


class Dialect(Protocol):
    """What a backend offers to portable programs."""

    @property
    def xp(self) -> Namespace:
        """Its arrays."""

    @property
    def dist(self) -> Any:
        """Its distributions, by name."""

    @property
    def sample(self) -> Callable[..., Array]:
        """See `sample`; so are the others."""

    @property
    def param(self) -> Callable[..., Array]: ...  # noqa: D102
    @property
    def plate(self) -> Callable[..., AbstractContextManager[Any]]: ...  # noqa: D102
    @property
    def module(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def deterministic(self) -> Callable[..., Array]: ...  # noqa: D102
    @property
    def factor(self) -> Callable[..., Any]: ...  # noqa: D102
    @property
    def density(self) -> Callable[..., Array]: ...  # noqa: D102


_dialect: ContextVar[Dialect | None] = ContextVar("ppl_gen_dialect", default=None)
_seed: ContextVar[int] = ContextVar("ppl_gen_seed", default=0)
_rows: ContextVar[Array | NDArray[np.intp] | None] = ContextVar("ppl_gen_rows", default=None)


@contextmanager
def use(dialect: Dialect, seed: int = 0) -> Iterator[None]:
    """Run portable statements on `dialect` inside this context; `seed` draws the initial weights of `nn` layers."""
    tokens = _dialect.set(dialect), _seed.set(seed)
    try:
        yield
    finally:
        _dialect.reset(tokens[0])
        _seed.reset(tokens[1])


@contextmanager
def on_rows(rows: Array | NDArray[np.intp] | None) -> Iterator[None]:
    """The program runs on these rows of the data; None means all of them."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def current_rows() -> Array | NDArray[np.intp] | None:
    """Row numbers of the current batch in the whole data; None where the batch is the whole data."""
    return _rows.get()


def active(statement: str = "a portable statement") -> Dialect:
    """The dialect in use.

    Raises:
        RuntimeError: no backend runs this program.
    """
    dialect = _dialect.get()
    if dialect is None:
        raise RuntimeError(
            f"{statement}: expected to run inside a fit; got a direct call, so no backend is set. "
            "Pass the program to ppl_gen.infer.fit(model, guide, data)."
        )
    return dialect


def sample(
    name: str, distribution: Distribution, obs: Array | None = None, *, infer: Mapping[str, Any] | None = None
) -> Array:
    """A random choice: a draw from `distribution`, or `obs` where the value is observed.

    Args:
        name: the site's name, unique in its program.
        distribution: one of `dist`; its batch shape lies inside the enclosing plates.
        obs: the observed value, shape batch + event; None for a latent site.
        infer: annotations, such as ``{"is_auxiliary": True}`` for a guide site that the model lacks.
    """
    return active(f"site '{name}'").sample(name, distribution, obs, infer)


def param(name: str, init: Array | Callable[[], Array] | None = None, constraint: object = None) -> Array:
    """A learned parameter, started at `init` (an array, or a function without arguments that makes one).

    Args:
        name: unique; dots separate a layer from its parts, as in ``"encoder.weight"``.
        init: the starting value in constrained space; may be left out where the name is known already.
        constraint: one of ``dist.constraints``; None means any real.
    """
    return active(f"param '{name}'").param(name, init, constraint)


def plate(
    name: str, size: int, subsample_size: int | None = None, dim: int | None = None
) -> AbstractContextManager[Any]:
    """A set of `size` conditionally independent copies of what is inside, along batch dimension `dim` (from the right)."""
    return active(f"plate '{name}'").plate(name, size, subsample_size, dim)


def module(name: str, network: Network) -> Network:
    """Register a network of the backend's own kind (torch.nn, flax.nnx, equinox) and return it, ready to be called."""
    ready: Network = active(f"module '{name}'").module(name, network)
    return ready


def deterministic(name: str, value: Array) -> Array:
    """Record `value` under `name`; it has no density."""
    return active(f"site '{name}'").deterministic(name, value)


def factor(name: str, log_factor: Array | float, *, has_rsample: bool | None = None) -> None:
    """Add `log_factor` (nats, shaped like the enclosing plates) to the log joint density.

    Args:
        name: the site's name.
        log_factor: what is added.
        has_rsample: to be stated in a guide, which a factor leaves unnormalized otherwise: that the factor goes with the
            guide's own draws (a Jacobian, say), and whether those are reparametrized. No likelihood is given then.
    """
    declared = {} if has_rsample is None else {"has_rsample": has_rsample}
    active(f"site '{name}'").factor(name, log_factor, **declared)


def density(
    name: str,
    log_prob: Callable[[Array], Array],
    draw: Callable[[], Array],
    obs: Array | None = None,
    *,
    infer: Mapping[str, Any] | None = None,
) -> Array:
    """A random choice whose density is a function of yours: a factor that can be drawn.

    Args:
        name: the site's name, unique in its program.
        log_prob: value -> its log density, nats, one number per element of the enclosing plates. It is taken at its word:
            that it is normalized is not checked.
        draw: gives a value with that density, batch + event; it may use `xp.random` and `sample`, whose sites are its own.
        obs: the observed value, shape batch + event; None for a latent site, which no gradient passes.
        infer: annotations, as in `sample`.

    Returns:
        The value.

    Example:
        >>> def model(x):
        ...     rate = param("rate", xp.ones(()), dist.constraints.positive)
        ...     with plate("data", len(x)):
        ...         density("x", lambda v: xp.log(rate) - rate * v, lambda: -xp.log(xp.random.uniform((len(x),))) / rate, obs=x)
    """
    return active(f"site '{name}'").density(name, log_prob, draw, obs, infer)


def initial_generator(name: str) -> np.random.Generator:
    """The generator that draws the initial value of parameter `name`: the same on both backends for one seed."""
    return np.random.default_rng([_seed.get(), zlib.crc32(name.encode())])


# Argument names or order differ between Pyro and NumPyro: a portable text would change its meaning silently.
_UNLIKE = {
    "DirichletMultinomial", "Independent", "LKJ", "LKJCholesky", "MixtureSameFamily", "TruncatedPolyaGamma", "Wishart",
    "ZeroInflatedPoisson",
}  # fmt: skip


class _Forward:
    """Attribute access forwarded to one attribute of the active dialect."""

    def __init__(self, field: str, refuse: frozenset[str] = frozenset()) -> None:
        self._field, self._refuse = field, refuse

    constraints: Any

    def __getattr__(self, name: str) -> Callable[..., Distribution]:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._refuse:
            raise AttributeError(
                f"dist.{name}: its arguments differ between Pyro and NumPyro, so it has no portable form. "
                "Use the library's own class in a plain Pyro or NumPyro program."
            )
        found: Callable[..., Distribution] = getattr(getattr(active(f"{self._field}.{name}"), self._field), name)
        return found


dist = _Forward("dist", frozenset(_UNLIKE))
xp = cast("Namespace", _Forward("xp"))
