"""The bound by brute force: every joint value of all latents, whatever the plan says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ppl_gen.estimators.base import Arrays
from ppl_gen.estimators.plan import Plan
from ppl_gen.objectives.bound import Loss
from ppl_gen.objectives.particles import RunProgram, summed
from ppl_gen.program import Facts, Site
from ppl_gen.program.arrays import Array, Namespace


class Exact:
    """The ELBO as a sum over all values of all latents: what `infer.check` holds estimates against.

    It trusts nothing that a plan rests on: no dependency, no plate, no derivative through a latent.

    Source: book eq. 20.59 and 20.76, written out.
    """

    kind = "exact"
    dreams = False

    def accept(self, plan: Plan) -> Plan:
        """See `Bound.accept`."""
        return plan

    def start(self) -> Arrays:
        """See `Bound.start`."""
        return {}

    def __call__(
        self,
        xp: Namespace,
        run: RunProgram,
        keys: list[Any],
        plan: Plan,
        weights: Mapping[str, Arrays],
        averages: Mapping[str, Arrays],
    ) -> Loss:
        """See `Bound.__call__`."""
        run = summed(xp, run, plan.facts)
        cut, value, buffers = list(plan), xp.zeros(()), {}
        for fixed in joint_values(xp, plan.facts):
            one = run(keys[0], fixed, cut)
            bound = sum(xp.sum(term) for term in one.terms.values())
            log_weight = sum((xp.sum(one.logq[name]) for name in cut), xp.zeros(()))
            value, buffers = value - xp.exp(log_weight) * bound, one.buffers
        return Loss(value, xp.stop_gradient(value), averages, buffers)


class Rarest(Exact):
    """The lowest probability of any value of a finite latent's elements, in one run: how seldom draws may see it."""

    def __call__(
        self,
        xp: Namespace,
        run: RunProgram,
        keys: list[Any],
        plan: Plan,
        weights: Mapping[str, Arrays],
        averages: Mapping[str, Arrays],
    ) -> Loss:
        """See `Bound.__call__`."""
        one = run(keys[0], {}, list(plan))
        lowest = xp.ones(())
        for site in plan.facts.latents():
            if site.support == "finite":
                chances = xp.exp(one.masses[site.name]())
                chances = xp.where(chances > 0, chances, xp.ones_like(chances))  # what is never drawn is not missed
                lowest = xp.minimum(lowest, -xp.max(-chances))
        return Loss(lowest, xp.stop_gradient(lowest), averages, one.buffers)


def num_joint_values(facts: Facts) -> float:
    """How many there are; infinity where a latent is not binary or categorical."""
    return math.prod(_levels(site) ** _elements(site) for site in facts.latents())


def _levels(site: Site) -> float:
    if site.is_binary:
        return 2
    return site.size or math.inf if site.is_categorical and not site.event_shape else math.inf


def _elements(site: Site) -> int:
    return math.prod((*site.batch_shape, *site.event_shape))


def joint_values(xp: Namespace, facts: Facts) -> Iterator[Mapping[str, Array]]:
    """Every joint value of the latents, as arrays."""
    sites = list(facts.latents())
    levels = [range(int(_levels(site))) for site in sites for _ in range(_elements(site))]
    for flat in itertools.product(*levels):
        supply, fixed = iter(flat), {}
        for site in sites:
            values = np.array([next(supply) for _ in range(_elements(site))])
            kind = xp.float32 if site.is_binary else xp.int64
            fixed[site.name] = xp.reshape(xp.asarray(values, dtype=kind), (*site.batch_shape, *site.event_shape))
        yield fixed
