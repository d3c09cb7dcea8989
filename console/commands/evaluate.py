"""`alexnet evaluate`: the errors of trained networks on a validation set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...pipeline.dataset.open import open_dataset
from ...train import evaluate as evaluation
from ...train.classifier import find_networks, load_classifier
from ...train.evaluate import Evaluation
from ...train.parallel.ranks import join_ranks
from ...train.parallel.split import parallelize
from ..on_mesh import Ranks
from ..options import LoadingOptions, MeshOptions
from ..progress import bar


def split_data(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Return the checkpoints, and the data set if the last path is a folder but not a run's."""
    last = paths[-1]
    if len(paths) > 1 and not last.is_file() and not (last / "checkpoints").is_dir():
        return list(paths[:-1]), last
    return list(paths), None


def run_evaluate(
    checkpoints: Sequence[Path],
    data: Path | None,
    *,
    rescan: bool,
    views: Literal[1, 10],
    batch_size: int,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> Evaluation | None:
    """Measure the errors; None on all ranks but the first."""
    info = join_ranks()
    ranks = Ranks.plan(info, mesh_options, loading.device)
    with info.main_first("data"):
        dataset = open_dataset(data, "val", rescan=rescan and info.rank == 0)
    files = find_networks(checkpoints, info)
    with ranks.mesh() as mesh:
        classifiers = [load_classifier(path, mesh.device) for path in files]
        for classifier in classifiers:
            parallelize(classifier.model, mesh)
        with (
            bar("evaluation", len(dataset), "images", silent=not mesh.is_main) as update,
            mesh.watched(lambda: "the evaluation"),
        ):
            result = evaluation.evaluate(
                classifiers,
                dataset,
                views=views,
                batch_size=batch_size,
                mesh=mesh,
                settings=loading.settings(mesh.device, info.local_size),
                progress=update,
            )
    return result if mesh.is_main else None
