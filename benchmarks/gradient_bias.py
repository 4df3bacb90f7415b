"""Mean gradient against the exact one, for small programs that Pyro and NumPyro train without complaint.

Two programs, each as plain Pyro and as plain NumPyro text. `step`: a Gaussian latent moves the cost only through a
comparison. `mixed`: three Bernoulli latents of one plate, of which each moves the other rows' cost through their mean.
The exact gradient of minus the ELBO comes from a fine grid, or from all eight states.

    python benchmarks/gradient_bias.py --samples 4000
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as numpyro_dist
import pyro
import pyro.distributions as pyro_dist
import torch
from numpy.typing import NDArray

from ppl_gen import infer

SEEN, LOC = 1.5, 0.3
ROWS, LOGITS = np.array([1.0, 0.0, 2.0], np.float32), np.array([0.5, -0.5, 1.0], np.float32)
START = {"step": LOC, "mixed": LOGITS}
Program = Callable[[], None]


def pyro_programs() -> dict[str, tuple[Program, Program]]:
    """Name -> (model, guide), in Pyro."""

    def step_model() -> None:
        z = pyro.sample("z", pyro_dist.Normal(0.0, 1.0))
        pyro.sample("x", pyro_dist.Normal(torch.where(z > 0, 2.0, -1.0), 1.0), obs=torch.tensor(SEEN))

    def step_guide() -> None:
        pyro.sample("z", pyro_dist.Normal(pyro.param("at", torch.tensor(LOC)), 1.0))

    def mixed_model() -> None:
        with pyro.plate("rows", 3):
            z = pyro.sample("z", pyro_dist.Bernoulli(torch.tensor(0.5).expand(3)))
            pyro.sample("x", pyro_dist.Normal(3 * (z - z.mean()), 1.0), obs=torch.tensor(ROWS))

    def mixed_guide() -> None:
        with pyro.plate("rows", 3):
            pyro.sample("z", pyro_dist.Bernoulli(logits=pyro.param("at", torch.tensor(LOGITS))))

    return {"step": (step_model, step_guide), "mixed": (mixed_model, mixed_guide)}


def numpyro_programs() -> dict[str, tuple[Program, Program]]:
    """Name -> (model, guide), in NumPyro."""

    def step_model() -> None:
        z = numpyro.sample("z", numpyro_dist.Normal(0.0, 1.0))
        numpyro.sample("x", numpyro_dist.Normal(jnp.where(z > 0, 2.0, -1.0), 1.0), obs=SEEN)

    def step_guide() -> None:
        numpyro.sample("z", numpyro_dist.Normal(numpyro.param("at", LOC), 1.0))

    def mixed_model() -> None:
        with numpyro.plate("rows", 3):
            z = numpyro.sample("z", numpyro_dist.Bernoulli(jnp.full(3, 0.5)))
            numpyro.sample("x", numpyro_dist.Normal(3 * (z - z.mean()), 1.0), obs=ROWS)

    def mixed_guide() -> None:
        with numpyro.plate("rows", 3):
            numpyro.sample("z", numpyro_dist.Bernoulli(logits=numpyro.param("at", LOGITS)))

    return {"step": (step_model, step_guide), "mixed": (mixed_model, mixed_guide)}


def log_normal(x: Any, mean: Any) -> Any:
    """Log density of a Gaussian of variance one, nats."""
    return -0.5 * (np.asarray(x) - mean) ** 2 - 0.5 * math.log(2 * math.pi)


def exact_step() -> NDArray[np.float64]:
    """Derivative of minus the ELBO by the guide's location: a score-function integral on a grid."""
    grid = np.linspace(LOC - 10, LOC + 10, 400_001)
    q = np.exp(log_normal(grid, LOC))
    cost = log_normal(grid, LOC) - log_normal(grid, 0.0) - log_normal(SEEN, np.where(grid > 0, 2.0, -1.0))
    return np.array([(q * (grid - LOC) * cost).sum() * (grid[1] - grid[0])])


def exact_mixed() -> NDArray[np.float64]:
    """Gradient of minus the ELBO by the three logits, over all eight states."""
    q, total = 1 / (1 + np.exp(-LOGITS.astype(np.float64))), np.zeros(3)
    for state in itertools.product((0, 1), repeat=3):
        z = np.array(state)
        chances = np.where(z, q, 1 - q)
        cost = np.log(chances) - math.log(0.5) - log_normal(ROWS, 3 * (z - z.mean()))
        total += chances.prod() * (z - q) * cost.sum()
    return total


def by_pyro(elbo: Any, model: Program, guide: Program, start: Any, num_samples: int) -> NDArray[Any]:
    """Gradients of Pyro's loss, shape (samples, parameters); the guide holds the start itself."""
    del start
    pyro.clear_param_store()
    found = []
    for _ in range(num_samples):
        elbo.loss_and_grads(model, guide)
        leaf = pyro.param("at").unconstrained()
        found.append(leaf.grad.numpy().copy().reshape(-1))
        leaf.grad = None
    return np.stack(found)


def by_numpyro(elbo: Any, model: Program, guide: Program, start: Any, num_samples: int) -> NDArray[Any]:
    """Gradients of NumPyro's loss, shape (samples, parameters)."""
    slope = jax.grad(lambda at, key: elbo.loss(key, {"at": at}, model, guide))
    keys = jax.random.split(jax.random.key(0), num_samples)
    many = jax.jit(jax.vmap(slope, (None, 0)))(jnp.asarray(start), keys)
    return np.asarray(many).reshape(num_samples, -1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Mean gradients against the exact ones.")
    parser.add_argument("--samples", type=int, default=4000, help="independent gradients (default: 4000)")
    num_samples = parser.parse_args(argv).samples
    pyro.set_rng_seed(0)
    print(
        f"{datetime.date.today()}, pyro {pyro.__version__}, numpyro {numpyro.__version__}, {num_samples} samples, seed 0"
    )
    exact = {"step": exact_step(), "mixed": exact_mixed()}
    torch_texts, jax_texts = pyro_programs(), numpyro_programs()
    for name, right in exact.items():
        print(f"\n{name}: gradient of minus the ELBO (± standard error)\n  {'exact':<26} {_numbers(right)}")
        for texts, draw, library in ((torch_texts, by_pyro, pyro), (jax_texts, by_numpyro, numpyro)):
            for elbo in (library.infer.Trace_ELBO(), library.infer.TraceGraph_ELBO()):
                draws = draw(elbo, *texts[name], START[name], num_samples)
                _line(f"{library.__name__} {type(elbo).__name__}", draws, right)
            ours = infer.gradient(*texts[name], num_samples=num_samples)["at"].reshape(num_samples, -1)
            _line(f"ppl_gen, {library.__name__} text", ours, right)


def _line(name: str, draws: NDArray[Any], right: NDArray[np.float64]) -> None:
    """One contender's mean, standard error and distance from the truth in standard errors."""
    mean, error = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(len(draws))
    worst = np.abs((mean - right) / error).max()
    print(f"  {name:<26} {_numbers(mean)} ± {error.max():.3f}   off by {worst:.1f} standard errors", flush=True)


def _numbers(values: NDArray[Any]) -> str:
    return " ".join(f"{value:7.3f}" for value in values)


if __name__ == "__main__":
    main()
