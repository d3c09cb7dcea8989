"""The Triton kernels against `dct.c`: interpreted, compiled for GPUs without one, and on a device."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet.pipeline.decode.dct_gpu import GpuCropper
from alexnet.pipeline.errors import UserError

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

CHECKS = """
from dataclasses import replace
import numpy as np
import torch
from triton.runtime import interpreter
from coefficients import PICTURES, jpeg, picture, random_image
from alexnet.pipeline.decode.dct import DctCropper, decode_dct
from alexnet.pipeline.decode.dct_gpu import GpuCropper
from alexnet.pipeline.decode.dct_triton import decode_crops
from alexnet.pipeline.decode.transcode import jpeg_to_dct

device, whole = torch.device("{device}"), {whole}
rng = np.random.default_rng(0)
if device.type == "cpu":  # sums are meant to overflow, and looking for it takes half of the time
    interpreting = interpreter.interpreter_builder
    interpreting.options = replace(interpreting.options, sanitize_overflow=False)

def to_device(array):
    return torch.from_numpy(array).to(device)

def check_levels(images, size, corners=None):
    # Crops of images of several sizes, uint8, against the same part of all pixels.
    images = [np.frombuffer(bytes(image), np.uint8) for image in images]
    wholes, mirror = [decode_dct(image) for image in images], rng.integers(0, 2, len(images), dtype=np.int32)
    room = [np.array(pixels.shape[:2]) - size for pixels in wholes]
    corners = np.array(corners or [rng.integers(0, most + 1) for most in room], np.int32)
    held = [to_device(image.copy()) for image in images]
    addresses = to_device(np.array([image.data_ptr() for image in held]))
    out = torch.zeros((len(images), size, size, 3), dtype=torch.uint8, device=device)
    shift, factor = torch.zeros((len(images), 3), device=device), torch.ones(3, device=device)
    widest = max(pixels.shape[1] for pixels in wholes)
    decode_crops(addresses, to_device(corners), to_device(mirror), shift, None, factor, out, widest=widest)
    for pixels, (y, x), turn, found in zip(wholes, corners, mirror, out.cpu().numpy()):
        expected = pixels[y : y + size, x : x + size]
        assert np.array_equal(expected[:, ::-1] if turn else expected, found)

def of_quality(quality, kind, chroma, shape=(32, 48)):
    return jpeg_to_dct(jpeg(picture(kind, *shape, quality), quality=quality, subsampling=chroma))

# Every kind of picture over the qualities, in both chromas.
kinds = [PICTURES[i % len(PICTURES)] for i in range(100)]
qualities = range(1, 101) if whole else (1, 2, 5, 13, 50, 76, 90, 98, 99, 100)
check_levels([of_quality(q, kinds[q - 1], c) for q in qualities for c in ("4:4:4", "4:2:0")], 24)

# Every corner of an image's border, odd and even; of all of it, and of a size that is no multiple of a block.
for size, side in ((17, 32), (256, 256))[: 1 + whole]:
    edges = sorted({(y, x) for y in (0, 1, side - size - 1, side - size) for x in (0, side - size) if y >= 0})
    noise = [of_quality(90, "noise", chroma, (side, side)) for chroma in ("4:4:4", "4:2:0") for _ in edges]
    check_levels(noise, size, 2 * edges)

# Blocks that no picture has: wide values, sums that wrap, all or no coefficients; and images of several sizes.
for size in (8, 15)[: 1 + whole]:
    check_levels([random_image(rng, 1 + (size > 8 or i % 2), largest, density) for i, (largest, density) in enumerate(
        (a, b) for a in (100, 2000, 40_000, 255 * 1023) for b in (0.0, 0.02, 0.3, 1.0))], size)

# As the loader asks: treated, from the host and from the device at once.
size = 224 if whole else 16
images = [np.frombuffer(bytes(of_quality(80, "smooth", c, (256, 256) if whole else (32, 32))), np.uint8)
          for c in ("4:2:0", "4:4:4", "4:2:0")]
inputs = {"low": np.array([[3, 5], [16, 0], [0, 11]], np.float32), "mirror": np.array([1, 0, 0]),
          "shift": rng.normal(0, 20, (3, 3)).astype(np.float32)}
how = rng.uniform(0, 255, (size, size, 3)).astype(np.float32), np.array([1.1, 2, 58.4], np.float32)
for half in (False, True) if whole else (True,):
    with GpuCropper(size, device, *how, half) as ours, DctCropper(size, 1, *how) as theirs:
        found = ours.start([images[0], to_device(images[1].copy()), images[2]], inputs)()
        expected = torch.from_numpy(theirs.start(images, inputs)())
        assert torch.equal(found.cpu(), expected.half() if half else expected)
        assert ours.start([], {"low": np.zeros((0, 2))})().shape == (0, size, size, 3)
"""


def run(program: str, **environment: str) -> None:
    """In a process of its own: Triton is told when it is imported whether to interpret."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-c", program]
    environment = os.environ | {"PYTHONPATH": paths} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@needs_triton
def test_interpreted_kernels_give_the_pixels_of_c() -> None:
    run(CHECKS.replace("{device}", "cpu").replace("{whole}", "False"), TRITON_INTERPRET="1")


@pytest.mark.gpu
@needs_triton
def test_kernels_on_the_device_give_the_pixels_of_c() -> None:
    run(CHECKS.replace("{device}", "cuda").replace("{whole}", "True"))


COMPILES = """
import re
import subprocess
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from alexnet.pipeline.decode.dct_triton import PIXELS, ROWS, blocks_to_planes, planes_to_pixels

TYPES = {"images_ptr": "*i64", "corners_ptr": "*i32", "mirror_ptr": "*i32", "num_images": "i32"}

def check(kernel, warps, types, **constants):
    names, types = kernel.arg_names, TYPES | types
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = triton.compiler.ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()}, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=warps))
    assert made.metadata.shared <= 8 * 1024
    Path("kernel.cubin").write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "--dump-resource-usage", "kernel.cubin"], capture_output=True, text=True, check=True)
    assert re.findall(r"STACK:(\\d+)", usage.stdout) == ["0"], usage.stdout

check(blocks_to_planes, 1, {"planes_ptr": "*i32"}, SIZE=224, SPAN=30, ROWS=ROWS, ACROSS=32)
types = {"planes_ptr": "*u8", "out_ptr": "*fp16"}
check(planes_to_pixels, 4, types, SIZE=224, SPAN=30, PIXELS=PIXELS, TREATED=True)
"""


@needs_triton
def test_kernels_compile_for_hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code that keeps everything in registers, which takes no GPU."""
    monkeypatch.chdir(tmp_path)
    run(COMPILES, TRITON_CACHE_DIR=str(tmp_path))


def test_without_triton_only_its_use_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "triton", missing)
    monkeypatch.delitem(sys.modules, "alexnet.pipeline.decode.dct_triton", raising=False)
    with pytest.raises(UserError, match=r"Triton, which is not installed.*--device cpu"):
        GpuCropper(224, torch.device("cpu"))
