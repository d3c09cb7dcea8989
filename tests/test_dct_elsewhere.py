"""Kernels that this processor may lack: ARM's, compiled and run if the tools are here, and AVX-512's, emulated."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from coefficients import random_image

from alexnet.pipeline.decode.dct import decode_dct, num_kernels
from alexnet.pipeline.decode.transcode import __file__ as transcode_py

HARNESS = Path(__file__).with_name("decode_elsewhere.c")
ARM = "aarch64-linux-gnu-gcc"
needs_arm_compiler = pytest.mark.skipif(shutil.which(ARM) is None, reason="no compiler for ARM")


def build(command: str, target: Path) -> None:
    options = f"-O2 -Wall -Wextra -Wno-unused-function -Werror -o {target} {HARNESS}"
    subprocess.run([*command.split(), *options.split()], check=True)


def check(run: list[str], folder: Path) -> None:
    """The pixels of some images, among them blocks of two bytes a value and blocks of DC alone, are ours."""
    for factor in (1, 2):
        for number, (largest, density) in enumerate([(100, 0.1), (2000, 0.5), (8191, 1.0), (8191, 0.02), (300, 0.0)]):
            data = random_image(np.random.default_rng(number), factor, largest, density)
            (folder / "image").write_bytes(data)
            subprocess.run([*run, folder / "image", folder / "pixels"], check=True)
            wanted = decode_dct(np.frombuffer(data, np.uint8), kernels=0)
            assert (folder / "pixels").read_bytes() == wanted.tobytes()


@pytest.mark.skipif(platform.machine() != "x86_64" or num_kernels() < 2, reason="no AVX2")
def test_avx512_as_intel_describes_it(tmp_path: Path) -> None:
    build("gcc -DEMULATED_AVX512", tmp_path / "decode")
    check([str(tmp_path / "decode")], tmp_path)


@needs_arm_compiler
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="no emulator of ARM")
def test_neon_under_an_emulator(tmp_path: Path) -> None:
    build(f"{ARM} -static", tmp_path / "decode")
    check(["qemu-aarch64", str(tmp_path / "decode")], tmp_path)


@needs_arm_compiler
@pytest.mark.parametrize("source", ["dct", "transcode", "resample", "jpeg"])
def test_compiles_for_arm(source: str, tmp_path: Path) -> None:
    path = Path(transcode_py).with_name(f"{source}.c")
    command = f"{ARM} -O3 -Wall -Werror -shared -fPIC -o {tmp_path / 'out.so'} {path}"
    subprocess.run(command.split(), check=True)
