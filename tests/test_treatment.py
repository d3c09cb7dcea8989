"""Mean, divisor and lighting basis of each preset, against the plain augmentation."""

from typing import Any

import numpy as np
import pytest
import torch

from alexnet.pca.moments import RgbMoments
from alexnet.pca.stats import RgbStats
from alexnet.pipeline import augment
from alexnet.train.config import Config
from alexnet.train.treatment import build_treatment, needs_stats


def squares(count: int = 5) -> np.ndarray:
    """uint8 (count, 256, 256, 3) whose channels differ and go together."""
    rng = np.random.default_rng(4)
    grey = rng.integers(0, 150, (count, 256, 256, 1))
    return (grey + rng.integers(0, [20, 50, 100], (count, 256, 256, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def stats() -> RgbStats:
    moments = RgbMoments.zero(256)
    moments.update(squares())
    return RgbStats.from_moments(moments)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("paper", {}),
        ("original", {}),
        ("one-gpu", {"mean": "channel"}),
        ("owt", {}),
        ("owt", {"lighting": "std"}),
        ("caffe", {}),
        ("owt", {"crop": 227}),
    ],
)
@pytest.mark.parametrize(("top", "left", "mirror"), [(16, 16, False), (0, 29, True), (28, 5, False)])
def test_evaluations_treatment_is_augments(
    stats: RgbStats, preset: str, overrides: dict[str, Any], top: int, left: int, mirror: bool
) -> None:
    config, images = Config.from_preset(preset, **overrides), squares()
    found = build_treatment(config, stats).apply(torch.from_numpy(images), top, left, mirror)
    assert found.dtype == torch.float32
    crop, middle = (227, slice(14, 241)) if preset == "caffe" or overrides.get("crop") else (224, slice(16, 240))
    assert found.shape == (5, 3, crop, crop)
    mean: np.ndarray = images.reshape(5, 256, 256, 3).astype(np.float64).mean(0)[middle, middle]
    divisor: float | np.ndarray = 1.0
    if config.mean == "channel":
        mean = images.reshape(-1, 3).mean(0)
    if config.scaling == "imagenet":
        mean, divisor = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    for image, one in zip(images, found.permute(0, 2, 3, 1).numpy(), strict=True):
        expected = augment.normalise(
            augment.crop_and_flip(image, top, left, mirror, crop), mean, np.zeros(3, np.float32), divisor
        )
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("preset", "divisor"), [("paper", 1.0), ("original", 1.1)])
@pytest.mark.parametrize("lighting", ["std", "eigenvalue"])
def test_the_basis_lights_as_augment_does(stats: RgbStats, preset: str, divisor: float, lighting: str) -> None:
    treatment = build_treatment(Config.from_preset(preset, lighting=lighting, lighting_sigma=0.3), stats)
    values, vectors = np.linalg.eigh(np.cov(squares().reshape(-1, 3).T, bias=True))
    strengths = np.sqrt(values) if lighting == "std" else values / 255**2 * 255
    draws = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    signs = np.sign(np.sum(vectors[:, ::-1] * stats.eigenvectors, axis=0))
    expected = augment.lighting_offset(draws, vectors[:, ::-1] * signs, strengths[::-1], 0.3)
    assert treatment.basis is not None
    np.testing.assert_allclose(draws @ treatment.basis.T, expected, rtol=1e-4, atol=1e-4)
    assert treatment.lit_divisor == divisor


def test_without_lighting_there_is_no_basis(stats: RgbStats) -> None:
    treatment = build_treatment(Config.from_preset("original", lighting="off"), stats)
    assert treatment.basis is None
    assert treatment.lit_divisor == 1.0  # the authors divide only while the noise is on


def test_only_torchvisions_recipe_needs_no_statistics(stats: RgbStats) -> None:
    owt = Config.from_preset("owt")
    assert not needs_stats(owt)
    assert build_treatment(owt, None).basis is None
    assert needs_stats(Config.from_preset("owt", lighting="std"))
    assert all(needs_stats(Config.from_preset(name)) for name in ("paper", "original", "one-gpu"))


def test_statistics_of_whole_images_have_no_mean_image(stats: RgbStats) -> None:
    moments = RgbMoments(5, 5 * 256**2, stats.sum, stats.products, None)
    whole = RgbStats.from_moments(moments)
    with pytest.raises(ValueError, match=r"no mean image .* Use region centre, or --mean channel"):
        build_treatment(Config(), whole)
    np.testing.assert_allclose(
        build_treatment(Config(mean="channel"), whole).mean, squares().reshape(-1, 3).mean(0), rtol=1e-6
    )
