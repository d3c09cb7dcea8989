"""What a command needs before it can start: the checkpoint to go on from, the statistics, a classifier.

Between the command line, which knows paths and flags, and the trainer and the evaluation, which know neither.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch

from ..pca.stats import RgbStats
from ..pipeline import hardware
from ..pipeline.cache import cache_folder, can_keep, needed_cache
from ..pipeline.classes import NUM_SYNSETS, is_numbered
from ..pipeline.dataset import Dataset
from ..pipeline.files import can_write_into
from ..pipeline.loader import Treatment
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint, CheckpointError
from .config import Config
from .evaluate import Classifier
from .fused import use_fast_layers
from .launch import Place
from .mesh import ParallelDims
from .model import IMAGE_SHAPE, describe
from .trainer import TrainingError
from .treatment import IMAGENET_MEAN, IMAGENET_STD, needs_stats

COPIES_OF_ACTIVATIONS = 4  # measured: the output, its gradient, what normalisation and pooling keep
NEWEST = "newest"  # --resume without a path
ALONE, ONE_RANK = Place(), ParallelDims()


def choose_run_dir(given: Path | None, resume: str | None, preset: str | None, place: Place = ALONE) -> Path:
    """The run folder: as given, else the one that is resumed, else a new one named by the time.

    Ranks that were started elsewhere need its name: when they start again they must find it.
    """
    run_dir = given or _usual_run_dir(resume, preset, place)
    if place.rank == 0 and not can_write_into(run_dir):
        raise TrainingError(f"The run folder {run_dir} cannot be written. Choose another by --run DIR.")
    return run_dir


def _usual_run_dir(resume: str | None, preset: str | None, place: Place) -> Path:
    if resume == NEWEST:
        raise CheckpointError("--resume alone takes the newest checkpoint in --run: add --run DIR, or give it a path.")
    if resume is not None and (path := Path(resume)).is_dir():
        return path
    if resume is not None and path.parent.name == "checkpoints":
        return path.parent.parent
    if place.size > 1:
        raise TrainingError("Ranks started by torchrun or SLURM need a run folder that all can see: add --run DIR.")
    return Path("runs") / f"{preset or 'paper'}-{time.strftime('%Y%m%d-%H%M%S')}"


def find_checkpoint(resume: str | None, run_dir: Path, place: Place = ALONE) -> Checkpoint | None:
    """The checkpoint that `--resume` means: a file, or the newest whole one of a run folder. The first rank looks.

    None is a fresh start; a folder that already holds a run then is an error, and so is a missing checkpoint. After a
    restart by a launcher it is the newest there is, whatever the command said at first.
    """
    path = place.from_main("checkpoint", lambda: str(_checkpoint_path(resume, run_dir, place.restarts) or ""))
    return checkpoints.load(Path(path)) if path else None


def _checkpoint_path(resume: str | None, run_dir: Path, restarts: int) -> Path | None:
    if restarts and (newest := checkpoints.latest(run_dir)):
        return newest
    if resume is None:
        if checkpoints.saved_checkpoints(run_dir):
            raise TrainingError(f"{run_dir} holds a run already. Add --resume to continue it, or choose another --run.")
        return None
    path = run_dir if resume == NEWEST else Path(resume)
    if not path.exists():
        raise CheckpointError(f"--resume: there is no {path}. Nothing was started.")
    if not path.is_dir():
        return path
    if newest := checkpoints.latest(path):
        return newest
    raise CheckpointError(f"--resume: {path} holds no complete checkpoint. Nothing was started.")


def find_networks(paths: Sequence[Path], place: Place = ALONE) -> list[Path]:
    """Checkpoint files; of a run folder the newest that the first rank finds: the run may go on."""
    found = place.from_main("networks", lambda: json.dumps([str(_network_path(path)) for path in paths]))
    return [Path(path) for path in json.loads(found)]


def _network_path(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint or run folder {path}.")
    return checkpoints.newest_of(path)


def resolve_config(preset: str | None, overrides: Mapping[str, Any], saved: Checkpoint | None) -> Config:
    """The preset with what was changed, or, on resuming, the checkpoint's, which nothing may contradict."""
    if saved is None:
        return Config.from_preset(preset or "paper", **overrides)
    found = asdict(saved.config)
    asked = dict(overrides) | ({"preset": preset} if preset else {})
    differing = [f"{k} is {found[k]!r} there, {v!r} was asked for" for k, v in asked.items() if found[k] != v]
    if differing:
        raise CheckpointError(
            f"The checkpoint is of another run: {'; '.join(differing)}. Leave these options out to continue it."
        )
    return saved.config


