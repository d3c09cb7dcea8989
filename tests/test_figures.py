"""The figures: what they show against plain numpy, that they show it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from alexnet.pipeline.errors import UserError
from alexnet.train.figures.drawing import PALETTE, rendered, save_figure, shorten
from alexnet.train.figures.kernels import Kernels, conv1_kernels, draw_kernels, mosaic


def pixels_of(figure: Figure, path: Path) -> np.ndarray:
    """As drawn, uint8 (H, W, 3)."""
    save_figure(figure, path.with_suffix(".png"))
    return np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))


def text_of(figure: Figure) -> str:
    return rendered(figure, ".svg").decode()


def count(pixels: np.ndarray, colour: str) -> int:
    """How many pixels have it."""
    return int((np.abs(pixels / 255 - to_rgb(colour)) < 0.01).all(-1).sum())


# -- what they share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")])
def test_a_figure_becomes_the_file_its_suffix_names(tmp_path: Path, ending: str, magic: bytes) -> None:
    figure, path = Figure(), tmp_path / f"new/figure{ending}"
    figure.text(0.1, 0.5, "\N{CJK UNIFIED IDEOGRAPH-732B}")  # no glyph in the font: no warning
    save_figure(figure, path)
    assert path.read_bytes().startswith(magic)
    assert rendered(figure, ending.lower()) == rendered(figure, ending.lower())


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figure.gif must end in one of .png, .pdf, .svg"):
        save_figure(Figure(), tmp_path / "figure.gif")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"The folder of .*file/figure.png cannot be written"):
        save_figure(Figure(), tmp_path / "file/figure.png")


def test_names_are_drawn_as_one_line() -> None:
    assert shorten("great white shark, white shark, man-eater", 20) == "great white shark\N{HORIZONTAL ELLIPSIS}"
    assert shorten("a\nb\x1b\udcff", 9) == "a\N{REPLACEMENT CHARACTER}b" + 2 * "\N{REPLACEMENT CHARACTER}"


# -- kernels ------------------------------------------------------------------------------------------------


def test_colour_is_the_distance_from_the_nearest_grey() -> None:
    """Found by a search for that grey; the scale of the pictures does not matter."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)
    weight[:2] = weight[:2, :1]  # tower 0 is grey
    found = [conv1_kernels(weight, 2, per_kernel=per_kernel) for per_kernel in (False, True)]
    greys = np.linspace(-4, 4, 8001)
    span = weight.max() - weight.min()
    for kernel, colour in zip(weight, found[0].colour, strict=True):
        triples = kernel.reshape(3, -1).T
        nearest = [min(np.sqrt(((t - g) ** 2).sum()) for g in greys[np.abs(greys - t.mean()) < 0.1]) for t in triples]
        assert colour == pytest.approx(np.mean(nearest) / span, abs=1e-4)
    squares = ((weight - weight.mean(1, keepdims=True)) ** 2).sum((1, 2, 3)), (weight**2).sum((1, 2, 3))
    shares = [squares[0][part].sum() / squares[1][part].sum() for part in (slice(2), slice(2, 4))]
    assert found[0].colour_shares == pytest.approx(shares, abs=1e-6)
    np.testing.assert_array_equal(found[0].colour, found[1].colour)


def test_kernels_share_one_scale_or_have_their_own() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 3, 4, 4))
    weight[2] = 0.5  # a dead one
    shared, own = (conv1_kernels(weight, 1, per_kernel=per_kernel).pictures for per_kernel in (False, True))
    expected = (weight - weight.min()) / (weight.max() - weight.min())
    np.testing.assert_allclose(shared, np.moveaxis(expected, 1, -1))
    for kernel, picture in zip(weight[:2], own, strict=False):
        np.testing.assert_allclose(picture[..., 1], (kernel[1] - kernel.min()) / np.ptp(kernel))
    assert np.all(own[2] == 0.5)


def test_kernels_are_set_in_rows() -> None:
    sheet = mosaic(np.arange(5)[:, None, None, None] / 10 * np.ones((1, 2, 2, 3)), 3)
    assert sheet.shape == (5, 8, 3)
    np.testing.assert_allclose(sheet[0, :, 0], [0, 0, 1, 0.1, 0.1, 1, 0.2, 0.2])
    np.testing.assert_allclose(sheet[4, :, 0], [0.3, 0.3, 1, 0.4, 0.4, 1, 1, 1])


def test_towers_are_drawn_above_each_other(tmp_path: Path) -> None:
    pictures = np.repeat(np.array([[1, 0, 0], [0, 0, 1]], np.float64), 16, 0)[:, None, None] * np.ones((1, 11, 11, 1))
    figure = draw_kernels(Kernels(pictures, np.linspace(0.1, 0.2, 32), (0.25, 0.75)), name="runs/first")
    pixels = pixels_of(figure, tmp_path / "kernels")
    red, blue = (np.flatnonzero((pixels == colour).all(-1).any(1)) for colour in ([255, 0, 0], [0, 0, 255]))
    gap = pixels[red.max() + 1 : blue.min()]
    assert (gap == 255).all(axis=(1, 2)).sum() > 10, "white rows between the towers"
    assert all(count(pixels, colour) > 50 for colour in PALETTE[:2])
    text = text_of(figure)
    assert "32 kernels of 11x11 pixels; runs/first" in text
    assert "tower 1: mean 0.176; colour is 75% of its squared weights" in text
    assert "ower" not in text_of(draw_kernels(Kernels(pictures, np.ones(32), (0.5,))))
