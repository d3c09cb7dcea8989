"""The loader for another network: a training loop of ten lines around any model of torchvision, timm or your own.

    python examples/another_network.py [DATA]

DATA is anything that `alexnet train` takes. Batches are normalised as those libraries' networks expect.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from alexnet import Loader, Treatment, open_dataset


def build_model(num_classes: int) -> nn.Module:
    """Stand in for `timm.create_model("resnet50", num_classes=num_classes)`."""
    front = nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(16 * 4**2, num_classes))


def main(data: Path | None) -> None:
    train = open_dataset(data, "train")
    loader = Loader(train, Treatment.imagenet(), batch_size=min(128, len(train)), seed=0, num_epochs=2)
    model = build_model(train.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for batch in loader:  # every batch of both epochs
        loss = F.cross_entropy(model(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"epoch {batch.epoch}, step {batch.step}: loss {loss.item():.3f}")
    print(f"{len(loader.bad)} images could not be used")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
