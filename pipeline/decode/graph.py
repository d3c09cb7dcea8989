"""The DALI graphs. A graph knows no files, ranks or epochs: everything it needs comes in as arguments.

    encoded bytes -> decode the region -> resample once -> mirror, subtract, light -> float (crop, crop, 3)  training
    encoded bytes -> decode the region -> resample once -> uint8 (256, 256, 3)                              evaluation
    encoded bytes -> decode the region -> uint8 (h, w, 3)                                       either, on the CPU
    encoded bytes -> decode -> uint8 (H, W, 3)                                                  whole images

On the CPU DALI only decodes (libjpeg-turbo), and `resample.py` does the rest; on a GPU (`mixed`: the JPEG engines and
CUDA) DALI does everything. Every graph builds for both devices, so that tests can compare them. Inputs come from
`source`, a function of `stream.py` that returns the next batch of each of the `*_INPUTS`, in that order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .settings import HW_DECODER_LOAD, Decode

# `stream.py` names bad images, so the decoders' own messages are silenced. DALI reads both variables when it loads.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("DALI_NVIMGCODEC_LOG_LEVEL", "1")

from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from ..geometry import CROP, SHORT_SIDE

IMAGE_INPUTS = ("encoded",)
REGION_INPUTS = (*IMAGE_INPUTS, "start", "end")
SQUARE_INPUTS = (*REGION_INPUTS, "low", "high")
TRAIN_INPUTS = (*SQUARE_INPUTS, "mirror", "shift")

Source = Callable[[], tuple[Any, ...]]  # raises StopIteration after the last batch


def new_pipeline(batch_size: int, threads: int, device_id: int | None, prefetch: int) -> Pipeline:
    return Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        exec_dynamic=True,
        seed=0,  # irrelevant: the plan draws, no operator here does
    )


def train_graph(
    pipeline: Pipeline,
    source: Source,
    *,
    decode: Decode,
    mean: NDArray[np.float32],
    divisor: NDArray[np.float32],
    half: bool,
    crop: int = CROP,
    hw_decoder_load: float = HW_DECODER_LOAD,
) -> None:
    """Output images (crop, crop, 3), float16 if `half` else float32: (x + shift - mean) / divisor.

    `mean` is the mean image (crop, crop, 3) or a colour (3,), `divisor` is (3,), all in grey levels. Input `shift`
    (3,) is the image's own lighting: it rides on the normalisation, so it costs no pass of its own. `mirror` is
    int32 ().
    """
    on_gpu = pipeline.device_id is not None
    inputs = _inputs(TRAIN_INPUTS, source)
    pixels = _resample(_decode_region(inputs, decode, on_gpu, hw_decoder_load), inputs, crop)
    colour = mean if mean.ndim == 1 else np.zeros(3, np.float32)
    images = fn.crop_mirror_normalize(
        pixels,
        mirror=inputs["mirror"],
        mean=types.Constant(colour) - inputs["shift"],
        std=divisor.tolist(),
        dtype=types.FLOAT16 if half and mean.ndim == 1 else types.FLOAT,
        output_layout="HWC",
    )
    if mean.ndim == 3:
        images = images - types.Constant(mean / divisor, device="gpu" if on_gpu else "cpu")
        images = fn.cast(images, dtype=types.FLOAT16) if half else images
    pipeline.set_outputs(images)


def square_graph(
    pipeline: Pipeline, source: Source, *, decode: Decode, hw_decoder_load: float = HW_DECODER_LOAD
) -> None:
    """Output the central squares, uint8 (256, 256, 3)."""
    inputs = _inputs(SQUARE_INPUTS, source)
    region = _decode_region(inputs, decode, pipeline.device_id is not None, hw_decoder_load)
    pipeline.set_outputs(_resample(region, inputs, SHORT_SIDE))


def image_graph(
    pipeline: Pipeline, source: Source, *, decode: Decode, hw_decoder_load: float = HW_DECODER_LOAD
) -> None:
    """Output whole images, uint8 (H, W, 3)."""
    (encoded,) = _inputs(IMAGE_INPUTS, source).values()
    if decode != "raw":
        encoded = fn.decoders.image(
            encoded, **_decoder_options(decode, pipeline.device_id is not None, hw_decoder_load)
        )
    pipeline.set_outputs(encoded)


def region_graph(
    pipeline: Pipeline, source: Source, *, decode: Decode, hw_decoder_load: float = HW_DECODER_LOAD
) -> None:
    """Output the region of each image that its crop needs, uint8 (h, w, 3)."""
    inputs = _inputs(REGION_INPUTS, source)
    pipeline.set_outputs(_decode_region(inputs, decode, pipeline.device_id is not None, hw_decoder_load))


def _inputs(names: tuple[str, ...], source: Source) -> dict[str, Any]:
    """The graph's inputs by name. DALI copies no array of the source: none may change until its batch is out."""
    nodes = fn.external_source(source=source, num_outputs=len(names), no_copy=True)
    return dict(zip(names, nodes, strict=True))


def _decoder_options(decode: Decode, on_gpu: bool, hw_decoder_load: float) -> dict[str, Any]:
    """`exact` decodes as libjpeg, Pillow and torchvision do. EXIF rotation is ignored, as by the authors."""
    exact = decode == "exact"
    options: dict[str, Any] = {"adjust_orientation": False, "jpeg_fancy_upsampling": exact, "use_fast_idct": not exact}
    return options | ({"device": "mixed", "hw_decoder_load": hw_decoder_load} if on_gpu else {"device": "cpu"})


def _decode_region(inputs: dict[str, Any], decode: Decode, on_gpu: bool, hw_decoder_load: float) -> Any:
    if decode == "raw":
        pixels = fn.reshape(inputs["encoded"].gpu() if on_gpu else inputs["encoded"], layout="HWC")
        return fn.slice(pixels, start=inputs["start"], end=inputs["end"], axes=[0, 1])
    options = _decoder_options(decode, on_gpu, hw_decoder_load)
    if on_gpu and decode == "exact":
        # nvJPEG before 13.2 refuses regions with smooth upsampling, and a CPU decodes them without a word: docs/gpu.md
        pixels = fn.decoders.image(inputs["encoded"], **options)
        return fn.slice(pixels, start=inputs["start"], end=inputs["end"], axes=[0, 1])
    return fn.decoders.image_slice(inputs["encoded"], start=inputs["start"], end=inputs["end"], axes=[0, 1], **options)


def _resample(region: Any, inputs: dict[str, Any], size: int) -> Any:
    return fn.resize(
        region,
        size=[size, size],
        roi_start=inputs["low"],
        roi_end=inputs["high"],
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
