"""The cost of giving both ranks of a pair the same batches: decode half each and exchange, or decode everything twice.

    torchrun --nproc-per-node 2 benchmarks/pairs.py DATA [BATCHES]

It is the CPU time of both processes, which a busy machine disturbs less than wall time. A rank has one thread of each
kind.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.loader import Batch, Loader
from alexnet.pipeline.treatment import Treatment
from alexnet.train.parallel.dims import CPU, ParallelDims
from alexnet.train.parallel.mesh import Mesh, build_mesh, leave_mesh
from alexnet.train.parallel.ranks import join_ranks
from alexnet.train.parallel.tower_loader import TowerLoader

BATCH, ROUNDS = 128, 3


def batches(data: Path, mesh: Mesh, halves: bool) -> Iterator[Batch]:
    rank, num_ranks = (mesh.mp.index, mesh.mp.size) if halves else (0, 1)
    treatment = Treatment(mean=np.array([124, 117, 104], np.float32))
    loader = Loader(
        open_dataset(data, "train"),
        treatment,
        batch_size=BATCH,
        seed=0,
        num_epochs=1000,
        lit=lambda epoch: False,
        settings=Settings(threads=1, readers=1),
        rank=rank,
        num_ranks=num_ranks,
    )
    return iter(TowerLoader(loader, mesh) if halves else loader)


def seconds(data: Path, mesh: Mesh, halves: bool, count: int) -> float:
    """Return CPU seconds per image, both ranks together."""
    stream = batches(data, mesh, halves)
    next(stream)
    before = time.process_time()
    for batch in islice(stream, count):
        assert len(batch.images) == BATCH
    spent = torch.tensor([time.process_time() - before], dtype=torch.float64)
    return mesh.mp.sum(spent).item() / count / BATCH


def main(data: Path, count: int) -> None:
    mesh = build_mesh(ParallelDims(1, 2), join_ranks(), [CPU, CPU], 600)
    torch.set_num_threads(1)
    rounds = [(seconds(data, mesh, True, count), seconds(data, mesh, False, count)) for _ in range(ROUNDS)]
    if mesh.is_main:
        halves, whole = np.median(rounds, axis=0)
        print(
            json.dumps(
                {
                    "batch": BATCH,
                    "cpu_ms_per_image": {"halves": halves * 1e3, "whole": whole * 1e3},
                    "ratio": whole / halves,
                    "bytes_sent_per_image": mesh.mp.bytes_sent / ROUNDS / BATCH,
                    "rounds": rounds,
                }
            )
        )
    leave_mesh()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 4)
