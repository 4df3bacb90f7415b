"""`check_estimator`: what an estimator declares, held against small programs whose gradient is known.

Every estimator that ppl_gen exports is held to the same. `import ppl_gen.testing` loads neither torch nor JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_gen import backends, estimators
from ppl_gen.errors import ProgramError
from ppl_gen.estimators import Estimator
from ppl_gen.estimators.base import Start
from ppl_gen.evaluate.measure import exact_gradient, measure
from ppl_gen.infer.verbs import plan, read
from ppl_gen.language import dist, param, plate, sample, xp
from ppl_gen.objectives import ELBO
from ppl_gen.program import Array, Facts, Site
from ppl_gen.training.prepare import Prepared

__all__ = ["check_estimator"]

Gradients = Mapping[str, NDArray[Any]]

BOUND = 5.0  # of |z|: by luck with probability 5.7e-7
NUM_SAMPLES = {"torch": 400, "jax": 2000}
SHAKEN_SAMPLES = {"torch": 300, "jax": 300_000}


class Program(NamedTuple):
    """A portable program, its guide, and the data that both are called with."""

    model: Callable[..., None]
    guide: Callable[..., None]
    data: tuple[Any, ...]


# -- the programs: no two elements are alike and no gradient is near zero, so that a misplaced term shows ---------------


def bernoulli() -> Program:
    """The simplest score-function site, with a model parameter."""

    def model(x: Array) -> None:
        z = xp.astype(sample("z", dist.Bernoulli(probs=0.3)), xp.float32)
        sample("x", dist.Normal(param("slope", xp.asarray(0.7)) * z - 0.5, 0.9), obs=xp.asarray(x))

    def guide(x: Array) -> None:
        sample("z", dist.Bernoulli(logits=param("logit", xp.asarray(0.6))))

    return Program(model, guide, (0.8,))


def categorical() -> Program:
    """Three levels that enter by value."""

    def model(x: Array) -> None:
        z = sample("z", dist.Categorical(probs=xp.asarray([0.5, 0.2, 0.3])))
        loc = xp.sum(xp.one_hot(z, 3) * param("loc", xp.asarray([-1.0, 0.4, 2.5])), axis=-1)
        sample("x", dist.Normal(loc, 0.8), obs=xp.asarray(x))

    def guide(x: Array) -> None:
        sample("z", dist.Categorical(logits=param("logits", xp.asarray([0.3, -0.5, 0.6]))))

    return Program(model, guide, (1.2,))


def normal() -> Program:
    """Pathwise only: conjugate, so that every number has a closed form."""

    def model(x: Array) -> None:
        z = sample("z", dist.Normal(0.5, 1.5))
        sample("x", dist.Normal(z, 0.7), obs=xp.asarray(x))

    def guide(x: Array) -> None:
        loc, scale = param("loc", xp.asarray(0.2)), param("scale", xp.asarray(0.6), dist.constraints.positive)
        sample("z", dist.Normal(loc, scale))

    return Program(model, guide, (1.3,))


def sum_over_plate() -> Program:
    """Plated Normals and Bernoullis add up to one observation outside their plate."""

    def model(x: Array) -> None:
        with plate("data", 2):
            k = xp.astype(sample("k", dist.Bernoulli(probs=0.4)), xp.float32)
            sample("y", dist.Normal(k, 1.1), obs=x)
        sample("total", dist.Normal(xp.sum(k), 0.5), obs=xp.asarray(1.4))

    def guide(x: Array) -> None:
        with plate("data", 2):
            sample("k", dist.Bernoulli(logits=param("logits", xp.asarray([0.5, 0.4]))))

    return Program(model, guide, (np.array([0.7, -1.1]),))


PROGRAMS = {make.__name__: make() for make in (bernoulli, categorical, normal, sum_over_plate)}


def truth(name: str, backend: str) -> Gradients:
    """The gradient of minus the ELBO where the program starts: by enumeration, for the normal one by its closed form."""
    if name == "normal":
        loc, scale, width = 0.2, 0.6, 1 / 1.5**2 + 1 / 0.7**2
        of_loc = (loc - 0.5) / 1.5**2 + (loc - 1.3) / 0.7**2
        return {"loc": np.array(of_loc), "scale": np.array(scale * (scale * width - 1 / scale))}
    prepared, batch = read(*PROGRAMS[name], backend, None)
    found = exact_gradient(prepared, batch, 0, ELBO(), most=16)
    assert found is not None
    return {parameter: draws[0] for parameter, draws in found.items()}


# -- what is asked of an estimator -------------------------------------------------------------------------------------


def check_estimator(estimator: Estimator) -> None:
    """Hold an estimator to what it declares, on each backend that is installed.

    - Its claims are there and of the right type, ``eval(repr(estimator))`` gives its like, and its cost is one or more.
    - It suits one of four small programs (binary, categorical and normal latents), and where it does not, asking for it
      raises a `ProgramError` that names the site.
    - If it says `unbiased`: the mean of its gradients is the exact one, as it starts, and with its own weights and running
      averages at random, whatever a fit may make of them.

    The means are those of 400 draws on torch and 2000 on JAX (with random weights 300 and 300 000), and each component's
    standard error is their standard deviation over the root of their number, at least 1e-4 of the scale for rounding. A
    component fails beyond five standard errors, which happens by luck with probability 5.7e-7: below 2e-5 for a call.
    On JAX a control variate that is wrong by a tenth is found. It takes some seconds.

    Raises:
        AssertionError: something that it declares does not hold; the message says what was expected and what came.

    Example:
        >>> from ppl_gen.estimators import Constant, Score
        >>> check_estimator(Score(Constant(0.5)))  # doctest: +SKIP
    """
    check_claims(estimator)
    for name in [name for name in PROGRAMS if not suits(estimator, name)][:1]:
        check_refusal(estimator, name)
    for backend in installed() if estimator.unbiased else ():
        check_mean(estimator, backend, shake=False)
        if learns(estimator):
            check_mean(estimator, backend, shake=True)


def check_claims(estimator: Estimator) -> None:
    """Its claims are data, and its repr makes its like."""
    for claim in ("unbiased", "cuts", "alone", "side_by_side", "enumerates", "pathwise", "own_signals"):
        value = getattr(estimator, claim, None)
        assert isinstance(value, bool), f"{estimator!r}: expected {claim} to be True or False; got {value!r}."
    for claim in ("needs", "source"):
        value = getattr(estimator, claim, None)
        assert isinstance(value, str) and value, f"{estimator!r}: expected {claim} to be a text; got {value!r}."
    like = eval(repr(estimator), _names(estimator))
    assert repr(like) == repr(estimator), (
        f"expected a repr that makes its like; got {estimator!r}, which makes {like!r}."
    )
    facts = facts_of(chosen(estimator, shake=False))
    cost = estimator.cost(next(iter(facts.latents())))
    assert isinstance(cost, int) and cost >= 1, f"{estimator!r}: expected a cost of one run or more; got {cost!r}."


def check_refusal(estimator: Estimator, name: str) -> None:
    """Asking for it where it is not right raises an error that names the site."""
    program, (site, *_) = PROGRAMS[name], facts_of(name).latents()
    asked: dict[str, Any] = {"estimators": {site.name: estimator}, "num_particles": particles(estimator)}
    try:
        plan(*program, backend=installed()[0], **asked)
    except ProgramError as error:
        said = str(error)
        assert said.startswith(f"site '{site.name}' ("), f"expected an error that names site '{site.name}'; got: {said}"
    else:
        raise AssertionError(f"{estimator!r}: expected a ProgramError for program '{name}'; got a plan.")


def check_mean(estimator: Estimator, backend: str, *, shake: bool) -> None:
    """Its mean gradient is the exact one; `shake`: with what it learns at random."""
    name = chosen(estimator, shake=shake)
    found, expected = gradients(estimator, backend, name, shake=shake), truth(name, backend)
    for parameter, value in expected.items():
        draws, z = found[parameter], z_scores(found, {parameter: value}).max()
        weights = "its own weights at random" if shake else "its weights as they start"
        assert z < BOUND, (
            f"{estimator!r} on {backend}, program '{name}', {weights}: expected the mean gradient {value} of '{parameter}'; got "
            f"{draws.mean(0)} in {len(draws)} draws, {z:.1f} standard errors away."
        )


# -- means to this end -------------------------------------------------------------------------------------------------


def installed() -> list[str]:
    """The backends that are here."""
    return [name for name in backends.LIBRARIES if backends.installed(name)]


@cache
def facts_of(name: str) -> Facts:
    """What is known of a program."""
    return plan(*PROGRAMS[name], backend=installed()[0]).facts


def particles(estimator: Estimator) -> int:
    """As few as it takes."""
    facts = facts_of("bernoulli")
    why = estimator.refusal(next(iter(facts.latents())), facts, 1)
    return 2 if "num_particles" in str(why) else 1


def suits(estimator: Estimator, name: str) -> bool:
    """Whether it is right for every latent of a program."""
    facts = facts_of(name)
    return all(estimator.refusal(site, facts, particles(estimator)) is None for site in facts.latents())


def chosen(estimator: Estimator, *, shake: bool) -> str:
    """The program that it is held against."""
    suited = [name for name in PROGRAMS if suits(estimator, name)]
    assert suited, f"{estimator!r}: expected one that suits a program of {sorted(PROGRAMS)}; got refusals of all."
    # the last program's elements have features of their own, and it meets estimators that pair
    return suited[-1] if shake and suited[-1] == "sum_over_plate" else suited[0]


def learns(estimator: Estimator) -> bool:
    """Whether there is anything to put at random."""
    site = Site("z", "guide", "Bernoulli", "finite", size=2, levels=2, batch_shape=(3,), num_features=2)
    return any(estimator.start(site, np.random.default_rng(0)))


def gradients(estimator: Estimator, backend: str, name: str, *, shake: bool) -> Gradients:
    """Independent single-step gradients, parameter -> (number, *shape); `shake`: with what it learns at random."""
    asked: dict[str, Any] = {"estimators": {"*": estimator}, "num_particles": particles(estimator)}
    prepared, batch = read(*PROGRAMS[name], backend, None, **asked)
    number = (SHAKEN_SAMPLES if shake else NUM_SAMPLES)[backend]
    return measure(shaken(prepared) if shake else prepared, batch, number, 1, ELBO(), warm_up=0).draws


def shaken(prepared: Prepared) -> Prepared:
    """With every weight moved at random, and every running average at random above zero.

    At their start networks answer zero and coefficients are round numbers, so that a wrong control variate may not count.
    """
    rng = np.random.default_rng(7)

    def noise(tree: Mapping[str, Start]) -> dict[str, dict[str, NDArray[Any]]]:
        return {s: {n: rng.standard_normal(np.shape(v)) for n, v in leaves.items()} for s, leaves in tree.items()}

    (weights, averages), (of_weights, of_averages) = prepared.start, map(noise, prepared.start)
    moved = {
        s: {n: (v + 0.7 * of_weights[s][n]).astype(np.float32) for n, v in leaves.items()}
        for s, leaves in weights.items()
    }
    above = {
        s: {n: (0.5 + abs(of_averages[s][n])).astype(np.float32) for n in leaves} for s, leaves in averages.items()
    }
    return replace(prepared, start=(moved, above))


def z_scores(estimates: Gradients, expected: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """|z| of every component of what is expected; float32 rounding (1e-4 of the scale) is no bias."""
    scores = []
    for name, value in expected.items():
        draws = np.asarray(estimates[name], dtype=float).reshape(-1, np.size(value))
        error = draws.std(0, ddof=1) / np.sqrt(len(draws))
        floor = 1e-4 * (1 + np.abs(np.ravel(value)))
        scores.append(np.abs(draws.mean(0) - np.ravel(value)) / np.maximum(error, floor))
    return np.concatenate(scores)


def _names(estimator: Estimator) -> dict[str, Any]:
    """What its repr may name."""
    own: Sequence[object] = (estimator, *vars(estimator).values())
    return {
        **{name: getattr(estimators, name) for name in estimators.__all__},
        **{type(v).__name__: type(v) for v in own},
    }
