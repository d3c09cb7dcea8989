"""Ranks of small meshes for `test_parallel.py`: each process runs all checks that need it and writes down what it saw.

Run as `python ranks.py FOLDER RANK PORT...`; four of them are a 1x2 and a 2x1 mesh side by side, then a 2x2, then the
two again. The fifth is alone, what the others are compared with.
"""

import os
import sys
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.pca.stats import RgbStats
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.train import checkpoint as checkpoints
from alexnet.train.bench import bench_train
from alexnet.train.classifier import load_classifier
from alexnet.train.config import Config
from alexnet.train.parallel.dims import CPU, ParallelDims
from alexnet.train.parallel.mesh import Mesh, build_mesh, leave_mesh
from alexnet.train.parallel.ranks import join_ranks
from alexnet.train.pretrained import take_layers
from alexnet.train.trainer import RunOptions, Trainer

SMALL = {"width": 0.02, "batch_size": 5, "epochs": 2, "lr": 1e-3}  # five rows are no multiple of anything
# Every switch that changes the network, several at a time.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("paper", {}),
    "original": ("original", {}),  # in its second epoch conv1 is frozen and colour noise off
    "one-gpu": ("one-gpu", {}),  # one tower: 2x1 only
    "owt": ("owt", {}),
    "four-towers": ("paper", {"groups": (1, 4, 1, 4, 4), "activation": "tanh", "overlapping_pooling": False}),
    "apart": ("paper", {"cross_talk": False, "lrn": False, "dropout_style": "inverted", "crop": 227}),
    "without-conv3": ("paper", {"without": ("conv3",), "groups": (1, 2, 1, 1, 1), "lighting": "off"}),
    "without-conv2": ("original", {"without": ("conv2",)}),
    "fine-tune": ("conv6", {"schedule": "fine-tune", "fc8_wait": 2, "layer_lr": ("fc7=3",)}),  # of another network
    "without-conv45": ("paper", {"without": ("conv4", "conv5"), "dropout": 0.0}),
}
# Of 14 an epoch. A switch that is wrong shows in the first; the third has momentum of its own making.
STEPS = dict.fromkeys(VARIANTS, 5) | {"paper": 20, "original": 20}


class DoubleTrainer(Trainer):
    """The trainer, in float64 from the images on, with activations that the normalisation changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.train_step.model.double()
        for state in self.train_step.optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].double()
        with torch.no_grad():
            self.train_step.model.conv1.weight *= 20


def trainer(folder: Path, mesh: Mesh, variant: str, kind: type[Trainer] = DoubleTrainer, **how: Any) -> Trainer:
    preset, changes = VARIANTS[variant]
    config = Config.from_preset(preset, **{**SMALL, **changes})
    settings = Settings(threads=1, readers=1)
    options = RunOptions(run_dir=folder / f"run-{mesh.dims}", settings=settings, mesh=mesh, eval_batch=7)
    stats = RgbStats.load(folder / "stats.json")
    sets = [open_dataset(folder / "tree", split) for split in ("train", "val")]
    if variant == "fine-tune":
        source = load_classifier(checkpoints.checkpoint_path(folder / "run-1x1", 3), CPU)
        how["pretrained"] = take_layers(source, "paper", config, sets[0].classes)
    return kind(config, sets[0], sets[1], stats, options, **how)


def take_steps(run: Trainer, count: int) -> dict[str, Any]:
    """The loss and the images of each step, in float64."""
    step = run.train_step
    losses, images = [], []
    batches = run.loader.batches(run.epoch, run.step)
    for batch in islice(batches, count):
        loss, _ = step(replace(batch, images=batch.images.double()))
        run.step += 1
        losses.append(run.mesh.dp.sum(loss).item())
        images.append(batch.indices.copy())
    return {"losses": np.array(losses), "images": np.array(images)}


def state(run: Trainer) -> dict[str, Tensor]:
    found = run.train_step.state()
    return {f"{kind}/{name}": tensor for kind in ("model", "momentum") for name, tensor in found[kind].items()}


def write(folder: Path, mesh: Mesh, name: str, found: dict[str, Any]) -> None:
    np.savez(folder / f"{name}-{mesh.dims}-{mesh.world.index}.npz", **found)


def compute_variants(folder: Path, mesh: Mesh) -> None:
    for name in VARIANTS:
        if mesh.mp.size == 1 or name not in ("one-gpu", "owt"):
            run = trainer(folder, mesh, name)
            write(folder, mesh, name, take_steps(run, STEPS[name]) | {k: v.numpy() for k, v in state(run).items()})


def measure_traffic(folder: Path, mesh: Mesh) -> None:
    """Bytes sent by this rank in a step: counted, and from the shapes."""
    for name in ("paper", "apart", "without-conv3", "fine-tune") if mesh.mp.size > 1 else ("paper", "one-gpu"):
        run = trainer(folder, mesh, name, kind=Trainer)
        config = replace(run.config, schedule="plateau")  # which freezes no layer
        result = bench_train(config, run.train_set, mesh, run.options.settings, seconds=0.01, rounds=1)
        write(
            folder,
            mesh,
            f"traffic-{name}",
            {"sent": list(asdict(result.sent).values()), "expected": list(asdict(result.expected).values())},
        )
        assert result.images_per_second > 0


def write_checkpoint(folder: Path, mesh: Mesh) -> None:
    run = trainer(folder, mesh, "paper")
    take_steps(run, 3)
    run.history.folder.mkdir(exist_ok=True)
    run.save()


def go_on_from(folder: Path, mesh: Mesh, written_on: str) -> None:
    """What another mesh wrote, loaded: the state, two steps from there, and the errors on the validation set."""
    saved = checkpoints.load(checkpoints.checkpoint_path(folder / f"run-{written_on}", 3))
    run = trainer(folder, mesh, "paper")
    run._restore(saved)  # in float64, now that it is
    loaded = {k: v.numpy() for k, v in state(run).items()}
    steps = take_steps(run, 2)
    plain = trainer(folder, mesh, "paper", kind=Trainer, resume=saved)
    record = plain._validate()
    errors = {key: np.array(record[key]) for key in ("num_images", "top1_error", "top5_error", "loss")}
    write(folder, mesh, f"from-{written_on}", loaded | steps | errors)


def meshes_of(rank: int) -> list[tuple[ParallelDims, int, int]]:
    """The meshes that a process is part of, one after the other: dims, rank, and which of the ports."""
    if rank == 4:
        return [(ParallelDims(), 0, 0)]
    pair = ParallelDims(1, 2) if rank < 2 else ParallelDims(2, 1)
    return [(pair, rank % 2, rank // 2), (ParallelDims(2, 2), rank, 2), (pair, rank % 2, 3 + rank // 2)]


def main(folder: Path, rank: int, ports: list[str]) -> None:
    for turn, (dims, rank_there, port) in enumerate(meshes_of(rank)):
        size = dims.num_ranks
        here, there = str(rank_there), str(size)
        os.environ |= {
            "RANK": here,
            "WORLD_SIZE": there,
            "LOCAL_RANK": here,
            "LOCAL_WORLD_SIZE": there,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": ports[port],
        }
        mesh = build_mesh(dims, join_ranks(), CPU, 120)
        if turn < 2:
            compute_variants(folder, mesh)
            measure_traffic(folder, mesh)
            write_checkpoint(folder, mesh)
        if turn > 0:
            for written_on in ("1x1", "1x2", "2x1", "2x2"):
                go_on_from(folder, mesh, written_on)
        leave_mesh()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
