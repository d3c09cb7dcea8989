"""Damaged images of coefficients and JPEGs by the thousand, straight into the compiled code, without the checksum.

    python tests/fuzz_dct.py --rounds 20000
    python tests/fuzz_dct.py --sanitize --rounds 2000    # under gcc's address and undefined-behaviour sanitizers

All kernels of this processor must agree about each image: refused, or the same pixels.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from coefficients import jpeg, mended, picture
from numpy.typing import NDArray

from alexnet.pipeline.decode import dct, transcode
from alexnet.pipeline.decode.bad_images import BadImage

SOURCES = Path(transcode.__file__).parent
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
Random = np.random.Generator


def seed_image(rng: Random) -> tuple[NDArray[np.uint8], bytes]:
    """A sound JPEG, and its coefficients."""
    kind = ("noise", "smooth", "extreme", "flat")[int(rng.integers(4))]
    height, width = (16 * rng.integers(1, 4, 2)).tolist()
    chroma, quality = ("4:4:4", "4:2:0")[int(rng.integers(2))], int(rng.integers(1, 101))
    encoded = jpeg(picture(kind, height, width, int(rng.integers(99))), quality=quality, subsampling=chroma)
    return encoded, transcode.jpeg_to_dct(encoded)


def damage(data: bytes, rng: Random, header: int) -> bytes:
    """Change some bytes, most of them in the header; sometimes cut the end off, or add to it."""
    mutant = bytearray(data)
    for _ in range(int(rng.integers(0, 5))):
        at = int(rng.integers(min(header, len(mutant)) if rng.integers(3) else len(mutant)))
        mutant[at] = int(rng.choice([0, 1, 2, 8, 127, 128, 255, int(rng.integers(256))]))
    cut = int(rng.integers(len(mutant))) if rng.integers(8) == 0 else len(mutant)
    return bytes(mutant[:cut]) + bytes(4 * int(rng.integers(8) == 0))


def decode_all(data: NDArray[np.uint8], rng: Random) -> None:
    """Crops of every size, whatever `check` would say, by every kernel."""
    size = int(rng.integers(1, 40))
    corner = rng.integers(0, 24, 2).astype(np.int32)
    mirror, length = np.array([rng.integers(2)], np.int32), np.array([len(data)])
    address, found = np.array([data.ctypes.data], np.uint64), []
    for kernels in range(dct.num_kernels()):
        out = np.zeros(3 * size * size, np.uint8)
        begin = (array.ctypes.data for array in (address, length, corner, mirror))
        status = dct._library().decode(1, *begin, size, size, None, None, None, kernels, out.ctypes.data)
        found.append((status, out.tobytes() if status == 0 else b""))
    assert all(each == found[0] for each in found)


def go_through(first: int, rounds: int) -> int:
    """Return how many images could be decoded whole."""
    decoded = 0
    for number in range(first, first + rounds):
        rng = np.random.default_rng([13, number])
        encoded, packed = seed_image(rng)
        mutant = damage(packed, rng, header=400)
        if rng.integers(2):
            mutant = mended(mutant + bytes(max(0, 24 - len(mutant))))
        data = np.array(bytearray(mutant), np.uint8)  # memory of its own, which ends where the image ends
        decode_all(data, rng)
        for convert, given in (
            (dct.decode_dct, data),
            (transcode.dct_to_jpeg, data),
            (transcode.jpeg_to_dct, np.array(bytearray(damage(encoded.tobytes(), rng, 700)), np.uint8)),
        ):
            try:
                if len(given):
                    convert(given)
                    decoded += convert is dct.decode_dct
            except BadImage:
                pass
    return decoded


def sanitized(first: int, rounds: int) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, with the code compiled anew under the sanitizers."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("dct", "transcode"):
            target = Path(folder) / f"_{name}.so"
            command = f"gcc -g -O1 {SANITIZERS} -shared -fPIC -o {target} {SOURCES / name}.c"
            subprocess.run(command.split(), check=True)
        runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
        command = f"{sys.executable} {__file__} --first {first} --rounds {rounds} --libraries {folder}"
        environment = {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
        return subprocess.run(
            command.split(), env=os.environ | environment, capture_output=True, text=True, check=False
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--libraries", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sanitize:
        done = sanitized(options.first, options.rounds)
        print(done.stdout + done.stderr[-5000:])
        sys.exit(done.returncode)
    if options.libraries:
        modules: tuple[Any, ...] = (dct, transcode)
        for module in modules:
            module.__file__ = str(options.libraries / Path(module.__file__).name)
    print(f"{options.rounds} rounds: {go_through(options.first, options.rounds)} decoded")


if __name__ == "__main__":
    main()
