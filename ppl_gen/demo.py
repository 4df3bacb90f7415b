"""The demo: two models of small digits, what they know, and one picture of what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppl_gen import backends, data, infer, models
from ppl_gen.data import Dataset, Schema, Variable
from ppl_gen.evaluate.log_prob import LogProb
from ppl_gen.infer.result import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bits = NDArray[np.uint8]

PIXELS = tuple(f"p{place:02d}" for place in range(64))
UPPER, LOWER = PIXELS[:32], PIXELS[32:]
_RELATION = {"exact": " =", "lower_bound": ">=", "upper_bound": "<=", "estimate": " ~"}


@dataclass(frozen=True)
class Settings:
    """How long the demo trains and how much it asks.

    Attributes:
        net: widths, steps and learning rate of the sigmoid belief net.
        nade: the same of the order-agnostic NADE.
        batch_size: rows per step.
        num_samples: draws per image for the belief net's bound.
        orders: size of the NADE's ensemble.
        num_test: held-out rows used.
    """

    net: tuple[tuple[int, ...], int, float] = ((80, 40), 16000, 5e-3)
    nade: tuple[tuple[int, ...], int, float] = ((300, 300), 4500, 1e-3)
    batch_size: int = 100
    num_samples: int = 100
    orders: int = 16
    num_test: int = 250


FULL = Settings()
QUICK = Settings(((20, 20), 30, 1e-3), ((40, 40), 30, 1e-3), batch_size=250, num_samples=5, orders=2, num_test=30)


def run(backend: str | None, out: Path, seed: int, settings: Settings) -> Path:
    """Run the whole demo, print its numbers and write its picture.

    Args:
        backend: "torch" or "jax"; None takes the one installed, torch before jax.
        out: folder of the picture, made if need be.
        seed: of everything random.
        settings: `FULL` or `QUICK`.

    Returns:
        The picture's path.
    """
    _check_extras()
    start, backend = perf_counter(), backend or backends.default()
    digits = data.binarize(data.load("digits"), threshold=7)
    print(f"ppl_gen demo: {digits}\nbackend {backend}, seed {seed}", flush=True)
    common = {"backend": backend, "seed": seed, "batch_size": settings.batch_size}
    _belief_net(digits, settings, common)
    picture = _order_agnostic(digits, settings, common, out / "demo.png")
    print(f"\npicture: {picture}\nwhole demo: {perf_counter() - start:.0f} s")
    return picture


def _check_extras() -> None:
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        error.add_note("The demo needs matplotlib and scikit-learn: pip install 'ppl_gen[all]'.")
        raise


# -- a sigmoid belief net ----------------------------------------------------------------------------


def _belief_net(digits: Dataset, settings: Settings, common: dict[str, Any]) -> None:
    """Train, then hold the bound against independent pixels."""
    train, valid, test = (_flat(part) for part in (digits.train, digits.valid, digits.test))
    test = test[: settings.num_test]
    hidden, steps, rate = settings.net
    model = models.SigmoidBeliefNet(64, hidden, data_mean=train.mean(axis=0))
    plan = infer.plan(model, model.guide, train[: settings.batch_size], backend=common["backend"])
    print(f"\n1. {model}\n{plan}", flush=True)
    start = perf_counter()
    fit = infer.fit(model, data=train, validation=valid, steps=steps, learning_rate=rate, **common)
    _settings(steps, rate, start, common)
    bound = fit.log_prob(test, num_samples=settings.num_samples)
    print(f"log p(image), nats per image, mean of {len(test)} held-out images")
    _line("sigmoid belief net", bound.mean(), f"{settings.num_samples} draws")
    _line("independent pixels", independent(train, test).mean())


def independent(train: Bits, test: Bits) -> LogProb:
    """Exact log-likelihood under independent columns, each level counted half a time more than it occurs."""
    value = np.zeros(len(test))
    for known, asked in zip(train.T, test.T, strict=True):
        counts = np.bincount(known, minlength=max(2, int(known.max()) + 1)) + 0.5
        value += np.log(counts / counts.sum())[asked]
    return LogProb(value)


# -- an order-agnostic NADE --------------------------------------------------------------------------


def _order_agnostic(digits: Dataset, settings: Settings, common: dict[str, Any], path: Path) -> Path:
    """Train on pixels and label together, then ask for the joint, the label, half an image, an image."""
    train, valid, test = _labelled(digits)
    test = test[: settings.num_test]
    variables = [Variable.of_levels(name, (0, 1)) for name in PIXELS]
    schema = Schema((*variables, Variable.of_levels("label", range(10))), form="array")
    hidden, steps, rate = settings.nade
    model = models.OrderAgnosticNADE(schema, hidden, data=train)
    print(f"\n2. {model}", flush=True)
    start = perf_counter()
    fit = infer.fit(model, data=train, validation=valid, steps=steps, learning_rate=rate, **common)
    _settings(steps, rate, start, common)
    print(f"log p(image, label), nats per row, mean of {len(test)} held-out rows")
    joint = fit.log_prob(test, orders=settings.orders)
    _line("order-agnostic NADE", joint.mean(), f"{settings.orders} orders")
    _line("independent variables", independent(train, test).mean())
    _classify(fit, train, test, settings.orders)
    return _draw(fit, test, settings.orders, path)


def _classify(fit: Fit, train: Bits, test: Bits, orders: int) -> None:
    """p(label | pixels), held against a classifier that learned nothing else."""
    from sklearn.linear_model import LogisticRegression

    posterior = fit.query(["label"], _given(test, PIXELS), orders=orders).marginals()["label"]
    direct = LogisticRegression(max_iter=2000).fit(train[:, :64], train[:, 64])
    print(f"label from pixels, accuracy on {len(test)} held-out images")
    _share("order-agnostic NADE", posterior.argmax(1) == test[:, 64], "p(label | pixels)")
    _share("logistic regression", direct.predict(test[:, :64]) == test[:, 64], "scikit-learn, same bits")


def _given(rows: Bits, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Evidence: the rows with everything but the named variables missing."""
    known = np.isin([*PIXELS, "label"], names)
    return np.where(known, rows.astype(np.float64), np.nan)


