"""The exact judge: ELBO and gradient of a portable program, every random choice enumerated or integrated.

No draw is made. A statement whose value has not been chosen yet raises `Branch`, which carries all values
it can take with their log weights; the search then reruns the program once per value, depth first. The cost
is the product of all supports (up to about 50 000 branches, at some 0.1 ms each).

Parameters travel as a dict from name to unconstrained array, data as the tuple of positional arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ppl_gen.errors import ProgramError
from ppl_gen.language import use
from tests.reference.dialect import MAX_BRANCHES, Branch, Breaks, Params, Reference
from tests.reference.distributions import Array

__all__ = ["LogJoint", "Reference", "elbo", "gradient", "initial_params", "log_joint"]

Program = Callable[..., Any]

_NEGLIGIBLE = -34.0  # log weight of a branch that is left out: 2e-15 of the mass


class LogJoint(NamedTuple):
    """Log densities in nats: `sites` by name, scaled and masked and summed, and their `total`."""

    sites: dict[str, float]
    total: float


def _numpy(args: Any) -> tuple[Any, ...]:
    args = args if isinstance(args, tuple) else (args,)
    return tuple(a.astype(float) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args)


def _run(dialect: Reference, model: Program, guide: Program | None, args: tuple[Any, ...], seed: int = 0) -> Reference:
    with use(dialect, seed):
        if guide is not None:
            dialect.role = "guide"
            guide(*args)
            dialect.role = "model"
        model(*args)
    return dialect


def _branches(start: Callable[[Mapping[str, Array]], Reference]) -> Iterator[tuple[float, Reference]]:
    """Every finished run with its log weight, depth first.

    Raises:
        ValueError: more than `MAX_BRANCHES` of them.
    """
    stack: list[tuple[dict[str, Array], float]] = [({}, 0.0)]
    finished = 0
    while stack:
        values, log_weight = stack.pop()
        try:
            run = start(values)
        except Branch as branch:
            pairs = zip(branch.values, branch.log_weights + log_weight, strict=True)
            stack += [({**values, branch.name: v}, float(w)) for v, w in pairs if w > _NEGLIGIBLE]
            continue
        finished += 1
        if finished > MAX_BRANCHES:
            raise ValueError(
                f"reference: expected at most {MAX_BRANCHES} branches; got more. Make the program smaller."
            )
        yield log_weight, run


def _signal(run: Reference) -> float:
    """Log p - log q of one run, in nats."""
    in_model = {name for role, name in run.terms if role == "model"}
    for name, auxiliary in run.latent.items():
        if not auxiliary and name not in in_model:
            raise ProgramError(
                f"site '{name}': expected a latent of the model; got a guide site that the model lacks. "
                'Mark it with infer={"is_auxiliary": True}.'
            )
    return sum(term if role == "model" else -term for (role, _), term in run.terms.items())


def log_joint(model: Program, guide_values: Mapping[str, Any], params: Params, data: Any) -> LogJoint:
    """Log density of the model at given latent values.

    Args:
        model: a portable program.
        guide_values: latent site -> value (batch + event shape); subsampled plate -> its indices.
        params: name -> unconstrained array.
        data: the tuple of the program's positional arguments (or the single one).

    Returns:
        The sites' log densities and their total, in nats, scaled and masked.
    """
    run = _run(
        Reference(params, {name: np.asarray(v) for name, v in guide_values.items()}),
        model,
        None,
        _numpy(data),
    )
    sites = {name: term for (_, name), term in run.terms.items()}
    return LogJoint(sites, sum(sites.values()))


def elbo(model: Program, guide: Program, args: Any, params: Params, breaks: Breaks | None = None) -> float:
    """The evidence lower bound E_q[log p - log q] in nats.

    Log p and log q are scaled and masked as the programs say; the expectation is over what the guide draws.

    Args:
        model: a portable program.
        guide: a portable program; its auxiliary sites count with -log q only.
        args: the tuple of positional arguments of both (or the single one).
        params: name -> unconstrained array.
        breaks: Normal site -> places where the integrand has a step or a kink in that site's value.

    Raises:
        ArithmeticError: the quadrature weights miss 1 by more than 1e-7.
    """
    args = _numpy(args)
    value = mass = 0.0
    for log_weight, run in _branches(lambda values: _run(Reference(params, values, breaks), model, guide, args)):
        weight = math.exp(log_weight)
        mass += weight
        value += weight * _signal(run)
    if not abs(mass - 1) < 1e-7:
        raise ArithmeticError(
            f"reference: expected weights that sum to 1; got {mass!r}. Split the integrand with breaks."
        )
    return value


def initial_params(model: Program, guide: Program, args: Any, seed: int = 0) -> dict[str, Array]:
    """The unconstrained starting value of every parameter that the guide or the model names."""
    args, found = _numpy(args), dict[str, Array]()

    def start(values: Mapping[str, Array]) -> Reference:
        dialect = Reference(found, values, record=True)
        try:
            return _run(dialect, model, guide, args, seed)
        finally:
            found.update(dialect.params)

    next(_branches(start))
    return found


def gradient(
    model: Program,
    guide: Program,
    args: Any,
    params: Params,
    breaks: Breaks | None = None,
    step: float = 1e-4,
) -> dict[str, Array]:
    """Gradient of MINUS the ELBO in unconstrained space, by central finite differences.

    The error is step^2 / 6 times the third derivative (about 1e-8 for functions of order one) plus rounding,
    about 1e-16 |ELBO| / step.

    Args:
        model: a portable program.
        guide: a portable program.
        args: the tuple of positional arguments of both (or the single one).
        params: name -> unconstrained array.
        breaks: see `elbo`.
        step: half the distance of the two evaluations, in unconstrained units.

    Returns:
        name -> array of the parameter's unconstrained shape.
    """
    slopes = {}
    for name, value in params.items():
        center = np.asarray(value, dtype=float)
        slope = np.zeros(center.shape)
        for index in np.ndindex(center.shape):
            shift = np.zeros(center.shape)
            shift[index] = step
            ends = [elbo(model, guide, args, {**params, name: center + s * shift}, breaks) for s in (1, -1)]
            slope[index] = -(ends[0] - ends[1]) / (2 * step)
        slopes[name] = slope
    return slopes
