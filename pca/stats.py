"""The statistics that follow from the sums (mean, covariance, eigenvectors), and the file that keeps them.

`moments.py` gives the sums; `compute.py` makes statistics from a data set; training takes the mean image and the
lighting basis from here. `oracle.py` compares them with scikit-learn's and with published constants.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..pipeline.cache import cache_folder
from ..pipeline.dataset.images import Dataset
from ..pipeline.errors import StatsError
from ..pipeline.files import write_atomically
from .checked import TOLERANCE, CheckedJson
from .moments import MAX_PIXELS, RgbMoments
from .oracle import SelfCheck

Region = Literal["centre", "full"]
Strength = Literal["std", "eigenvalue", "off"]

SIGN_RULE = "the first component that is not zero, normally red, is positive"
HEADER = {
    "schema": "alexnet.pca-stats",
    "schema_version": 1,
    "pixel_range": "0..255",
    "channel_order": "RGB",
    "eigenvector_sign": SIGN_RULE,
}
FOR_CUDA_12 = ("nvidia-dali-cuda120", "nvidia-nvimgcodec-cu12", "nvidia-nvjpeg-cu12")
DISTRIBUTIONS = ("alexnet", "numpy", *FOR_CUDA_12, "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg")


@dataclass(frozen=True, order=True)
class Part:
    """Images `start` to `stop` of the data set with this fingerprint, which has `num_images`."""

    fingerprint: str
    start: int
    stop: int
    num_images: int


@dataclass(frozen=True, order=True)
class BadFile:
    """An image that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RgbStats:
    """Colour statistics in grey levels 0..255, channels RGB.

    The covariance is the population's: divided by the number of pixels. Eigenvectors are columns, in
    descending order of eigenvalue, with their sign fixed by `SIGN_RULE`. The sums are kept, so that parts of a
    data set add up exactly.
    """

    region: Region  # "centre": the central square once the shorter side is 256; "full": whole images
    decode: str  # how the JPEGs were decoded: "exact, cpu" or the like
    num_images: int
    num_pixels: int
    mean: NDArray[np.float64]  # (3,)
    std: NDArray[np.float64]  # (3,)
    covariance: NDArray[np.float64]  # (3, 3)
    eigenvalues: NDArray[np.float64]  # (3,)
    eigenvectors: NDArray[np.float64]  # (3, 3)
    mean_image: NDArray[np.float64] | None  # (256, 256, 3); None for whole images
    sum: NDArray[np.int64]  # (3,)
    products: NDArray[np.int64]  # (3, 3)
    parts: tuple[Part, ...]
    bad_files: tuple[BadFile, ...]
    versions: dict[str, str]
    self_check: SelfCheck | None = None

    @classmethod
    def from_moments(
        cls,
        moments: RgbMoments,
        *,
        decode: str = "",
        parts: tuple[Part, ...] = (),
        bad_files: tuple[BadFile, ...] = (),
        versions: dict[str, str] | None = None,
        self_check: SelfCheck | None = None,
    ) -> RgbStats:
        """Derive the statistics from the sums."""
        if moments.num_pixels == 0:
            raise StatsError("no image could be used, so there are no statistics")
        covariance = _covariance(moments)
        eigenvalues, eigenvectors = _eigen(covariance)
        image = moments.sum_image
        return cls(
            region="full" if image is None else "centre",
            decode=decode,
            num_images=moments.num_images,
            num_pixels=moments.num_pixels,
            mean=np.array([total / moments.num_pixels for total in moments.sum.tolist()]),
            std=np.sqrt(np.diag(covariance)),
            covariance=covariance,
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
            mean_image=None if image is None else image / moments.num_images,
            sum=moments.sum.copy(),
            products=moments.products.copy(),
            parts=tuple(sorted(parts)),
            bad_files=tuple(sorted(bad_files)),
            versions=tool_versions() if versions is None else versions,
            self_check=self_check,
        )

    def moments(self) -> RgbMoments:
        """Return the sums, exact to the last bit."""
        image = None if self.mean_image is None else sums_of(self.mean_image, self.num_images)
        return RgbMoments(self.num_images, self.num_pixels, self.sum.copy(), self.products.copy(), image)

    @property
    def fingerprint(self) -> str:
        """The data set's fingerprint; for several data sets, a digest of theirs."""
        prints = sorted({part.fingerprint for part in self.parts})
        if len(prints) == 1:
            return prints[0]
        return hashlib.blake2b("\n".join(prints).encode(), digest_size=16).hexdigest()

    @property
    def complete(self) -> bool:
        """Whether every image of its data sets was seen."""
        return all((part.start, part.stop) == (0, part.num_images) for part in self.parts)

    def strengths(self, mode: Strength = "std") -> NDArray[np.float64]:
        """Return (3,), grey levels along each eigenvector for one unit of the lighting draw alpha ~ N(0, 0.1).

        "std" is what the authors' code did. "eigenvalue" is the paper's formula (section 4.1), alpha times
        lambda, read on pixels in [0, 1], where it makes sense: lambda / 255**2 there, times 255 to come back.
        """
        if mode == "std":
            return np.sqrt(self.eigenvalues)
        if mode == "eigenvalue":
            return self.eigenvalues / 255
        if mode == "off":
            return np.zeros(3)
        raise ValueError(f"lighting strength {mode!r}: expected std, eigenvalue or off")

    def lighting_basis(self, mode: Strength = "std", sigma: float = 0.1) -> NDArray[np.float32]:
        """Return (3, 3): column i is how far, in grey levels, one standard normal draw moves a colour along axis i."""
        return (self.eigenvectors * (sigma * self.strengths(mode))).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the mean image, ready for JSON; floats keep every digit."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        image = values.pop("mean_image")
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        return {
            **HEADER,
            **plain,
            "mean_image_shape": None if image is None else list(image.shape),
            "fingerprint": self.fingerprint,
            "complete": self.complete,
            "parts": [asdict(part) for part in self.parts],
            "bad_files": [asdict(bad) for bad in self.bad_files],
            "self_check": None if self.self_check is None else asdict(self.self_check),
        }

    def save(self, path: Path) -> None:
        """Write `path`, JSON with a line for each key, and the mean image beside it as .npy.

        A kill in between leaves a new image beside an old JSON, which `load` notices.
        """
        if self.mean_image is not None:
            buffer = io.BytesIO()
            np.save(buffer, self.mean_image, allow_pickle=False)
            write_atomically(image_path(path), buffer.getvalue())
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in self.to_dict().items()]
        write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

    @classmethod
    def load(cls, path: Path) -> RgbStats:
        """Read what `save` wrote and check it against the sums in it; raise `StatsError` if they disagree.

        Use the stored eigenvectors, not fresh ones, so that all machines have the same bits.
        """
        read = CheckedJson(path)
        for key, expected in HEADER.items():
            read.expect(key, expected)
        fresh = cls.from_moments(
            _read_moments(read),
            decode=read.value("decode", str),
            parts=tuple(read.records("parts", Part)),
            bad_files=tuple(read.records("bad_files", BadFile)),
            versions=read.value("versions", dict),
            self_check=read.record("self_check", SelfCheck),
        )
        for key in ("region", "fingerprint", "complete"):
            read.expect(key, getattr(fresh, key))
        for key in ("mean", "std", "covariance"):
            read.expect_close(key, getattr(fresh, key))
        values, vectors = _read_eigen(read, fresh.covariance)
        return replace(fresh, eigenvalues=values, eigenvectors=vectors)


