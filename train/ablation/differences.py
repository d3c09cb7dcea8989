"""Differences between runs that share their seeds, and how far they can be trusted: arrays in, arrays out.

`table.py` puts errors in and shows what comes out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

FloatArray = NDArray[np.float64]


class Differences(NamedTuple):
    """Differences of V variations from one base, in the unit of the errors; NaN where there are too few pairs."""

    mean: FloatArray  # (V,)
    standard_error: FloatArray  # (V,), from the variation's own pairs
    pooled_error: FloatArray  # (V,), from the spread of all variations' pairs, taken to be the same
    num_pairs: NDArray[np.int64]  # (V,)
    pooled_degrees: int  # of freedom, behind `pooled_error`

    def clear(self, factor: float = 2) -> NDArray[np.bool_]:
        """(V,): whether a difference exceeds `factor` standard errors, its own and the pooled one; no if unknown."""
        return np.abs(self.mean) > factor * np.maximum(self.standard_error, self.pooled_error)


def paired_differences(base: ArrayLike, others: ArrayLike) -> Differences:
    """Compare the errors (V, S) of V variations with the base's (S,), seed by seed; NaN stands for a missing run.

    A seed counts for a variation if both runs are there. With n pairs the standard error is the sample standard
    deviation of their differences, which has n - 1 degrees of freedom, over the root of n.
    """
    pairs = np.atleast_2d(np.asarray(others, np.float64)) - np.asarray(base, np.float64)
    there = np.isfinite(pairs)
    n = there.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, pairs, 0).sum(axis=1) / n
        squares = np.where(there, (pairs - mean[:, None]) ** 2, 0).sum(axis=1)
        own = np.sqrt(squares / (n - 1) / n)
        degrees = np.clip(n - 1, 0, None).sum()
        pooled = np.sqrt(np.where(n > 1, squares, 0).sum() / degrees / n)
    return Differences(mean, np.where(n > 1, own, np.nan), np.where(n > 0, pooled, np.nan), n, int(degrees))


def chance_to_exceed(factor: float, degrees: int) -> float:
    """How often a mean of normal differences around 0 exceeds `factor` of its standard errors, either way."""
    return float(2 * stdtr(degrees, -factor))  # Student's t


def sampling_error(error: float, num_images: int) -> float:
    """The standard error of a share `error` that was counted on `num_images` images drawn at random."""
    return float(np.sqrt(error * (1 - error) / num_images))
