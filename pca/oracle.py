"""Our eigenvalues and eigenvectors compared with scikit-learn's PCA of the same pixels, and with published constants.

`stats.py` keeps a `SelfCheck` with the statistics, `compute.py` makes it at the end of a pass, and `pca-stats` prints
it and the comparison with the constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-9  # relative to the greatest eigenvalue; anything below is rounding, not colour
ALLOWED = 5.0  # a check may be off by this many standard errors


@dataclass(frozen=True)
class SelfCheck:
    """How far scikit-learn's PCA of a random sample of the pixels is from ours, and how far chance would take it.

    Errors are the greatest over the three axes: relative for eigenvalues, in degrees for eigenvectors. Expected
    errors are standard errors over images rather than pixels, since the pixels of one image are alike. They are
    too large when the sample holds every image, which leaves nothing to chance.
    """

    num_images: int
    num_pixels: int
    eigenvalue_error: float
    expected_eigenvalue_error: float
    angle_degrees: float
    expected_angle_degrees: float

    @property
    def passed(self) -> bool:
        return (
            self.eigenvalue_error <= ALLOWED * self.expected_eigenvalue_error + SMALLEST
            and self.angle_degrees <= ALLOWED * self.expected_angle_degrees + 1e-6
        )


def self_check(
    eigenvalues: NDArray[np.float64], eigenvectors: NDArray[np.float64], sample: NDArray[np.uint8]
) -> SelfCheck:
    """Compare ours with what scikit-learn finds in `sample`, uint8 (images, k, 3): k random pixels of each image.

    `eigenvalues` (3,) are in descending order; `eigenvectors` are the columns of (3, 3).
    """
    from sklearn.decomposition import PCA  # takes a second to import, and only passes over data sets need it

    pixels = sample.reshape(-1, 3).astype(np.float64)
    with np.errstate(invalid="ignore"):  # if all pixels are alike, it divides by zero variance
        fit = PCA(svd_solver="full").fit(pixels)
    values = fit.explained_variance_ * (len(pixels) - 1) / len(pixels)  # theirs divides by n - 1
    expected_error, expected_angle = _expected(sample - fit.mean_, values, fit.components_.T)
    error = np.abs(eigenvalues - values) / np.maximum(values, _smallest(values))
    return SelfCheck(
        num_images=len(sample),
        num_pixels=len(pixels),
        eigenvalue_error=float(error.max()),
        expected_eigenvalue_error=expected_error,
        angle_degrees=float(angles_degrees(fit.components_.T, eigenvectors).max()),
        expected_angle_degrees=expected_angle,
    )


def angles_degrees(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (3,), angles between the lines along the unit columns of two (3, 3), precise even if tiny."""
    difference = np.minimum(np.linalg.norm(first - second, axis=0), np.linalg.norm(first + second, axis=0))
    return np.degrees(2 * np.arcsin(difference / 2))


def _expected(
    sample: NDArray[np.float64], values: NDArray[np.float64], vectors: NDArray[np.float64]
) -> tuple[float, float]:
    """Return standard errors of the eigenvalues (relative) and eigenvectors (degrees) of a centred sample.

    First-order perturbation: in the sample's eigenbasis, another sample's covariance would differ from
    diag(lambda) by some E, estimated from the spread between images. Then lambda_i moves by E_ii, and vector i
    turns towards vector j by E_ij / (lambda_i - lambda_j).
    """
    projected = sample @ vectors  # (images, k, 3)
    each = np.einsum("mki,mkj->mij", projected, projected) / sample.shape[1]  # each image's covariance
    error = each.std(axis=0) / np.sqrt(len(sample))  # (3, 3)
    gaps, smallest = np.abs(values[:, None] - values), _smallest(values)
    turns = np.where(gaps > smallest, error / np.maximum(gaps, smallest), np.inf)  # equal axes turn freely
    np.fill_diagonal(turns, 0)
    angles = np.degrees(np.arctan(np.linalg.norm(turns, axis=1)))
    return float((np.diag(error) / np.maximum(values, smallest)).max()), float(angles.max())


def _smallest(values: NDArray[np.float64]) -> float:
    """Return the value below which an eigenvalue is only rounding."""
    return max(SMALLEST * float(values[0]), SMALLEST)


@dataclass(frozen=True)
class Known:
    """Published lighting constants, in descending order, and what they really are."""

    name: str
    published: tuple[float, float, float]
    kind: Literal["std of 0..255", "variance of 0..1"]

    @property
    def std(self) -> NDArray[np.float64]:
        """(3,): standard deviations along the axes in grey levels 0..255."""
        published = np.array(self.published)
        return published if self.kind == "std of 0..255" else 255 * np.sqrt(published)


# github.com/akrizhevsky/cuda-convnet2, make-data/input_meta, key color_pca (the 2012 file is not public), and
# github.com/facebookarchive/fb.resnet.torch, datasets/transforms.lua, from which everyone else copied them.
# The latter are often used as if they were standard deviations: the noise is then 2.2, 7.7 and 17 times too weak.
KNOWN = (
    Known("Krizhevsky, cuda-convnet2", (121.78006099, 37.09388853, 19.72083305), "std of 0..255"),
    Known("Torch, fb.resnet.torch", (0.2175, 0.0188, 0.0045), "variance of 0..1"),
)


class Comparison(NamedTuple):
    """Someone else's axes in our units: `std` (3,) in grey levels, `ratio` (3,) ours divided by theirs."""

    name: str
    kind: str
    std: NDArray[np.float64]
    ratio: NDArray[np.float64]


def compare(eigenvalues: NDArray[np.float64]) -> list[Comparison]:
    """Return a row for each set of known constants. They are ImageNet's: other data sets may differ."""
    ours = np.sqrt(eigenvalues)
    return [Comparison(known.name, known.kind, known.std, ours / known.std) for known in KNOWN]
