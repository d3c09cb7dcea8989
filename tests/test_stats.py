"""The statistics against exact arithmetic and scikit-learn; their file against damage."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from alexnet.pca.moments import RgbMoments
from alexnet.pca.oracle import angles_degrees, self_check
from alexnet.pca.stats import BadFile, Part, RgbStats, sums_of
from alexnet.pipeline.errors import StatsError

SIZE = 16
PARTS = (Part("f" * 32, 0, 7, 7),)
BAD = (BadFile("n01/b.JPEG", "the file is empty"), BadFile("n01/a\udcff.JPEG", "not an image"))
# Colours of natural images: a strong grey axis, a weaker blue-yellow one, a weak green-magenta one.
AXES = np.array([[0.5675, 0.7192, 0.4009], [0.5808, -0.0045, -0.8140], [0.5836, -0.6948, 0.4203]])


def natural(seed: int, count: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Images uint8 (count, size, size, 3), each with a colour of its own."""
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((count, size, size, 3)) + rng.standard_normal((count, 1, 1, 3))
    return np.clip(np.rint(120 + draws * [42, 13, 6] @ AXES.T), 0, 255).astype(np.uint8)


def stats_of(images: NDArray[np.uint8], **facts: Any) -> RgbStats:
    moments = RgbMoments.zero(images.shape[1])
    moments.update(images)
    return RgbStats.from_moments(moments, **facts)


def whole_stats(images: NDArray[np.uint8], **facts: Any) -> RgbStats:
    moments = RgbMoments.zero()
    for image in images:
        moments.update_image(image)
    return RgbStats.from_moments(moments, **facts)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    stats = stats_of(natural(0, 5), decode="exact, cpu", parts=PARTS, bad_files=BAD)
    stats.save(tmp_path / "stats.json")
    return tmp_path / "stats.json"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# -- the numbers -------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), count=st.integers(1, 8))
@settings(max_examples=20)
def test_equals_numpy_and_scikit_learn_on_the_same_pixels(seed: int, count: int) -> None:
    images = natural(seed, count)
    stats, pixels = stats_of(images), images.reshape(-1, 3).astype(np.float64)
    fit = PCA(svd_solver="full").fit(pixels)
    np.testing.assert_allclose(stats.mean, pixels.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(stats.std, pixels.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.covariance, np.cov(pixels.T, bias=True), rtol=1e-9, atol=1e-9)
    assert stats.mean_image is not None
    np.testing.assert_allclose(stats.mean_image, images.mean(axis=0), rtol=1e-13)
    unbiased = stats.eigenvalues * len(pixels) / (len(pixels) - 1)
    np.testing.assert_allclose(unbiased, fit.explained_variance_, rtol=1e-9)
    assert angles_degrees(stats.eigenvectors, fit.components_.T).max() < 1e-9


@pytest.mark.parametrize("low", [0, 253])
def test_covariance_loses_nothing_to_cancellation(low: int) -> None:
    """Nearly equal bright pixels, 10^13 of them: float64 sums would leave no digit of the variance."""
    moments = RgbMoments.zero()
    moments.update_image(np.random.default_rng(1).integers(low, 256, (50, 50, 3), dtype=np.uint8))
    moments.update_image(np.full((200, 200, 3), 255, np.uint8))
    for _ in range(28):
        moments.merge(moments)
    n, products = moments.num_pixels, moments.products.tolist()
    mean = [Fraction(total, n) for total in moments.sum.tolist()]
    exact = [[float(Fraction(products[i][j], n) - mean[i] * mean[j]) for j in range(3)] for i in range(3)]
    assert n > 10**13
    assert RgbStats.from_moments(moments).covariance.tolist() == exact


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_axes_are_ordered_orthonormal_and_have_a_sign(seed: int) -> None:
    stats = stats_of(natural(seed, 3))
    assert (np.diff(stats.eigenvalues) <= 0).all()
    assert (stats.eigenvectors[0] > 0).all()
    np.testing.assert_allclose(stats.eigenvectors.T @ stats.eigenvectors, np.eye(3), atol=1e-12)
    rebuilt = stats.eigenvectors * stats.eigenvalues @ stats.eigenvectors.T
    np.testing.assert_allclose(rebuilt, stats.covariance, atol=1e-9)


@pytest.mark.parametrize("kind", ["one colour", "grey"])
def test_images_without_colour_have_statistics(kind: str, tmp_path: Path) -> None:
    grey = natural(0, 2)[..., :1].repeat(3, axis=3)
    images = grey if kind == "grey" else np.full((2, 4, 4, 3), 77, np.uint8)
    stats = stats_of(images)
    assert (stats.eigenvalues >= 0).all()
    assert stats.eigenvalues[1:] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(stats.eigenvectors.T @ stats.eigenvectors, np.eye(3), atol=1e-12)
    assert self_check(stats.eigenvalues, stats.eigenvectors, images.reshape(2, -1, 3)).passed
    stats.save(tmp_path / "stats.json")
    RgbStats.load(tmp_path / "stats.json")


def test_strengths_in_grey_levels() -> None:
    stats = stats_of(natural(0, 5))
    np.testing.assert_allclose(stats.strengths("std") ** 2, stats.eigenvalues)
    in_unit_range = stats.eigenvalues / 255**2
    np.testing.assert_allclose(stats.strengths("eigenvalue"), in_unit_range * 255)
    assert stats.strengths("off").tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="expected std, eigenvalue or off"):
        stats.strengths("strong")  # type: ignore[arg-type]


