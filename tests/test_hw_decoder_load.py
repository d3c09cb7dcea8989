"""The load of the GPU's JPEG engines reaches every decoder of a GPU graph, and none of a CPU graph."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from graphs import PretendGpu
from nvidia.dali import fn

from alexnet.pipeline.bench.stages import STAGES
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.graph import new_pipeline
from alexnet.pipeline.decode.settings import HW_DECODER_LOAD, Settings
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.squares import full_images, squares
from alexnet.pipeline.treatment import Treatment

SETTINGS = Settings(threads=1, hw_decoder_load=0.3)


class Stopped(Exception):
    """Raised instead of streaming."""


def training(dataset: Dataset) -> Iterator[Any]:
    treatment = Treatment(mean=np.full(3, 100, np.float32))
    yield from Loader(dataset, treatment, batch_size=2, seed=0, settings=SETTINGS)


def decode_stage(dataset: Dataset) -> Iterator[Any]:
    treatment = Treatment(mean=np.full(3, 100, np.float32))
    yield from STAGES["decode"](Loader(dataset, treatment, batch_size=2, seed=0, settings=SETTINGS))


USES: dict[str, Callable[[Dataset], Iterator[Any]]] = {
    "training": training,
    "squares": partial(squares, indices=np.arange(2), batch_size=2, settings=SETTINGS),
    "full images": partial(full_images, indices=np.arange(2), batch_size=2, settings=SETTINGS),
    "decode stage": decode_stage,
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("device_id", [None, 0])
def test_settings_reach_the_decoder(
    noise_tree: Any, monkeypatch: pytest.MonkeyPatch, use: str, device_id: int | None
) -> None:
    built: list[dict[str, Any]] = []  # arguments of each decoder

    def stream(dataset: Dataset, requests: Any, build: Any, *_: Any, **__: Any) -> Any:
        pipeline = new_pipeline(2, 1, None, prefetch=1)
        with pipeline:
            build(PretendGpu(pipeline, device_id), lambda: ())
        raise Stopped

    for name in ("image", "image_slice"):
        original = getattr(fn.decoders, name)

        def spy(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            built.append(kwargs)
            return original(*args, **kwargs)

        monkeypatch.setattr(fn.decoders, name, spy)
    for module in ("loader", "squares", "bench.stages"):
        monkeypatch.setattr(f"alexnet.pipeline.{module}.ImageStream", stream)
    with pytest.raises(Stopped):
        next(iter(USES[use](open_dataset(noise_tree, "train"))))
    (arguments,) = built
    assert arguments["device"] == ("cpu" if device_id is None else "mixed")
    assert arguments.get("hw_decoder_load") == (None if device_id is None else 0.3)


def test_the_default_is_dalis() -> None:
    assert f"hw_decoder_load : float, optional, default = `{HW_DECODER_LOAD}`" in str(fn.decoders.image_slice.__doc__)
