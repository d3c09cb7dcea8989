"""`--resident`: the images of a pack of coefficients that a GPU holds, for `train` and `bench-loader`."""

from __future__ import annotations

from functools import partial

import torch

from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.resident import Resident
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import UserError
from ..pipeline.sizes import as_size
from .progress import bars
from .terminal import say

STORED = {"encoded": "encoded images", "raw": "raw pixels", "dct": "coefficients"}


def check_resident(dataset: Dataset, device: torch.device) -> None:
    """Raise UserError where no image can be held."""
    if device.type == "cuda" and dataset.stored == "dct":
        return
    here = "the CPU decodes, and the page cache holds what fits" if device.type != "cuda" else ""
    here = here or f"{dataset.where} holds {STORED[dataset.stored]}"
    raise UserError(
        f"--resident needs a GPU and a pack of coefficients (`alexnet pack --dct`), but {here}: leave it out."
    )


def hold(dataset: Dataset, device: torch.device, limit: int, settings: Settings, announce: bool = True) -> Resident:
    """Put as many images as `limit` bytes hold into the memory of `device`, and say how many they are."""
    if not announce:
        return Resident(dataset, device, limit, settings)
    with bars("images") as progress:
        resident = Resident(dataset, device, limit, settings, partial(progress, "to the GPU"))
    say_resident(resident, dataset)
    return resident


def say_resident(resident: Resident, dataset: Dataset) -> None:
    say(f"Resident on each GPU: {len(resident):,} of {len(dataset):,} training images, {as_size(resident.num_bytes)}.")