def test_nothing_has_no_statistics() -> None:
    with pytest.raises(StatsError, match="no image could be used"):
        RgbStats.from_moments(RgbMoments.zero())


# -- the file ----------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_the_same_to_the_bit(saved: Path) -> None:
    stats, first = RgbStats.load(saved), saved.read_bytes()
    assert stats.moments() == stats_of(natural(0, 5)).moments()
    assert stats.bad_files == tuple(sorted(BAD))
    assert stats.fingerprint == PARTS[0].fingerprint
    assert stats.complete
    image = saved.with_suffix(".npy").read_bytes()
    stats.save(saved)
    assert saved.read_bytes() == first
    assert saved.with_suffix(".npy").read_bytes() == image
    assert sorted(p.name for p in saved.parent.iterdir()) == ["stats.json", "stats.npy"]


def test_file_says_its_units_and_reads_line_by_line(saved: Path) -> None:
    data = json.loads(saved.read_text())
    for key in ("mean", "std", "covariance", "eigenvalues", "eigenvectors", "num_images", "num_pixels"):
        assert key in data
    assert (data["pixel_range"], data["channel_order"]) == ("0..255", "RGB")
    assert {"python", "numpy"} <= data["versions"].keys()
    assert len(saved.read_text().splitlines()) == len(data) + 2


def test_whole_images_and_self_check_survive_the_file(tmp_path: Path) -> None:
    images = natural(0, 20)
    plain = whole_stats(images)
    check = self_check(plain.eigenvalues, plain.eigenvectors, images.reshape(20, -1, 3))
    stats = whole_stats(images, self_check=check)
    stats.save(tmp_path / "full.json")
    loaded = RgbStats.load(tmp_path / "full.json")
    assert loaded.self_check == stats.self_check
    assert (loaded.region, loaded.mean_image) == ("full", None)
    assert loaded.moments() == stats.moments()
    assert [p.name for p in tmp_path.iterdir()] == ["full.json"]


