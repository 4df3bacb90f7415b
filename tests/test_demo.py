"""The demo, cut short, from the command line: it says what it should and leaves a picture of something."""

import re

import numpy as np
import pytest

from ppl_gen.__main__ import main
from ppl_gen.demo import independent, mosaic, picture

LINES = [
    r"ppl_gen demo: Dataset\(digits, 1297/250/250 rows of 8x8, level > 7, \w{16}\)",
    r"backend {backend}, seed 3",
    r"1\. SigmoidBeliefNet\(data_dim=64, hidden=\(20, 20\)\)",
    r"site +distribution +estimator +.*reason",
    r"h1 +Bernoulli\w* +Score\(.*",
    r"h2 +Bernoulli\w* +Score\(.*",
    r"30 steps of 250 rows, learning rate 0\.001, \d+\.\d s",
    r"log p\(image\), nats per image, mean of 30 held-out images",
    r"  sigmoid belief net +>= +-\d\d\.\d\d ± \d\.\d\d +lower bound, 5 draws",
    r"  independent pixels += +-24\.95 +exact",
    r"2\. OrderAgnosticNADE\(Schema\(65 variables: 64 binary, 1 categorical\), hidden=\(40, 40\)\)",
    r"30 steps of 250 rows, learning rate 0\.001, \d+\.\d s",
    r"log p\(image, label\), nats per row, mean of 30 held-out rows",
    r"  order-agnostic NADE += +-\d\d\.\d\d +exact, 2 orders",
    r"  independent variables += +-27\.27 +exact",
    r"label from pixels, accuracy on 30 held-out images",
    r"  order-agnostic NADE +\d+\.\d% +p\(label \| pixels\)",
    r"  logistic regression +96\.7% +scikit-learn, same bits",
    r"picture: pictures.demo\.png",
    r"whole demo: \d+ s",
]


def show(path):
    """The pixels of a PNG file, shape (height, width, 3), 0 to 1."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(imread(path))[..., :3]


def is_near(image, colour):
    return (np.abs(image - colour).max(2) < 0.02).mean()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_quick_demo_prints_its_numbers_and_draws_its_picture(backend, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["demo", "--quick", "--backend", backend, "--seed", "3", "--out", "pictures"])
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) == len(LINES)
    for line, expected in zip(printed, LINES, strict=True):
        assert re.fullmatch(expected.replace("{backend}", backend), line), line
    image = show(tmp_path / "pictures" / "demo.png")
    assert min(image.shape[:2]) > 500
    assert is_near(image, (0.10, 0.10, 0.12)) > 0.02  # given ink
    assert is_near(image, (0.10, 0.35, 0.75)) > 0.05  # drawn ink
    assert is_near(image, (0.84, 0.84, 0.84)) > 0.01  # not given


def test_mosaic_keeps_each_image_upright_in_its_place():
    tiles = np.random.default_rng(0).random((2, 3, 64, 3))
    shown = mosaic(tiles)
    assert shown.shape == (17, 26, 3)
    for row, column in np.ndindex(2, 3):
        corner = shown[9 * row : 9 * row + 8, 9 * column : 9 * column + 8]
        np.testing.assert_array_equal(corner, tiles[row, column].reshape(8, 8, 3))
    assert (shown[8] == 1).all() and (shown[:, [8, 17]] == 1).all()


def test_picture_draws_lower_halves_below_what_is_given(tmp_path):
    """All ink: black in the upper half of each draw, blue below, in as many tiles as there are."""
    image = show(picture(np.ones((8, 64)), np.ones((8, 8, 32)), np.ones((5, 10, 64)), tmp_path / "new" / "a.png"))
    black, blue = (is_near(image, colour) for colour in ((0.10, 0.10, 0.12), (0.10, 0.35, 0.75)))
    halves = (
        8 * (2 + 1 + 8),
        8 * 8 + 2 * 50,
    )  # black: test images whole, given, draws; blue: draws, images of labels
    assert black / blue == pytest.approx(halves[0] / halves[1], rel=0.03)


def test_independent_pixels_are_a_distribution_with_the_training_marginals():
    train = np.array([[0, 2], [1, 0], [1, 2], [1, 2]], dtype=np.uint8)
    test = np.array([[x, y] for x in range(2) for y in range(3)], dtype=np.uint8)
    found = independent(train, test)
    assert found.kind == "exact" and np.exp(found.value).sum() == pytest.approx(1)
    assert np.exp(found.value[-1]) == pytest.approx((3.5 / 5) * (3.5 / 5.5))


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["fly"])
    assert "demo" in capsys.readouterr().err
