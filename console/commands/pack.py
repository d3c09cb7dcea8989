"""What `alexnet pack` is asked for: the splits of a data set, one after the other, with a bar for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...pipeline.dataset.images import Split
from ...pipeline.dataset.open import open_splits
from ...pipeline.pack import Packed, PackOptions, pack
from ..data_options import DataOptions
from ..options import LoadingOptions
from ..progress import bar


def run_pack(
    data: Path,
    out: Path,
    *,
    splits: Sequence[Split],
    raw: bool,
    dct: bool,
    copy: bool,
    quality: int | None,
    chroma: Literal["444", "420"] | None,
    shard_size: int,
    which: DataOptions,
    loading: LoadingOptions,
) -> list[Packed]:
    """Pack these splits, or all that there are if none is named; returns what each came to."""
    options = PackOptions(raw=raw, dct=dct, copy=copy, quality=quality, chroma=chroma, images_per_shard=shard_size)
    results = list[Packed]()
    for dataset in open_splits(data, splits, rescan=which.rescan, selection=which.selection(data)):
        with bar(f"pack {dataset.split}", len(dataset), "images") as update:
            results.append(pack(dataset, out, options, loading.settings(), update))
    return results