def _draw(fit: Fit, test: Bits, orders: int, path: Path) -> Path:
    """Ask for lower halves and for images of each label, and draw the answers."""
    chosen = test[[np.flatnonzero(test[:, 64] == label)[0] for label in np.unique(test[:, 64])[:8]]]
    lower = fit.query(LOWER, _given(chosen, UPPER), orders=orders).sample(8, seed=0)
    labels = np.zeros((10, 65), dtype=np.uint8)
    labels[:, 64] = np.arange(10)
    images = fit.query(PIXELS, _given(labels, ("label",)), orders=orders).sample(5, seed=0)
    return picture(chosen[:, :64], np.asarray(lower), np.asarray(images), path)


# -- the picture -------------------------------------------------------------------------------------

_PAPER, _INK = np.array([0.95, 0.95, 0.95]), np.array([0.10, 0.10, 0.12])  # given
_TINT, _BLUE = np.array([0.90, 0.94, 0.99]), np.array([0.10, 0.35, 0.75])  # drawn by the model
_BLANK = np.array([0.84, 0.84, 0.84])  # not given


def picture(originals: NDArray[Any], lower: NDArray[Any], images: NDArray[Any], path: Path) -> Path:
    """Draw completions above, images per label below.

    Args:
        originals: test images, shape (rows, 64).
        lower: sampled lower halves, shape (draws, rows, 32).
        images: sampled images of labels 0 to 9, shape (draws, 10, 64).
        path: of the PNG file.

    Returns:
        `path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 10.4), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(len(originals), len(images)))
    given, drawn = _colour(originals, _PAPER, _INK), [_colour(half, _TINT, _BLUE) for half in lower]
    blank = np.broadcast_to(_BLANK, given[:, 32:].shape)
    halves = [np.concatenate([given[:, :32], half], axis=1) for half in (blank, *drawn)]
    _panel(above, np.stack([given, *halves], axis=1), ["test", "given", *["draw"] * len(lower)])
    above.set_title("p(lower half | upper half): a test image, what is given, and draws (blue)", fontsize=11)
    _panel(below, _colour(images, _TINT, _BLUE), [str(label) for label in range(10)])
    below.set_title("p(image | label): draws for each label", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, facecolor="white")
    return path


def _colour(bits: NDArray[Any], zero: NDArray[Any], one: NDArray[Any]) -> NDArray[np.float64]:
    """Bits of any shape as colours, shape (..., 3)."""
    return np.where(bits[..., None] > 0, one, zero)


def _panel(axes: Axes, tiles: NDArray[np.float64], names: list[str]) -> None:
    """One mosaic, its columns named above."""
    axes.imshow(mosaic(tiles), interpolation="nearest")
    axes.set_xticks(np.arange(len(names)) * 9 + 3.5, names, fontsize=10)
    axes.tick_params(bottom=False, labelbottom=False, labeltop=True, length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def mosaic(tiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Images (rows, columns, 64, 3) side by side, a white line apart: (9 rows - 1, 9 columns - 1, 3)."""
    rows, columns = tiles.shape[:2]
    canvas = np.ones((rows, 9, columns, 9, 3))
    canvas[:, :8, :, :8] = tiles.reshape(rows, columns, 8, 8, 3).transpose(0, 2, 1, 3, 4)
    return canvas.reshape(rows * 9, columns * 9, 3)[:-1, :-1]


# -- small parts -------------------------------------------------------------------------------------


def _flat(images: NDArray[Any] | None) -> Bits:
    assert images is not None  # the digits have every part
    bits: Bits = images.reshape(len(images), -1)
    return bits


def _labelled(digits: Dataset) -> list[Bits]:
    """Each split with the label as a last column."""
    splits = ("train", "valid", "test")
    pairs = [(_flat(getattr(digits, split)), getattr(digits, f"{split}_labels")) for split in splits]
    return [np.column_stack([bits, labels]).astype(np.uint8) for bits, labels in pairs]


def _settings(steps: int, rate: float, start: float, common: dict[str, Any]) -> None:
    seconds = perf_counter() - start
    print(f"{steps} steps of {common['batch_size']} rows, learning rate {rate:g}, {seconds:.1f} s")


def _line(name: str, found: LogProb, how: str = "") -> None:
    """One result with its relation to the true value and its kind."""
    error = "" if found.kind == "exact" else f" ± {float(found.standard_error.reshape(())):.2f}"
    kind = found.kind.replace("_", " ") + (f", {how}" if how else "")
    print(f"  {name:<22} {_RELATION[found.kind]} {float(found):7.2f}{error:<7}  {kind}", flush=True)


def _share(name: str, hits: NDArray[np.bool_], how: str) -> None:
    """One accuracy."""
    print(f"  {name:<22}    {hits.mean():7.1%}        {how}", flush=True)
