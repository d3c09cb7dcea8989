"""The picture of the statistics: it is drawn, without pyplot, and shows the right colours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.pca.figures import axis_colours, lit, plot_stats
from alexnet.pca.moments import RgbMoments
from alexnet.pca.stats import RgbStats


def some_stats(size: int | None) -> RgbStats:
    images = np.random.default_rng(0).integers(60, 180, (4, 32, 32, 3), dtype=np.uint8)
    moments = RgbMoments.zero(size)
    for image in images:
        moments.update(image[None]) if size else moments.update_image(image)
    return RgbStats.from_moments(moments)


@pytest.mark.parametrize("size", [32, None])
def test_figure_is_drawn_with_and_without_an_example(tmp_path: Path, size: int | None) -> None:
    plot_stats(some_stats(size), tmp_path / "new" / "plain.png")
    plot_stats(some_stats(size), tmp_path / "example.png", np.full((256, 256, 3), 200, np.uint8))
    plain, example = (np.asarray(Image.open(tmp_path / name)) for name in ("new/plain.png", "example.png"))
    assert plain.shape == example.shape
    assert (plain != example).mean() > 0.1


def test_one_sigma_moves_an_image_along_its_axis() -> None:
    stats, image = some_stats(32), np.full((2, 2, 3), 128, np.uint8)
    for axis in range(3):
        expected = 128 + 2 * 0.1 * stats.strengths("std")[axis] * stats.eigenvectors[:, axis]
        np.testing.assert_allclose(lit(image, stats, axis, 2)[0, 0], expected, atol=0.5)
    assert lit(np.full((2, 2, 3), 255, np.uint8), stats, 0, 3).max() == 255  # clipped, not wrapped


def test_axis_colours_pass_through_the_mean() -> None:
    stats = some_stats(32)
    for axis in range(3):
        step = 2 * stats.strengths("std")[axis] * stats.eigenvectors[:, axis]
        expected = [stats.mean - step, stats.mean, stats.mean + step]
        np.testing.assert_allclose(axis_colours(stats, axis, num=3, reach=2), expected, atol=0.5)


def test_no_window_system_is_touched() -> None:
    code = "import sys, alexnet.pca.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
