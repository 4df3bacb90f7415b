"""What is trained: two models of binary images, with the same sizes and first weights for every contender."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIXELS = 784
LEARNING_RATE = 1e-3  # of Adam, for the model, the guide and the baselines
BASELINE_UNITS = 64  # hidden units of a learned baseline: those of ppl_gen.estimators.Learned
BASELINE_DECAY = 0.95  # of its running mean and standard deviation

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Workload:
    """One model to train.

    Attributes:
        name: "vae" or "belief_net".
        title: for the table.
        batch: rows per step.
        layers: (name, inputs, outputs) of each affine map.
    """

    name: str
    title: str
    batch: int
    layers: tuple[tuple[str, int, int], ...]

    def initial(self, seed: int) -> Weights:
        """First weights "name.weight" (inputs, outputs), normal with variance 1 / inputs, and zero biases."""
        rng = np.random.default_rng(seed)
        weights: Weights = {}
        for name, inputs, outputs in self.layers:
            draw = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
            weights[f"{name}.weight"] = draw.astype(np.float32)
            weights[f"{name}.bias"] = np.zeros(outputs, np.float32)
        return weights


VAE = Workload(
    "vae",
    "VAE, 784-400-20, batch 128, reparametrized Gaussian code",
    128,
    (
        ("encoder.0", PIXELS, 400),
        ("encoder.loc", 400, 20),
        ("encoder.scale", 400, 20),
        ("decoder.0", 20, 400),
        ("decoder.1", 400, PIXELS),
    ),
)
BELIEF_NET = Workload(
    "belief_net",
    "sigmoid belief net, 784-200-200, batch 24, score function with learned baselines",
    24,
    (("encoder.0", PIXELS, 200), ("encoder.1", 200, 200), ("decoder.1", 200, 200), ("decoder.0", 200, PIXELS)),
)
WORKLOADS = {workload.name: workload for workload in (VAE, BELIEF_NET)}


def binary_images(num_rows: int, seed: int) -> NDArray[np.float32]:
    """Random binary rows of MNIST's shape, each pixel with its own probability, shape (num_rows, 784)."""
    rng = np.random.default_rng(seed)
    return (rng.random((num_rows, PIXELS)) < 0.4 * rng.random(PIXELS)).astype(np.float32)


def batches(num_rows: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of one batch after the other, in a new order at each pass; `batch` divides `num_rows`."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(num_rows).reshape(-1, batch)