def stats_path(dataset: Dataset, region: Literal["centre", "full"] = "centre") -> Path | None:
    """Where `pca-stats` leaves the statistics of a data set for `train` to find; None without a cache folder."""
    folder = cache_folder()
    return folder and folder / "stats" / f"{dataset.fingerprint}-{region}.json"


def stats_for_training(
    config: Config,
    train_set: Dataset,
    given: Path | None,
    compute: Callable[[], RgbStats | None],
    place: Place = ALONE,
    num_ranks: int = 1,
) -> RgbStats | None:
    """The training set's statistics: from the file given, from the cache, or computed now and cached.

    Ranks compute them together, which gives them, from `compute`, to the first; None to the others, which wait. Those
    of the `num_ranks` of the mesh that are not started yet will find them in the cache.
    """
    if not needs_stats(config):
        return None
    if given is not None:
        stats = RgbStats.load(given)
        if stats.fingerprint != train_set.fingerprint:
            raise TrainingError(
                f"{given} holds the statistics of another data set than {train_set.root}. Run `alexnet pca-stats "
                f"{train_set.root} --out {given}`, or leave --stats out."
            )
        if not stats.complete:
            raise TrainingError(
                f"{given} holds the statistics of a part of {train_set.root}. Add the others to it with `alexnet "
                "pca-stats --merge PART --merge PART --out FILE`, or leave --stats out."
            )
        return stats
    path = stats_path(train_set)
    if path and path.exists():
        return RgbStats.load(path)
    if num_ranks > 1:
        needed_cache("Ranks find the statistics there, unless --stats FILE names those of `pca-stats --out`.")
    if (computed := compute()) is None:
        place.wait_for_main("statistics")
        assert path is not None
        return RgbStats.load(path)
    if path and can_keep():
        computed.save(path)
    place.tell_others("statistics")
    return computed


def split_data(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Checkpoints and, where the last path is a folder that is no run, the data set."""
    last = paths[-1]
    if len(paths) > 1 and not last.is_file() and not (last / "checkpoints").is_dir():
        return list(paths[:-1]), last
    return list(paths), None


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """A trained network from a checkpoint, a run folder, or torchvision's published weights (.pth)."""
    model, saved = checkpoints.load_model(_network_path(path))
    arrays = saved.arrays or {"mean": IMAGENET_MEAN, "divisor": IMAGENET_STD}  # torchvision's file has none
    treatment = Treatment(mean=arrays["mean"], divisor=arrays["divisor"])
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        use_fast_layers(model, conv1=False)
    published = not saved.arrays and is_numbered(saved.classes) and len(saved.classes) == NUM_SYNSETS
    return Classifier(model, treatment, tuple(saved.classes), saved.words, published)


def check_memory(
    config: Config, num_classes: int, device: torch.device, dims: ParallelDims = ONE_RANK, num_sharing: int = 1
) -> None:
    """Refuse, before anything is allocated, a batch that cannot fit; the message says which would.

    Parameters are held three times (weights, gradients, velocities) and every activation about
    `COPIES_OF_ACTIVATIONS` times, in float32 on CPUs and half of that on GPUs. On a mesh both are shared out, and
    `num_sharing` of its ranks are on this device.
    """
    rows = describe(config, num_classes)
    width = 4 if device.type == "cpu" else 2
    activations = prod(IMAGE_SHAPE) + COPIES_OF_ACTIVATIONS * sum(prod(row.output_shape) for row in rows)
    per_image = activations * width * num_sharing / dims.num_ranks
    fixed = 3 * 4 * sum(row.parameters for row in rows) * num_sharing / dims.mp
    available = _available_bytes(device)
    fits = int((available - fixed) / per_image)
    if fits >= config.batch_size:
        return
    need = (fixed + config.batch_size * per_image) / 2**30
    advice = f"--batch-size {fits} would fit." if fits > 0 else "Not even one image fits; lower --width."
    raise TrainingError(
        f"Training with a batch of {config.batch_size} takes about {need:.1f} GiB, and {device.type} memory has "
        f"{available / 2**30:.1f} GiB free. {advice}"
    )


def _available_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else hardware.memory()[0]