def tool_versions() -> dict[str, str]:
    """Return the versions that could change a pixel or a digit: Python, this package, numpy, installed decoders."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def image_path(path: Path) -> Path:
    """Return where the mean image of the statistics at `path` is."""
    if path.suffix == ".npy":
        raise StatsError(f"{path}: expected a name like stats.json; the mean image is the .npy beside it")
    return path.with_suffix(".npy")


def sums_of(mean_image: NDArray[np.float64], num_images: int) -> NDArray[np.int64]:
    """Recover the exact integer sums from their mean.

    A sum is s <= 255 n. Division and multiplication each round by a factor 1 + d, |d| <= 2**-53, so
    n (s / n) is off by less than s 2**-51: below 1/2 up to s = 2**50, four trillion images.
    """
    return np.rint(mean_image * num_images).astype(np.int64)


def _covariance(moments: RgbMoments) -> NDArray[np.float64]:
    """Return (3, 3): (n Σxy - Σx Σy) / n² in Python's integers, rounded once."""
    n, sums, products = moments.num_pixels, moments.sum.tolist(), moments.products.tolist()
    return np.array([[(n * products[i][j] - sums[i] * sums[j]) / n**2 for j in range(3)] for i in range(3)])


def _eigen(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvalues (3,), descending, and eigenvectors (3, 3) as columns with their sign fixed."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    first = np.argmax(np.abs(vectors) > TOLERANCE, axis=0)  # row of the first component that is not zero
    return values, vectors * np.sign(vectors[first, np.arange(3)])


def _read_moments(read: CheckedJson) -> RgbMoments:
    num_images, num_pixels = read.value("num_images", int), read.value("num_pixels", int)
    if not 1 <= num_images <= num_pixels <= MAX_PIXELS:
        raise read.error("num_pixels", f"at least one pixel, and one for each of {num_images} images", num_pixels)
    sums, products = read.integers("sum", (3,)), read.integers("products", (3, 3))
    image = _read_sum_image(read, num_images)
    if image is not None:
        if num_images * image[..., 0].size != num_pixels:
            raise read.error("num_pixels", f"{num_images} images of {image[..., 0].size}", num_pixels)
        if not np.array_equal(found := image.sum(axis=(0, 1)), sums):
            raise read.error("sum", f"{found.tolist()}, computed from {image_path(read.path)}", sums.tolist())
    return RgbMoments(num_images, num_pixels, sums, products, image)


def _read_sum_image(read: CheckedJson, num_images: int) -> NDArray[np.int64] | None:
    """Recover the sum of the images, int64 (S, S, 3), from the mean image beside the file."""
    key, shape = "mean_image_shape", read.value("mean_image_shape", list, type(None))
    if shape is None:
        return None
    path = image_path(read.path)
    expected = f"float64 {shape} within 0..255 in {path}"
    try:
        image = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a false header allocates nothing
    except (OSError, ValueError, EOFError) as error:
        raise read.error(key, expected, error) from error
    if image.dtype != np.float64 or list(image.shape) != shape or image.shape[2:] != (3,):
        raise read.error(key, expected, f"{image.dtype} {list(image.shape)}")
    if not ((image >= 0) & (image <= 255)).all():
        raise read.error(key, expected, "other values")
    return sums_of(image, num_images)


def _read_eigen(read: CheckedJson, covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, vectors = read.floats("eigenvalues", (3,)), read.floats("eigenvectors", (3, 3))
    if (np.diff(values) > 0).any() or values[2] < 0:
        raise read.error("eigenvalues", "descending, none negative", values.tolist())
    if np.abs(vectors.T @ vectors - np.eye(3)).max() > TOLERANCE:
        raise read.error("eigenvectors", "orthonormal columns", vectors.tolist())
    if np.abs(covariance @ vectors - vectors * values).max() > TOLERANCE * max(1.0, np.trace(covariance)):
        raise read.error("eigenvectors", "those of the covariance, matching the eigenvalues", vectors.tolist())
    return values, vectors


def stats_path(dataset: Dataset, region: Region = "centre") -> Path | None:
    """Return where `pca-stats` leaves the statistics for `train` to find; None without a cache folder."""
    folder = cache_folder()
    return folder and folder / "stats" / f"{dataset.fingerprint}-{region}.json"
