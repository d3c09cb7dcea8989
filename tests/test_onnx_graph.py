"""A graph of ONNX computes what the network does, layer by layer, with every switch; onnxruntime runs it."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import small

from alexnet.pipeline.errors import UserError
from alexnet.pipeline.treatment import Treatment
from alexnet.train.config import Config
from alexnet.train.export.onnx_check import compare, drawn_squares
from alexnet.train.export.onnx_graph import build_onnx
from alexnet.train.network.model import AlexNet

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("paper", {}),
    ("original", {}),
    ("caffe", {}),
    ("owt", {"conv1_padding": (1, 2, 0, 5)}),
    ("one-gpu", {"crop": 227}),
    ("conv6", {"lrn_size": 7}),
    ("paper", {"lrn": False, "cross_talk": False, "activation": "tanh"}),
    ("paper", {"without": ("conv2", "conv4"), "overlapping_pooling": False, "dropout": 0.25}),
    ("original", {"lrn_alpha": 0.05, "lrn_beta": 0.6, "activation": "tanh"}),
]


@pytest.mark.parametrize("given", ["uint8", "float"])
@pytest.mark.parametrize(("preset", "changes"), VARIANTS)
def test_onnxruntime_computes_every_activation(preset: str, changes: dict[str, Any], given: Any) -> None:
    """Each has its name and values, of batches of any size; ours are of plain layers."""
    model = small(preset, **changes)
    crop = model.config.crop
    rng = np.random.default_rng(0)
    treatment = Treatment(
        mean=rng.uniform(80, 140, (crop, crop, 3)).astype(np.float32),
        divisor=np.array([1, 2, 0.5], np.float32),
        crop=crop,
    )
    graph = onnx.load_from_string(build_onnx(model, treatment, given, {"classes": ["a"]}))
    assert {prop.key for prop in graph.metadata_props} == {"classes", "input"}
    pixels = drawn_squares(3)
    with torch.no_grad():
        images = treatment.apply(pixels, 1, 2, False)
        features = model.forward_features(images)
    names = ["logits" if name == "fc8" else name for name in features]
    made = {name for node in graph.graph.node for name in node.output}
    assert {*names} <= made
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    whole = pixels[:, 1 : 1 + crop, 2 : 2 + crop].contiguous() if given == "uint8" else images.contiguous()
    for batch in (slice(0, 3), slice(2, 3)):
        found = session.run(names, {"images": whole[batch].numpy()})
        for name, array, expected in zip(names, found, features.values(), strict=True):
            atol = max(1e-4 if model.config.activation == "tanh" else 0, 1e-5 * max(1, float(expected.abs().max())))
            np.testing.assert_allclose(array, expected[batch].numpy(), rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("preset", ["paper", "original", "owt"])
def test_the_best_classes_of_100_images_are_the_same(preset: str) -> None:
    model = small(preset)
    crop = model.config.crop
    treatment = Treatment(mean=np.full((crop, crop, 3), 117, np.float32), crop=crop)
    found = compare(build_onnx(model, treatment, "uint8", {}), model, treatment, "uint8", drawn_squares(100))
    assert (found.num_images, found.same_top5) == (100, 100)
    assert found.largest_difference <= 1e-4 * found.largest_logit
    assert found.close


def test_more_than_an_onnx_file_holds() -> None:
    with torch.device("meta"):
        model = AlexNet(Config(width=4), 1000)
    with pytest.raises(UserError, match=r"The weights take 3.7 GB, and an ONNX file holds no more than 2.15 GB"):
        build_onnx(model, Treatment(mean=np.zeros(3, np.float32)), "uint8", {})
