"""The evidence lower bound, with each latent site's gradient estimated as the plan says; one text for both backends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ppl_gen.estimators.base import Array, Arrays, ScoreEstimator
from ppl_gen.estimators.enumerate import Enumerate
from ppl_gen.estimators.plan import Plan
from ppl_gen.program import Facts, Run, Site, Term, assignments

RunProgram = Callable[[Any, Mapping[str, Any], Collection[str]], Run]


class Loss(NamedTuple):
    """What one evaluation of an objective gives.

    Attributes:
        surrogate: scalar whose gradient is the estimate (and trains the baselines).
        value: the loss, nats; for the ELBO an estimate of minus the bound.
        averages: the baselines' running averages after this step.
        buffers: the program's own state after this step.
    """

    surrogate: Array
    value: Array
    averages: dict[str, Arrays]
    buffers: dict[str, Any]


class ELBO:
    """Minus the evidence lower bound, E_q[log p(x, z) - log q(z)] (eq. 20.76); without latents minus log p(x).

    Source: book eq. 20.76; for the surrogate, Schulman et al. 2015.
    """

    kind = "lower_bound"

    def __call__(
        self,
        xp: Any,
        run: RunProgram,
        keys: list[Any],
        plan: Plan,
        weights: dict[str, Arrays],
        averages: dict[str, Arrays],
    ) -> Loss:
        """Evaluate on ``plan.num_particles`` draws.

        Args:
            xp: array namespace with `stop_gradient`.
            run: (key, fixed values, cut sites) -> Run.
            keys: one per particle.
            plan: the estimators.
            weights: site -> weights of its baseline.
            averages: site -> running averages of its baseline.
        """
        facts = plan.facts
        cut = [name for name, row in plan.rows.items() if row.estimator.cuts]
        tried = {
            n: facts.sites["guide", n].size or 1 for n, row in plan.rows.items() if isinstance(row.estimator, Enumerate)
        }
        scored = {n: row.estimator for n, row in plan.rows.items() if isinstance(row.estimator, ScoreEstimator)}
        surrogate, value, averages, buffers = xp.zeros(()), xp.zeros(()), dict(averages), {}
        for fixed in assignments(tried):
            runs = [run(key, fixed, cut) for key in keys]
            costs = [_weighted(xp, one, facts, tried) for one in runs]
            bound = sum(xp.sum(cost) for each in costs for cost in each.values()) / len(runs)
            surrogate, value = surrogate - bound, value - xp.stop_gradient(bound)
            for name, estimator in scored.items():
                terms, site = plan.rows[name].terms, facts.sites["guide", name]
                signals = [xp.stop_gradient(_signal(xp, each, terms, facts, site)) for each in costs]
                inputs = [one.inputs.get(name) for one in runs]
                gaps, own_loss, averages[name] = estimator.advantages(
                    xp, signals, inputs, weights.get(name, {}), averages.get(name, {})
                )
                for one, gap in zip(runs, gaps, strict=True):
                    surrogate = surrogate - xp.sum(one.logq[name] * xp.stop_gradient(gap)) / len(runs)
                surrogate = surrogate if own_loss is None else surrogate + own_loss
            buffers = runs[-1].buffers
        return Loss(surrogate, value, averages, buffers)


def _weighted(xp: Any, run: Run, facts: Facts, tried: Collection[str]) -> dict[Term, Array]:
    """Each term times the probability of the values that were tried, element by element of their common plates."""
    if not tried:
        return dict(run.terms)
    result = {}
    for term, cost in run.terms.items():
        plates = facts.sites[term].plates
        for name in tried:
            weight = xp.exp(run.logq[name])
            own = {dim for plate, dim in facts.sites["guide", name].plates.items() if plates.get(plate) == dim}
            # a plate the term lacks does not move it: any weights that sum to one will do there, their mean does
            cost = cost * _reduced(xp.mean, weight, [dim for dim in range(-weight.ndim, 0) if dim not in own])
        result[term] = cost
    return result


def _signal(
    xp: Any, costs: Mapping[Term, Array], terms: Mapping[Term, frozenset[str]], facts: Facts, site: Site
) -> Array:
    """Sum of the terms that the site moves, shaped like its log q: dimensions that are not its own are summed."""
    total: Any = 0.0
    for term, mixed in terms.items():
        own = facts.sites[term].plates
        kept = {dim for plate, dim in own.items() if site.plates.get(plate) == dim and plate not in mixed}
        cost = costs[term]
        total = total + _reduced(xp.sum, cost, [dim for dim in range(-cost.ndim, 0) if dim not in kept])
    return total


def _reduced(reduction: Callable[..., Array], array: Array, dims: list[int]) -> Array:
    dims = [dim for dim in dims if array.shape[dim] != 1]
    return reduction(array, axis=tuple(dims), keepdims=True) if dims else array
