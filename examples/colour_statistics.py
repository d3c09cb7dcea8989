"""Colour statistics of a training set, and the lighting noise that follows from them (section 4.1 of the paper).

    python examples/colour_statistics.py [DATA]

DATA is anything that `alexnet pca-stats` takes.
"""

import sys
from pathlib import Path

import numpy as np

from alexnet import Treatment, compute_stats, open_dataset

SIGMA = 0.1  # standard deviation of the paper's draws


def main(data: Path | None) -> None:
    train = open_dataset(data, "train")
    stats = compute_stats(train)  # `work_dir` would make it resumable
    print(f"{stats.num_images:,} images, {stats.num_pixels:,} pixels")
    print("mean colour, 0..255:     ", stats.mean.round(2))
    print("eigenvalues, pixels 0..1:", (stats.eigenvalues / 255**2).round(5))
    for strength, axis in zip(stats.strengths("std"), stats.eigenvectors.T, strict=True):
        print(f"axis {axis.round(3)}: {SIGMA * strength:.2f} grey levels of noise")

    basis = stats.lighting_basis("std", SIGMA)  # columns: the axes, scaled
    draws = np.random.default_rng(2012).standard_normal((3, 3), np.float32)
    print("noise for three images, RGB:", *(draws @ basis.T).round(1), sep="\n  ")
    treatment = Treatment(mean=stats.mean.astype(np.float32), basis=basis)  # a `Loader` makes its own draws
    print("divisor while lighting is on:", treatment.divisor_when(lit=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