@given(n=st.integers(1, 2**40), data=st.data())
@settings(max_examples=200)
def test_sums_are_recovered_from_means(n: int, data: st.DataObject) -> None:
    sums = np.array(data.draw(st.lists(st.integers(0, 255 * n), min_size=1, max_size=50)))
    np.testing.assert_array_equal(sums_of(sums / n, n), sums)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schema_version": 2}, "schema_version: expected 1, found 2"),
        ({"schema": "other"}, "schema: expected 'alexnet.pca-stats', found 'other'"),
        ({"pixel_range": "0..1"}, r"pixel_range: expected '0..255', found '0..1'"),
        ({"region": "full"}, "region: expected 'centre', found 'full'"),
        ({"mean": [1, 2]}, r"mean: expected numbers of shape \(3,\), found .* shape \(2,\)"),
        ({"mean": [1.0, 2.0, 3.0]}, "mean: expected .*computed from the sums"),
        ({"std": [1, float("nan"), 3]}, "std: expected finite numbers"),
        ({"covariance": [[1, 2], [3]]}, r"covariance: expected numbers of shape \(3, 3\)"),
        ({"covariance": "none"}, "covariance: expected list, found 'none'"),
        ({"eigenvalues": [1.0, 2.0, 3.0]}, "eigenvalues: expected descending"),
        ({"eigenvalues": [3.0, 2.0, -1.0]}, "eigenvalues: expected descending, none negative"),
        ({"eigenvalues": [3.0, 2.0, 1.0]}, "eigenvectors: expected those of the covariance"),
        ({"eigenvectors": [[1, 0, 0], [0, 1, 0], [0, 1, 1]]}, "eigenvectors: expected orthonormal"),
        ({"eigenvectors": np.eye(3).tolist()}, "eigenvectors: expected those of the covariance"),
        ({"sum": [1.5, 2.0, 3.0]}, "sum: expected integers"),
        ({"sum": [2**70, 1, 1]}, "sum: expected integers"),
        ({"sum": [1, 2, 3]}, r"sum: expected .*, computed from .*stats.npy, found \[1, 2, 3\]"),
        ({"num_images": 0}, "num_pixels: expected at least"),
        ({"num_images": 5.0}, "num_images: expected int, found 5.0"),
        ({"num_pixels": 1281}, "num_pixels: expected 5 images of 256, found 1281"),
        ({"mean_image_shape": [16, 16]}, "mean_image_shape: expected .*found float64"),
        ({"parts": [{"start": 0}]}, "parts: expected"),
        ({"bad_files": [{"name": 1, "reason": "x"}]}, "bad_files: expected"),
        ({"fingerprint": "0"}, "fingerprint: expected"),
        ({"self_check": {"passed": True}}, "self_check: expected"),
    ],
)
def test_wrong_contents_are_named(saved: Path, values: dict[str, Any], message: str) -> None:
    edit(saved, **values)
    with pytest.raises(StatsError, match=message) as caught:
        RgbStats.load(saved)
    assert str(saved) in str(caught.value)


def test_missing_key_is_named(saved: Path) -> None:
    data = json.loads(saved.read_text())
    for key in data:
        saved.write_text(json.dumps({k: v for k, v in data.items() if k != key}))
        with pytest.raises(StatsError, match=f"{key}: expected a value, found none"):
            RgbStats.load(saved)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{", b"[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stats.json"
    with pytest.raises(StatsError, match="no such file"):
        RgbStats.load(path)
    path.write_bytes(content)
    with pytest.raises(StatsError, match="expected a JSON"):
        RgbStats.load(path)


@pytest.mark.parametrize("damage", ["missing", "short", "other data", "other type", "pickle", "huge", "nan"])
def test_wrong_mean_image_is_refused(saved: Path, damage: str) -> None:
    path = saved.with_suffix(".npy")
    image, content = np.load(path), path.read_bytes()
    path.unlink()
    if damage == "short":
        path.write_bytes(content[:-8])
    elif damage == "huge":
        path.write_bytes(content.replace(b"(16, 16, 3), }         ", b"(9999999, 999999, 3), }"))
    elif damage != "missing":
        wrong: dict[str, NDArray[Any]] = {
            "other data": natural(9, 5).mean(axis=0),
            "other type": image.astype(np.float32),
            "pickle": image.astype(object),
            "nan": np.where(image > image.mean(), np.nan, image),
        }
        np.save(path, wrong[damage])
    with pytest.raises(StatsError, match=r"stats\.npy"):
        RgbStats.load(saved)


def test_mean_image_must_not_overwrite_the_file(tmp_path: Path) -> None:
    with pytest.raises(StatsError, match=r"expected a name like stats\.json"):
        stats_of(natural(0, 1)).save(tmp_path / "stats.npy")


def test_fingerprint_of_several_data_sets() -> None:
    images = natural(0, 2)
    parts = (Part("b", 0, 5, 5), Part("a", 0, 3, 6))
    stats = stats_of(images, parts=parts)
    assert stats.fingerprint == stats_of(images, parts=parts[::-1]).fingerprint
    assert stats.fingerprint not in ("a", "b")
    assert not stats.complete
