"""The activations of one layer for every image of a data set, in a folder whose array numpy can map.

    `tower_squares` -> `AlexNet.forward_features` -> pooled, averaged over views -> features.npy

After `classifier.py`, whose network it runs as `evaluate.py` does; `feature_folder.py` keeps what it computes, through
kills, and opens it again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.bad_images import describe_bad
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import FeaturesError, TooManyBadFiles, UserError
from ..pipeline.files import can_write_into, only_writer
from .checkpoint import tool_versions
from .classifier import Classifier, views_of
from .feature_folder import Description, Dtype, Features, Pool, RowFile, begin, finish, open_features
from .network.model import AlexNet
from .parallel.axis import Axis
from .parallel.mesh import Mesh
from .parallel.split import parallelize
from .parallel.tower_loader import tower_squares

SECONDS_BETWEEN_SYNCS = 2.0  # the work that a kill can undo
BATCH_ON_CPU, BATCH_ON_GPU = 32, 128  # with 32 images a whole AlexNet stays below 1 GB


def extract(
    classifier: Classifier,
    dataset: Dataset,
    out: Path,
    *,
    layer: str = "fc7",
    pool: Pool = "none",
    views: int = 1,
    dtype: Dtype = "float32",
    checkpoint: str = "",
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Write the activations of `layer` for every usable image into the folder `out`, and open it.

    Activations are those of `AlexNet.forward_features` in float32 on any device, so neither the batch size nor the
    mesh shows in them. `pool` "mean" averages each map of a convolutional layer; several views are averaged.
    `checkpoint` is what the record calls the network. A call that was interrupted is continued by the next one with
    the same arguments, on any mesh; a folder that is complete is only opened.

    Give every rank of `mesh` the whole network on its device, which is cut down to the rank's part in place. The
    data-parallel ranks share the images and write to the same folder; all of them get the result. `progress` is called
    with the number of images done, roughly. Raise FeaturesError where `out` holds something else or cannot be written,
    UserError for a layer that the network lacks, TooManyBadFiles beyond `settings.max_bad`.
    """
    mesh, settings = mesh or Mesh(), settings or Settings()
    if len(dataset) == 0:
        raise UserError("There are no images to compute features of.")
    if not can_write_into(out):
        raise FeaturesError(f"{out} cannot be written. Use another folder.")
    wanted = _describe(classifier, dataset, settings, layer, pool, views, dtype, checkpoint)
    mesh.check_same("network or data set", [wanted.network, wanted.dataset])
    parallelize(classifier.model, mesh)
    classifier.model.eval()
    another = FeaturesError(f"Another process is writing features into {out}. Wait for it, or use another folder.")
    with only_writer(out, another) if mesh.is_main else nullcontext():
        if not mesh.broadcast(begin(out, wanted) if mesh.is_main else None):
            batch_size = batch_size or (BATCH_ON_GPU if mesh.device.type == "cuda" else BATCH_ON_CPU)
            with RowFile(out, wanted) as rows:
                bad = _fill(rows, classifier, dataset, wanted, batch_size, mesh, settings, progress)
            if mesh.is_main:
                finish(out, wanted, dataset, bad)
        mesh.broadcast(None)  # the others wait until the folder is whole
    progress(len(dataset))
    return open_features(out)


def _describe(
    classifier: Classifier,
    dataset: Dataset,
    settings: Settings,
    layer: str,
    pool: Pool,
    views: int,
    dtype: Dtype,
    checkpoint: str,
) -> Description:
    return Description(
        checkpoint=checkpoint,
        network=fingerprint(classifier),
        layer=layer,
        pool=pool,
        views=len(views_of(views)),
        dtype=dtype,
        images=dataset.where,
        split=dataset.split,
        dataset=dataset.fingerprint,
        decode=f"{settings.decode}, {'gpu' if settings.on_gpu else 'cpu'}",
        max_pixels=settings.max_pixels,
        shape=(len(dataset), *row_shape(classifier.model, layer, pool)),
        classes=dataset.classes,
        versions=tool_versions(),
    )


