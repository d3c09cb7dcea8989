"""The oracles themselves: they must tell chance from error, and the constants must mean what we say."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet.pca.moments import RgbMoments
from alexnet.pca.oracle import KNOWN, SelfCheck, compare, self_check
from alexnet.pca.stats import RgbStats

SIZE = 16
AXES = np.array([[0.5675, 0.7192, 0.4009], [0.5808, -0.0045, -0.8140], [0.5836, -0.6948, 0.4203]])


def natural(seed: int, count: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Images uint8 (count, size, size, 3), each with a colour of its own."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((count, size, size, 3)) + rng.standard_normal((count, 1, 1, 3))
    return np.clip(np.rint(120 + draws * [42, 13, 6] @ AXES.T), 0, 255).astype(np.uint8)


def stats_of(images: NDArray[np.uint8]) -> RgbStats:
    moments = RgbMoments.zero(images.shape[1])
    moments.update(images)
    return RgbStats.from_moments(moments)


def check_of(stats: RgbStats, sample: NDArray[np.uint8]) -> SelfCheck:
    return self_check(stats.eigenvalues, stats.eigenvectors, sample)


def test_known_constants_mean_what_we_say() -> None:
    """All are of ImageNet, so they agree in common units, if not in kind: fidelity.md, 1.4."""
    author, torch_ = (known.std for known in KNOWN)
    np.testing.assert_allclose(torch_, [118.9, 35.0, 17.1], atol=0.05)
    np.testing.assert_allclose(torch_ / author, 1, atol=0.15)
    rows = compare(stats_of(natural(0, 5)).eigenvalues)
    assert [row.name for row in rows] == [known.name for known in KNOWN]
    np.testing.assert_allclose(rows[0].ratio * author, np.sqrt(stats_of(natural(0, 5)).eigenvalues))


def test_self_check_on_all_the_pixels_finds_no_difference() -> None:
    images = natural(3, 40)
    check = check_of(stats_of(images), images.reshape(40, -1, 3))
    assert check.eigenvalue_error < 1e-9
    assert check.angle_degrees < 1e-6
    assert check.passed


def test_self_check_expects_the_error_that_sampling_makes() -> None:
    images = natural(4, 300)
    stats, rng = stats_of(images), np.random.default_rng(0)
    flat = images.reshape(300, -1, 3)
    checks = [check_of(stats, flat[rng.choice(300, 60)][:, rng.choice(SIZE**2, 8)]) for _ in range(20)]
    assert all(check.passed for check in checks)
    for error, expected in (
        ("eigenvalue_error", "expected_eigenvalue_error"),
        ("angle_degrees", "expected_angle_degrees"),
    ):
        ratios = [getattr(check, error) / getattr(check, expected) for check in checks]
        assert 0.4 < np.median(ratios) < 2


@pytest.mark.parametrize("wrong", ["axes", "values"])
def test_self_check_notices_wrong_statistics(wrong: str) -> None:
    images = natural(5, 300)
    other = images[..., [1, 0, 2]] if wrong == "axes" else images // 2
    assert not check_of(stats_of(other), images.reshape(300, -1, 3)[:, :32]).passed
