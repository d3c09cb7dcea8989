"""Statistics of real photographs: against what is known of them, Pillow with numpy, and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

pytest.importorskip("nvidia.dali")
from alexnet.pca.compute import compute_stats
from alexnet.pca.moments import RgbMoments
from alexnet.pca.stats import RgbStats
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.squares import squares

pytestmark = pytest.mark.sample


def pillow_square(path: Path) -> np.ndarray:
    """Shorter side 256 by Pillow's bilinear filter, central 256x256, uint8."""
    image = Image.open(path).convert("RGB")
    ratio = 256 / min(image.size)
    width, height = (max(256, round(side * ratio)) for side in image.size)
    left, top = (width - 256) // 2, (height - 256) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + 256, top + 256)))


def test_the_sample_has_the_known_spectrum(sample_dir: Path, tmp_path: Path) -> None:
    stats = compute_stats(open_dataset(sample_dir, "train"), work_dir=tmp_path)
    assert stats.num_images == 1000
    assert stats.num_pixels == 1000 * 256 * 256
    np.testing.assert_allclose(stats.eigenvalues / 255**2, [0.199, 0.0175, 0.0044], rtol=0.01)
    np.testing.assert_allclose(stats.eigenvectors[:, 0], [0.57, 0.58, 0.58], atol=0.01)
    np.testing.assert_allclose(stats.mean, [125.18, 117.71, 105.21], atol=0.01)
    assert stats.self_check is not None
    assert stats.self_check.passed


def test_pillow_and_scikit_learn_agree(sample_dir: Path) -> None:
    dataset = open_dataset(sample_dir, "train")
    indices = np.arange(0, 1000, 8)
    moments, same = RgbMoments.zero(256), []
    for batch in squares(dataset, indices, batch_size=25, settings=Settings()):
        moments.update(batch.pixels.numpy())
        same.append(batch.pixels.numpy().reshape(-1, 3))
    stats = RgbStats.from_moments(moments)

    theirs = np.concatenate([pillow_square(dataset.root / dataset.names[int(i)]).reshape(-1, 3) for i in indices])
    covariance = np.cov(theirs.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(stats.eigenvalues, np.linalg.eigvalsh(covariance)[::-1], rtol=0.01)

    pixels = np.concatenate(same).astype(np.float64)
    fit = PCA(svd_solver="full").fit(pixels)
    variances = fit.explained_variance_ * (len(pixels) - 1) / len(pixels)
    np.testing.assert_allclose(stats.eigenvalues, variances, rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(fit.components_.T * stats.eigenvectors, axis=0)), 1, rtol=1e-9)
