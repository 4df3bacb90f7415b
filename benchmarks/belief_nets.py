"""Sigmoid belief nets on the fixed binarization of MNIST: our test likelihood beside the published.

The rows are those of the ARM paper's table 2 (Yin & Zhou 2019; test negative bound, nats) and of reweighted wake-sleep
(Bornschein & Bengio 2015; estimated log-likelihood). The published nets were trained for a million steps or to
convergence; a run of `--steps` on a CPU is a beginning, and its number says how far that goes. Needs the data set
(`PPL_GEN_DATA` or the network).

    python benchmarks/belief_nets.py --net linear --steps 20000
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from ppl_gen import data, estimators, infer, models, nn, objectives
from ppl_gen.language import dist, param, plate, sample, xp

PUBLISHED = {
    "linear": "107.2 (ARM, negative bound)",
    "nonlinear": "98.4 (ARM, negative bound)",
    "two-layer": "96.7 (ARM, negative bound)",
    "three-layer": "90.1 (reweighted wake-sleep, estimate)",
}


class NonLinear:
    """Two hundred bits below two deterministic layers of leaky rectifiers on either side.

    Args:
        mean: each pixel's mean.
    """

    def __init__(self, mean: Any) -> None:
        self.mean = np.asarray(mean, dtype=np.float32)
        clipped = np.clip(self.mean, 1e-3, 1 - 1e-3)
        self.start = np.log(clipped / (1 - clipped))

    def __call__(self, x: Any) -> None:
        """p(h) p(x | h)."""
        with plate("data", len(x)):
            h = sample("h1", dist.Bernoulli(logits=param("top.bias", lambda: xp.zeros(200))).to_event(1))
            hidden = self._layers("decoder", xp.astype(h, xp.float32))
            logits = nn.linear("decoder.out", hidden, 784, bias=self.start)
            sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xp.astype(x, xp.float32))

    def guide(self, x: Any) -> None:
        """q(h | x)."""
        hidden = self._layers("encoder", xp.astype(x, xp.float32) - xp.asarray(self.mean))
        with plate("data", len(x)):
            sample("h1", dist.Bernoulli(logits=nn.linear("encoder.out", hidden, 200)).to_event(1))

    def _layers(self, name: str, inputs: Any) -> Any:
        for depth in range(2):
            inputs = xp.leaky_relu(nn.linear(f"{name}.{depth}", inputs, 200), 0.3)
        return inputs


NETS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda mean: models.SigmoidBeliefNet(784, (200,), mean),
    "nonlinear": NonLinear,
    "two-layer": lambda mean: models.SigmoidBeliefNet(784, (200, 200), mean),
    "three-layer": lambda mean: models.SigmoidBeliefNet(784, (200, 200, 200), mean),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate, print."""
    options = parse(argv)
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {options.backend}, seed {options.seed}"
    )
    images = data.load("binarized_mnist")
    train, test = (np.asarray(part).reshape(-1, 784).astype(np.float32) for part in (images.train, images.test))
    order = np.random.default_rng(options.seed).permutation(len(test))  # the split's own order goes from hard to easy
    chosen = test[order[: options.rows]]
    for name in options.net:
        print(row(name, options, train, chosen), flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Belief nets on binarized MNIST beside the published numbers.")
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--estimator", default=None, help="a class of ppl_gen.estimators; default: chosen")
    parser.add_argument("--objective", default="ELBO", help="a class of ppl_gen.objectives (default: ELBO)")
    parser.add_argument("--particles", type=int, default=1)
    parser.add_argument("--backend", choices=("torch", "jax"), default="jax")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--rows", type=int, default=2000, help="test rows that are evaluated, drawn at random (default: 2000)"
    )
    parser.add_argument("--samples", type=int, default=100, help="importance samples per row (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def row(name: str, options: argparse.Namespace, train: Any, test: Any) -> str:
    """One net: what was done and what came out."""
    asked = {"*": getattr(estimators, options.estimator)()} if options.estimator else None
    begin = perf_counter()
    fit = infer.fit(
        NETS[name](train.mean(0)),
        data=train,
        batch_size=options.batch,
        steps=options.steps,
        learning_rate=options.learning_rate,
        estimators=asked,
        objective=getattr(objectives, options.objective)(),
        num_particles=options.particles,
        backend=options.backend,
        seed=options.seed,
        progress=False,
    )
    seconds = perf_counter() - begin
    tail = fit.losses[-max(1, options.steps // 20) :].mean() / len(train)
    bound, estimate = (-float(fit.log_prob(test, num_samples=n).mean()) for n in (1, options.samples))
    chosen = ", ".join(f"{site} {type(fit.plan[site].estimator).__name__}" for site in fit.plan)
    return (
        f"{name}: {options.objective}, {options.particles} particles, {chosen}; {options.steps} steps of {options.batch}, "
        f"Adam {options.learning_rate:g}, {seconds:.0f} s\n"
        f"  training loss {tail:.2f}, test negative bound {bound:.2f}, test -log p by {options.samples} importance samples "
        f"{estimate:.2f} ({len(test)} rows); published {PUBLISHED[name]}"
    )


if __name__ == "__main__":
    main()