def fingerprint(classifier: Classifier) -> str:
    """32 hex digits over the configuration, the parameters and the treatment of a whole network."""
    digest = hashlib.blake2b(classifier.model.config.to_json().encode(), digest_size=16)
    treatment = classifier.treatment
    parameters = (tensor.detach().cpu().contiguous().numpy() for tensor in classifier.model.state_dict().values())
    for array in (treatment.mean, treatment.divisor, *parameters):
        digest.update(np.ascontiguousarray(array).reshape(-1).data)
    return digest.hexdigest()


@torch.inference_mode()
def row_shape(model: AlexNet, layer: str, pool: Pool) -> tuple[int, ...]:
    """The shape of one image's features; UserError where the network has no such layer."""
    device = next(model.parameters()).device
    images = torch.zeros(1, *model.config.image_shape, device=device)  # meta tensors take seconds to load
    features = model.forward_features(images)
    if layer not in features:
        raise UserError(f"This network has no layer {layer!r}. It has {', '.join(features)}.")
    shape = tuple(features[layer].shape[1:])
    return shape[:1] if pool == "mean" else shape


def _fill(
    rows: RowFile,
    classifier: Classifier,
    dataset: Dataset,
    wanted: Description,
    batch_size: int,
    mesh: Mesh,
    settings: Settings,
    progress: Callable[[int], None],
) -> dict[int, str]:
    """Compute the rows that are missing; return the images that cannot be used, with reasons.

    Images that were bad in an earlier call are tried again, and all are counted here, over all calls and ranks.
    """
    todo = rows.missing()
    rest, lenient = dataset.subset(todo), replace(settings, max_bad=1.0)
    bad, seen, synced_at = dict[int, str](), 0, time.monotonic()
    progress(len(dataset) - len(todo))
    for batch in tower_squares(rest, mesh, batch_size=batch_size, settings=lenient, bad=bad):
        if len(batch.indices):
            values = activations(classifier, batch.pixels.to(mesh.device), wanted, mesh.mp)
            if mesh.mp.index == 0:
                rows.write(todo[batch.indices], _stored(values, wanted))
        if time.monotonic() - synced_at > SECONDS_BETWEEN_SYNCS:
            rows.sync()
            synced_at = time.monotonic()
        _check_bad(dataset, todo, bad, settings)
        seen += len(batch.indices)
        progress(min(len(dataset), len(dataset) - len(todo) + (seen + len(bad)) * mesh.dp.size))
    rows.sync()
    for theirs in mesh.world.gather_objects(list(bad.items())):
        bad |= dict(theirs)
    _check_bad(dataset, todo, bad, settings)
    return {int(todo[i]): reason for i, reason in sorted(bad.items())}


def _check_bad(dataset: Dataset, todo: np.ndarray, bad: dict[int, str], settings: Settings) -> None:
    if len(bad) > settings.max_bad * len(dataset) or len(bad) == len(dataset):
        met = {int(todo[i]): reason for i, reason in bad.items()}
        raise TooManyBadFiles(describe_bad(dataset, met, settings.max_bad))


@torch.inference_mode()
def activations(classifier: Classifier, pixels: Tensor, wanted: Description, mp: Axis) -> Tensor:
    """Float32 (b, ...) of uint8 (b, 256, 256, 3): the whole layer, of which each rank along `mp` computes a part."""
    total: Tensor | None = None
    with _full_precision():
        for top, left, mirror in views_of(wanted.views, classifier.treatment.crop):
            images = classifier.treatment.apply(pixels, top, left, mirror)
            x = next(x for name, x in classifier.model.layers(images) if name == wanted.layer)  # and nothing after it
            x = x.mean((2, 3)) if wanted.pool == "mean" and x.ndim == 4 else x
            total = x if total is None else total + x
    assert total is not None
    mean = total / wanted.views
    return mean if wanted.layer == "fc8" else torch.cat(tuple(mp.gather(mean)), 1)  # the towers share their logits


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32, which GPUs use for convolutions and which rounds by kernels that the batch size chooses."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def _stored(values: Tensor, wanted: Description) -> np.ndarray:
    """As they are written; UserError where a number is not finite."""
    stored = values.to(getattr(torch, wanted.dtype))
    if not stored.isfinite().all():
        remedy = "float16 ends at 65504: use float32." if values.isfinite().all() else "This network has diverged."
        raise UserError(f"Some activations of {wanted.layer} are not finite in {wanted.dtype}. {remedy}")
    return stored.contiguous().cpu().numpy()
