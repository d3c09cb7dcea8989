"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...pipeline.dataset.open import open_dataset
from ...train import evaluate as evaluation
from ...train.classifier import find_networks, load_classifier
from ...train.evaluate import Evaluation
from ...train.parallel.devices import choose_devices
from ...train.parallel.ranks import Place
from ...train.parallel.split import parallelize
from ..on_mesh import Ranks
from ..options import Options, settings_of
from ..progress import bar


def evaluate(
    checkpoints: Sequence[Path],
    data: Path | None,
    *,
    views: Literal[1, 10],
    batch_size: int,
    rescan: bool,
    loading: Options,
    ranks: Ranks,
    arguments: Sequence[str],
) -> Evaluation | int:
    """The errors, on the first rank; on the others, and where ranks were started by `arguments`, an exit code."""
    place = Place.join()
    dims, devices = choose_devices(place, None, mesh=ranks.mesh, devices=ranks.devices, device=loading["device"])
    if dims.num_ranks > 1 and place.size == 1:
        return ranks.launch([*arguments, "--mesh", str(dims)], dims.num_ranks)
    with place.main_first("data"):
        dataset = open_dataset(data, "val", rescan=rescan and place.rank == 0)
    files = find_networks(checkpoints, place)
    with ranks.joined(dims, place, devices) as mesh:
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
                settings=settings_of(loading, mesh.device, place.local_size),
                progress=update,
            )
    return result if mesh.is_main else 0


def split_data(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Checkpoints and, where the last path is a folder that is no run, the data set."""
    last = paths[-1]
    if len(paths) > 1 and not last.is_file() and not (last / "checkpoints").is_dir():
        return list(paths[:-1]), last
    return list(paths), None
