"""The network as a graph of ONNX, one node a layer, with our names.

`export.py` writes it once `onnx_check.py` has compared it with the network. torch's own exporter turns the paper's
network into 167 nodes, most of them for the normalisation, which is one operator of ONNX; here it becomes 28. Each
activation has the name that `AlexNet.forward_features` gives it, by which it can be made an output; fc8 is "logits".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...pipeline.errors import UserError
from ...pipeline.optional import optional
from ...pipeline.sizes import as_size
from ...pipeline.treatment import Treatment
from ..config import CONVS
from ..network.lrn import LocalResponseNorm
from ..network.model import AlexNet
from ..network.shapes import CONV_GEOMETRY

Given = Literal["uint8", "float"]
OPSET, IR_VERSION = 17, 8  # of 2022: runtimes of that age and later read it
MAX_BYTES = 2**31 - 2**20  # protocol buffers end at 2 GiB; the rest of the graph takes less than 1 MiB
IMAGES, LOGITS, BATCH = "images", "logits", "N"


def build_onnx(model: AlexNet, treatment: Treatment, given: Given, facts: Mapping[str, Any]) -> bytes:
    """Return the file of a network that takes images as they are `given`, any number at once, and returns logits.

    "uint8" is (N, crop, crop, 3), RGB, which the graph treats first; "float" is (N, 3, crop, crop) treated already.
    Weights become float32. `facts` go into the metadata, as JSON unless they are text.
    """
    num_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    if num_bytes > MAX_BYTES:
        raise UserError(
            f"The weights take {as_size(num_bytes)}, and an ONNX file holds no more than {as_size(MAX_BYTES)}: "
            "choose --to safetensors."
        )
    onnx = optional("onnx", "--to onnx", "export")
    graph = _Graph(onnx, model)
    graph.layers(graph.treated(treatment) if given == "uint8" else IMAGES)
    types, crop = onnx.TensorProto, treatment.crop
    kind, shape = (types.UINT8, (crop, crop, 3)) if given == "uint8" else (types.FLOAT, (3, crop, crop))
    inputs = [onnx.helper.make_tensor_value_info(IMAGES, kind, [BATCH, *shape])]
    outputs = [onnx.helper.make_tensor_value_info(LOGITS, types.FLOAT, [BATCH, model.num_classes])]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "alexnet", inputs, outputs, graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="alexnet",
        producer_version=__version__,
    )
    facts = {**facts, "input": describe_input(treatment, given)}
    onnx.helper.set_model_props(proto, {n: v if isinstance(v, str) else json.dumps(v) for n, v in facts.items()})
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def describe_input(treatment: Treatment, given: Given) -> str:
    """Say what images the graph takes."""
    crop = treatment.crop
    if given == "uint8":
        return f"uint8 (N, {crop}, {crop}, 3), RGB, a {crop}x{crop} crop of an image whose shorter side is 256"
    mean = "mean image" if treatment.mean.ndim == 3 else treatment.mean.round(3).tolist()
    return f"float32 (N, 3, {crop}, {crop}), RGB, (0..255 - {mean}) / {treatment.divisor.round(3).tolist()}"


class _Graph:
    """Nodes and constants. A node is called like the tensor that it makes."""

    def __init__(self, onnx: Any, model: AlexNet) -> None:
        self._onnx, self._model, self._config = onnx, model, model.config
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def treated(self, treatment: Treatment) -> str:
        """What the network sees of uint8 (N, crop, crop, 3), in the order of operations of `Treatment.apply`."""
        x = self._node("Cast", "levels", IMAGES, to=self._onnx.TensorProto.FLOAT)
        x = self._node("Sub", "centred", x, self._constant("mean", treatment.mean))
        if (treatment.divisor != 1).any():
            x = self._node("Div", "scaled", x, self._constant("divisor", treatment.divisor))
        return self._node("Transpose", "treated", x, perm=[0, 3, 1, 2])

    def layers(self, x: str) -> None:
        """The layers of `AlexNet.layers`, in the same order, as at test."""
        config, late = self._config, self._config.lrn_before_activation
        x = self._conv("conv1", x) if late else self._activated("conv1", x, self._conv)
        if config.lrn:
            x = self._response_norm("norm1", x, self._model.norm1)
        x = self._activated("pool1", x, self._pool) if late else self._pool("pool1", x)
        if "conv2" in config.layers:
            x = self._activated("conv2", x, self._conv)
            if config.lrn:
                x = self._response_norm("norm2", x, self._model.norm2)
            if config.lrn and config.spatial_norm:
                x = self._spatial_norm("spatial2", x)
        x = self._pool("pool2", x)
        for name in CONVS[2:]:
            if name in config.layers:
                x = self._activated(name, x, self._conv)
        x = self._pool("pool5", x)
        if config.conv6:
            x = self._activated("conv6", x, self._conv)
        x = self._node("Flatten", "units", x)
        for name in ("fc6", "fc7"):
            x = self._activated(name, x, self._linear)
            if config.dropout_style == "mask" and config.dropout:
                x = self._node("Mul", f"{name}.kept", x, self._constant(f"{name}.keep", 1 - config.dropout))
        self._linear("fc8", x, output=LOGITS)

    def _activated(self, name: str, x: str, layer: Any) -> str:
        before = layer(name, x, output=f"{name}.linear")
        return self._node("Relu" if self._config.activation == "relu" else "Tanh", name, before)

    def _conv(self, name: str, x: str, output: str = "") -> str:
        layer, (kernel, stride, padding) = getattr(self._model, name), CONV_GEOMETRY[name]
        pads = [padding] * 4
        if name == "conv1":
            left, right, top, bottom = self._config.conv1_padding
            pads = [top, left, bottom, right]
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "group": layer.groups}
        return self._node("Conv", output or name, x, *self._parameters(name), **shape)

    def _linear(self, name: str, x: str, output: str = "") -> str:
        groups = getattr(self._model, name).groups

        def part(tower: int, x: str, own: str) -> str:
            return self._node("Gemm", own, x, *self._parameters(name, tower, groups), transB=1)

        return self._by_tower(output or name, x, groups, part)

    def _pool(self, name: str, x: str, output: str = "") -> str:
        kernel = [3 if self._config.overlapping_pooling else 2] * 2
        return self._node("MaxPool", output or name, x, kernel_shape=kernel, strides=[2, 2])

    def _response_norm(self, name: str, x: str, norm: Any) -> str:
        assert isinstance(norm, LocalResponseNorm)
        alpha = norm.alpha * norm.size  # which ONNX divides by the window
        numbers = {"size": norm.size, "alpha": alpha, "beta": norm.beta, "bias": norm.k}
        return self._by_tower(name, x, norm.groups, lambda tower, x, own: self._node("LRN", own, x, **numbers))

    def _spatial_norm(self, name: str, x: str) -> str:
        """`network.lrn.SpatialResponseNorm`."""
        squares = self._node("Mul", f"{name}.squares", x, x)
        window = {"kernel_shape": [5, 5], "pads": [2] * 4, "count_include_pad": 1}
        mean = self._node("AveragePool", f"{name}.mean", squares, **window)
        weighted = self._node("Mul", f"{name}.weighted", mean, self._constant(f"{name}.alpha", 0.001))
        total = self._node("Add", f"{name}.sum", weighted, self._constant(f"{name}.k", 1.0))
        power = self._node("Pow", f"{name}.power", total, self._constant(f"{name}.beta", 0.75))
        return self._node("Div", name, x, power)

    def _by_tower(self, name: str, x: str, towers: int, layer: Any) -> str:
        """Apply a layer to each tower's part of the channels, or of the units, by itself."""
        if towers == 1:
            return layer(0, x, name)
        parts = [f"{name}.tower{tower}.input" for tower in range(towers)]
        self.nodes.append(self._onnx.helper.make_node("Split", [x], parts, name=f"{name}.split", axis=1))
        made = [layer(tower, part, part.removesuffix(".input")) for tower, part in enumerate(parts)]
        return self._node("Concat", name, *made, axis=1)

    def _parameters(self, name: str, tower: int = 0, towers: int = 1) -> list[str]:
        """A layer's weights and biases, or those of one of its towers."""
        layer, suffix = getattr(self._model, name), f".tower{tower}" if towers > 1 else ""
        parts = {kind: layer.get_parameter(kind).detach().chunk(towers)[tower] for kind in ("weight", "bias")}
        return [self._constant(f"{name}.{kind}{suffix}", part.numpy()) for kind, part in parts.items()]

    def _constant(self, name: str, values: NDArray | float) -> str:
        array = np.ascontiguousarray(values, np.float32).reshape(np.shape(values))
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name
