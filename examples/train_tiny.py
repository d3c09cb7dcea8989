"""A narrow AlexNet trained for a few steps and evaluated, without the command line.

    python examples/train_tiny.py [DATA]

Without DATA it draws ten classes of small images. A few steps teach it nothing; `alexnet demo` trains for long enough.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet import Config, RunOptions, Trainer, compute_stats, evaluate, open_dataset
from alexnet.pipeline.synthetic.generate import generate_tree
from alexnet.train.history import Record


def main(data: Path | None, folder: Path) -> None:
    data = data or generate_tree(folder / "data", train_per_class=16, val_per_class=4)
    train_set, val_set = open_dataset(data, "train"), open_dataset(data, "val")
    batch_size = min(16, len(train_set))
    config = Config.from_preset("paper", width=0.0625, batch_size=batch_size, epochs=1)
    options = RunOptions(run_dir=folder / "run", log_every=1)
    trainer = Trainer(config, train_set, val_set, compute_stats(train_set), options, listener=show)
    trainer.fit()
    network = trainer.classifier()
    result = evaluate([network], val_set, views=10)
    print(f"top-1 error {result.top1_error:.1%} of {result.num_images} images, ten views")


def show(record: Record) -> None:
    if record["kind"] == "train":
        print(f"epoch {record['epoch']}, step {record['step']}: loss {record['loss']:.3f}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1]) if sys.argv[1:] else None, Path(folder))
