"""The data pipeline by itself: augmented batches of a data set as torch tensors.

    python examples/loader.py [DATA]

DATA is anything that `alexnet train` takes. The same seed gives the same batches, on any number of threads.
"""

import sys
from pathlib import Path

import numpy as np

from alexnet import Loader, Treatment, open_dataset


def main(data: Path | None) -> None:
    train = open_dataset(data, "train")
    print(f"{len(train):,} images of {train.num_classes} classes in {train.root}")
    treatment = Treatment(mean=np.array([124, 117, 104], np.float32))  # subtracted; grey levels 0..255
    loader = Loader(train, treatment, batch_size=min(128, len(train)), seed=0)
    for batch in loader:  # one epoch
        levels = batch.images  # float (B, 3, 224, 224), channels last
        first = train.classes[batch.labels[0]]
        print(f"step {batch.step}: {tuple(levels.shape)}, mean {levels.mean():+.1f}, first image: {first}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
