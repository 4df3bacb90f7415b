"""Sigmoid belief nets on the fixed binarization of MNIST: our test likelihood beside the published.

The rows are those of the ARM paper's table 2 (a: MNIST-static; Yin & Zhou 2019) and of reweighted wake-sleep (Bornschein &
Bengio 2015): test -log p(x) in nats, by importance samples. The published nets were trained for a million steps or to
convergence, with the learning rate chosen on the validation images. Here the rate falls to zero along a cosine, and the
best of the parameters on some of the validation images are kept. Needs JAX and the data set (`PPL_GEN_DATA` or the network).

    python benchmarks/belief_nets.py --net linear --estimator DisArm --steps 400000
    python benchmarks/belief_nets.py --net three-layer --objective ReweightedWakeSleep --particles 5 --steps 200000
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
import optax

from ppl_gen import data, estimators, infer, models, nn, objectives
from ppl_gen.language import dist, param, plate, sample, xp

PUBLISHED = {  # test -log p(x), nats
    "linear": "107.2 (ARM, the best of nine)",
    "nonlinear": "98.4 (ARM, the best of seven)",
    "two-layer": "95.4 (REBAR, the best of eight; ARM 96.7)",
    "three-layer": "90.1 (reweighted wake-sleep)",
}
VALIDATION = 1000  # rows


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
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, JAX, seed {options.seed}")
    images = data.load("binarized_mnist")
    parts = (np.concatenate([images.train, images.valid]), images.test)
    train, test = (np.asarray(part).reshape(-1, 784).astype(np.float32) for part in parts)
    train, valid = train[: options.train_rows], train[options.train_rows :]
    valid, test = some(valid, VALIDATION, options.seed), some(test, options.rows, options.seed)
    for name in options.net:
        print(row(name, options, train, valid, test), flush=True)


def some(images: Any, rows: int, seed: int) -> Any:
    """`rows` of the images, drawn at random: the split's own order goes from hard to easy."""
    return images[np.random.default_rng(seed).permutation(len(images))[:rows]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Belief nets on binarized MNIST beside the published numbers.")
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--estimator", default=None, help="a class of ppl_gen.estimators; default: chosen")
    parser.add_argument("--objective", default="ELBO", help="a class of ppl_gen.objectives (default: ELBO)")
    parser.add_argument("--sleep", type=float, default=0.0, help="the share of dreams, of ReweightedWakeSleep")
    parser.add_argument("--particles", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument(
        "--train-rows",
        type=int,
        default=50_000,
        help="of the 60,000; the rest validates (reweighted wake-sleep: 59,000)",
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="at the start (default: 1e-3)")
    parser.add_argument(
        "--prior-precision",
        type=float,
        default=0.0,
        help="of a Gaussian at zero over the model's weights, beside the likelihood of all rows (default: 0, none)",
    )
    parser.add_argument(
        "--rows", type=int, default=10_000, help="test rows that are evaluated, drawn at random (default: all 10,000)"
    )
    parser.add_argument("--samples", type=int, default=1000, help="importance samples per row (default: 1000)")
    parser.add_argument(
        "--fine-samples",
        type=int,
        default=0,
        help="more importance samples, for --fine-rows of the test rows drawn at random; their mean gain holds for all rows, "
        "within the standard error that is printed",
    )
    parser.add_argument("--fine-rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default=None, help="a folder: what is cut off is continued from it")
    return parser.parse_args(argv)


def optimizer(options: argparse.Namespace) -> optax.GradientTransformation:
    """Adam along a cosine; the model's weights are drawn to zero if that is asked for."""
    adam = optax.adam(optax.cosine_decay_schedule(options.learning_rate, options.steps))
    if not options.prior_precision:
        return adam
    return optax.chain(optax.add_decayed_weights(options.prior_precision, mask=model_weights), adam)


def model_weights(params: Any) -> dict[str, bool]:
    """Those of p(x | h): neither biases nor the recognition net's."""
    return {name: name.startswith("decoder.") and name.endswith(".weight") for name in params}


def row(name: str, options: argparse.Namespace, train: Any, valid: Any, test: Any) -> str:
    """One net: what was done and what came out."""
    asked = {"*": getattr(estimators, options.estimator)()} if options.estimator else None
    dreams = {"sleep": options.sleep} if options.sleep else {}
    objective = getattr(objectives, options.objective)(**dreams)
    begin = perf_counter()
    fit = infer.fit(
        NETS[name](train.mean(0)),
        data=train,
        batch_size=options.batch,
        steps=options.steps,
        optimizer=optimizer(options),
        estimators=asked,
        objective=objective,
        num_particles=options.particles,
        backend="jax",
        seed=options.seed,
        validation=valid,
        checkpoint=options.checkpoint and os.path.join(options.checkpoint, name),
        progress=False,
    )
    seconds = perf_counter() - begin
    tail = fit.losses[-max(1, options.steps // 20) :].mean() / len(train)
    bound, coarse = (-fit.log_prob(test, num_samples=n).value for n in (1, options.samples))
    chosen = ", ".join(f"{site} {type(fit.plan[site].estimator).__name__}" for site in fit.plan)
    text = (
        f"{name}: {objective!r}, {options.particles} particles, {chosen}; {options.steps} steps of {options.batch} "
        f"from {len(train)} rows, Adam {options.learning_rate:g} to 0, {seconds:.0f} s\n"
        f"  training loss {tail:.2f}, test negative bound {bound.mean():.2f}, test -log p by {options.samples} importance samples "
        f"{coarse.mean():.2f} ({len(test)} rows); published {PUBLISHED[name]}"
    )
    if not options.fine_samples:
        return text
    rows = test[: options.fine_rows]  # drawn at random already
    gain = coarse[: len(rows)] + fit.log_prob(rows, num_samples=options.fine_samples).value
    error = gain.std(ddof=1) * np.sqrt(1 / len(gain) - 1 / len(test))
    return (
        f"{text}\n  by {options.fine_samples} samples {coarse.mean() - gain.mean():.2f}: on {len(gain)} of the rows, drawn at random, "
        f"they give {gain.mean():.3f} less, standard error {error:.3f}"
    )


if __name__ == "__main__":
    main()
