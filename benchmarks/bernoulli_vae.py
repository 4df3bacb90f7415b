"""Variance of the encoder's gradient while a VAE with 200 binary latents is trained, beside the published figures.

The set-up of Shi et al. 2022 (appendix; figures read off their plot at a million steps): MNIST binarized afresh for every
batch, encoder 784-200-200-200 and decoder 200-200-200-784 with leaky rectifiers (slope 0.3), first weights uniform as in
Glorot & Bengio 2010, a prior of one half that is not trained, batches of 100 of the first 50,000 images, Adam with 1e-3
for everything. The gradient is that of a row's negative bound, averaged over batch and particles. Running means of it and
of its square, with decay 0.999, give a variance per component; their mean over the encoder's components is printed. It
holds the noise of the batches too. Needs MNIST (`PPL_GEN_DATA` or the network) and JAX.

    python benchmarks/bernoulli_vae.py --estimator DisArm DoubleControl Rodeo --steps 100000
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppl_gen import data, estimators, infer
from ppl_gen.language import dist, param, plate, sample, xp

BATCH = 100
PUBLISHED = {  # (estimator, evaluations of the bound per step) -> variance after a million steps
    ("DisArm", 2): "1.37e-2",
    ("DoubleControl", 2): "1.33e-2",
    ("Rodeo", 2): "1.07e-2",
    ("DoubleControl", 3): "0.74e-2",
    ("Rodeo", 3): "0.68e-2",
}


class Binarized:
    """Batches of images without end, every pixel drawn anew with its grey level as the chance.

    Args:
        images: (rows, 784) levels 0..255.
        seed: of the order and the draws.
    """

    def __init__(self, images: Any, seed: int) -> None:
        self.levels, self.seed = images, seed

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng(self.seed)
        while True:
            for rows in rng.permutation(len(self.levels)).reshape(-1, BATCH):
                levels = self.levels[rows]
                # a pixel is one with chance level / 255: a whole number below 255 lies below the level
                yield (rng.integers(0, 255, levels.shape, dtype=np.uint8) < levels).astype(np.float32)


def layers(name: str, inputs: Any, *widths: int) -> Any:
    """A perceptron with leaky rectifiers between its layers."""
    for depth, width in enumerate(widths):
        inputs = inputs if depth == 0 else xp.leaky_relu(inputs, 0.3)
        bound = np.sqrt(6.0 / (inputs.shape[-1] + width))
        rng = np.random.default_rng([depth, *name.encode()])
        first = rng.uniform(-bound, bound, (inputs.shape[-1], width)).astype(np.float32)
        inputs = xp.matmul(inputs, param(f"{name}.{depth}.weight", xp.asarray(first)))
        inputs = inputs + param(f"{name}.{depth}.bias", xp.zeros(width))
    return inputs


def model(x: Any) -> None:
    """p(z) p(x | z)."""
    with plate("data", len(x)):
        z = sample("z", dist.Bernoulli(logits=xp.zeros(200)).to_event(1))
        logits = layers("decoder", xp.astype(z, xp.float32), 200, 200, 784)
        sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def guide(x: Any) -> None:
    """q(z | x)."""
    with plate("data", len(x)):
        sample("z", dist.Bernoulli(logits=layers("encoder", x, 200, 200, 200)).to_event(1))


def watched(inner: optax.GradientTransformation, every: int, say: Any) -> optax.GradientTransformation:
    """`inner`, which tells `say` the step and the encoder's variance, as the module says, every so many steps."""

    def of_encoder(gradient: Any) -> Any:
        return {name: g / BATCH for name, g in gradient.items() if name.startswith("encoder")}

    def init(params: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, of_encoder(params))
        return inner.init(params), jnp.zeros((), jnp.int32), zeros, zeros

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        state, step, mean, square = state
        now = of_encoder(gradient)
        keep = jnp.where(step == 0, 0.0, 0.999)
        mean = jax.tree.map(lambda old, g: keep * old + (1 - keep) * g, mean, now)
        square = jax.tree.map(lambda old, g: keep * old + (1 - keep) * g**2, square, now)

        def report() -> None:
            spread = [jnp.ravel(s - m**2) for s, m in zip(square.values(), mean.values(), strict=True)]
            jax.debug.callback(say, step + 1, jnp.mean(jnp.concatenate(spread)))

        jax.lax.cond((step + 1) % every == 0, report, lambda: None)
        updates, state = inner.update(gradient, state, params)
        return updates, (state, step + 1, mean, square)

    return optax.GradientTransformation(init, update)


def main(argv: Sequence[str] | None = None) -> None:
    """Train with each estimator, print."""
    options = parse(argv)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, JAX, seed {options.seed}", flush=True
    )
    images = data.load("mnist").train[:50_000].reshape(-1, 784)
    for name in options.estimator:
        estimator = getattr(estimators, name)()
        particles = 1 if name == "DisArm" else options.particles
        train(estimator, particles, images, options)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Variance of estimators on a VAE with 200 binary latents.")
    parser.add_argument("--estimator", nargs="+", default=["DisArm", "DoubleControl", "Rodeo"])
    parser.add_argument("--particles", type=int, default=2, help="of estimators but DisArm, which draws its own pairs")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--reports", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def train(estimator: Any, particles: int, images: Any, options: argparse.Namespace) -> None:
    """One run; prints a line at every report."""
    name, every = type(estimator).__name__, max(1, options.steps // options.reports)
    draws = 2 if name == "DisArm" else particles
    published = PUBLISHED.get((name, draws), "-")
    print(f"\n{name}, {draws} evaluations of the bound; published, after 1,000,000 steps: {published}", flush=True)
    begin = perf_counter()

    def say(step: Any, variance: Any) -> None:
        print(f"  step {int(step):>8,}  variance {float(variance):.3e}  {perf_counter() - begin:.0f} s", flush=True)

    fit = infer.fit(
        model,
        guide,
        Binarized(images, options.seed),
        backend="jax",
        steps=options.steps,
        optimizer=watched(optax.adam(1e-3), every, say),
        estimators={"z": estimator},
        num_particles=particles,
        seed=options.seed,
        progress=False,
    )
    tail = fit.losses[-max(1, options.steps // 20) :].mean() / BATCH
    print(f"  training loss over the last twentieth {tail:.2f} nats per row", flush=True)


if __name__ == "__main__":
    main()
