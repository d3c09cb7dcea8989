"""What `alexnet features` is asked for: the activations of a layer for a split, or for image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from ...pipeline.dataset.images import Dataset, Split
from ...pipeline.dataset.open import from_files
from ...pipeline.remote.urls import url_of
from ...train.classifier import find_networks, load_classifier
from ...train.feature_folder import Description, Dtype, Pool
from ...train.features import extract
from ...train.parallel.ranks import join_ranks
from ...train.saved import read_selection
from ..data_options import DataOptions
from ..on_mesh import Ranks
from ..options import LoadingOptions, MeshOptions
from ..progress import bar


def run_features(
    paths: Sequence[Path],
    *,
    layer: str,
    out: Path,
    split: Split | None,
    pool: Pool,
    views: Literal[1, 10],
    dtype: Dtype,
    batch_size: int | None,
    which: DataOptions,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> Description | None:
    """What is in the folder now; None on all ranks but the first."""
    info = join_ranks()
    ranks = Ranks.plan(info, mesh_options, loading.device)
    checkpoint, *images = paths
    (file,) = find_networks([checkpoint], info)
    with info.main_first("data"):
        dataset = _open_images(images, split, which, file, is_main=info.rank == 0)
    with ranks.mesh() as mesh:
        classifier = load_classifier(file, mesh.device)
        with (
            bar("features", len(dataset), "images", silent=not mesh.is_main) as update,
            mesh.watched(lambda: "the computation of features"),
        ):
            found = extract(
                classifier,
                dataset,
                out,
                layer=layer,
                pool=pool,
                views=views,
                dtype=dtype,
                checkpoint=str(file),
                batch_size=batch_size,
                mesh=mesh,
                settings=loading.settings(mesh.device, info.local_size),
                progress=update,
            )
    return found.about if mesh.is_main else None


def _open_images(
    paths: Sequence[Path], split: Split | None, which: DataOptions, network: Path, *, is_main: bool
) -> Dataset:
    """A data set where there is one path, of a folder or of what could be one, or none; else image files."""
    if len(paths) > 1 or (paths and not paths[0].is_dir() and paths[0].suffix and not url_of(paths[0])):
        if split:
            raise click.UsageError("--split is of a data set: leave it out with image files.")
        if which.asked():
            raise click.UsageError("Options that choose images are of a data set: leave them out with image files.")
        return from_files(paths)
    data = paths[0] if paths else None
    return which.open(data, split or "val", is_main=is_main, remembered=read_selection(network))
