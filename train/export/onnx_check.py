"""onnxruntime beside our own network, on the same images: a graph is written only if both give the same logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipeline.errors import UserError
from ...pipeline.geometry import SHORT_SIDE, centred
from ...pipeline.optional import optional
from ...pipeline.treatment import Treatment
from ..network.model import AlexNet
from .onnx_graph import IMAGES, LOGITS, Given

NUM_IMAGES, BATCH = 100, 40  # the last batch is a smaller one
TOLERANCE = 1e-4  # of logits, or of the largest one where that is above 1


@dataclass(frozen=True)
class Agreement:
    """How near onnxruntime's logits are to ours."""

    num_images: int
    largest_difference: float  # of any logit
    largest_logit: float  # ours
    same_top5: int  # images whose five best classes are the same, in the same order

    @property
    def close(self) -> bool:
        """Whether they differ by rounding alone. The five best classes then differ only where two are as good."""
        return self.largest_difference <= TOLERANCE * max(1, self.largest_logit)


def require_agreement(onnx_file: bytes, model: AlexNet, treatment: Treatment, given: Given) -> Agreement:
    """Compare a graph with the network on drawn images; UserError if they differ by more than rounding."""
    found = compare(onnx_file, model, treatment, given, drawn_squares(NUM_IMAGES))
    if not found.close:
        raise UserError(
            f"onnxruntime computes other logits than this network, by up to {found.largest_difference:.2g} where "
            f"{TOLERANCE:g} is allowed, so nothing was written. Try another version of onnxruntime, or --no-check."
        )
    return found


@torch.inference_mode()
def compare(
    onnx_file: bytes, model: AlexNet, treatment: Treatment, given: Given, squares: Tensor, batch_size: int = BATCH
) -> Agreement:
    """Compare both on the centres of `squares`, uint8 (n, 256, 256, 3), batch by batch."""
    session = start_session(onnx_file)
    middle = centred(treatment.crop)
    ours, theirs = [], []
    for batch in squares.split(batch_size):
        treated = treatment.apply(batch, middle, middle, False)
        crops = batch[:, middle : middle + treatment.crop, middle : middle + treatment.crop]
        images = crops if given == "uint8" else treated
        ours.append(model(treated))
        theirs.append(torch.from_numpy(session.run([LOGITS], {IMAGES: images.contiguous().numpy()})[0]))
    one, other = torch.cat(ours), torch.cat(theirs)
    top = min(5, one.shape[1])
    same = (one.topk(top).indices == other.topk(top).indices).all(dim=1)
    return Agreement(len(squares), float((one - other).abs().max()), float(one.abs().max()), int(same.sum()))


def start_session(onnx_file: bytes) -> Any:
    """Load a graph into onnxruntime, on the CPU, with as many threads as torch has."""
    runtime = optional("onnxruntime", "The check of what was exported, which --no-check leaves out,", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])


def drawn_squares(num: int) -> Tensor:
    """Draw images as smooth as photographs, with some grain: uint8 (num, 256, 256, 3), the same ones each time."""
    rng = np.random.default_rng(2012)
    coarse = torch.from_numpy(rng.uniform(0, 255, (num, 3, 8, 8)).astype(np.float32))
    smooth = F.interpolate(coarse, size=(SHORT_SIDE, SHORT_SIDE), mode="bilinear")
    grain = torch.from_numpy(rng.standard_normal((num, 1, SHORT_SIDE, SHORT_SIDE), np.float32))
    return (smooth + 10 * grain).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
