"""Damaged images by the thousand, each through both kinds of stream: skipped or decoded, never a crash or a hang.

    python tests/fuzz.py --rounds 2000

Round k writes the same images on every machine: good ones, and mutants of every format between them. A child process
goes through the rounds; one that dies or hangs is named, and its mutants are tried one by one. In every round the
good images must come out as they are alone, each with its own label, and every mutant must be decoded or be bad, alike
as a whole and as a square, and with Pillow's pixels where Pillow can.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from alexnet.pipeline.dataset.images import Dataset
    from alexnet.pipeline.decode.settings import Settings

NUM_GOOD, NUM_MUTANTS, BATCH = 3, 21, 8
SECONDS_A_ROUND = 60.0  # more is a hang
FORMATS = ("PNG", "BMP", "WEBP")
JPEGS: tuple[dict[str, Any], ...] = (
    {},
    {"progressive": True},
    {"mode": "L"},
    {"mode": "CMYK"},
    {"subsampling": "4:4:4"},
    {"subsampling": "4:1:1"},
    {"restart_marker_blocks": 3},
    {"exif": b"Exif\0\0MM\0*\0\0\0\x08" + bytes(20)},
    {"quality": 100},
)
END = b"\xff\xd9"  # of a JPEG
REFUSED = ("TIFF", "JPEG2000", "PPM")

Random = np.random.Generator
Mutation = Callable[[bytearray, Random], bytearray]


# -- images ------------------------------------------------------------------------------------------------


@cache
def seeds() -> list[bytes]:
    """Whole images, most of them JPEGs, and some of formats that are to be refused."""
    others = [_encode(i, name) for i, name in enumerate((*FORMATS, *REFUSED))]
    return [_encode(i, "JPEG", **JPEGS[i % len(JPEGS)]) for i in range(2 * len(JPEGS))] + others


def _encode(number: int, format: str, *, mode: str = "RGB", **options: object) -> bytes:
    rng = np.random.default_rng(number)
    height, width = (int(n) for n in rng.integers(20, 200, 2))
    picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def _segments(data: bytearray) -> list[tuple[int, int]]:
    """(start, end) of each JPEG marker segment up to the first scan's data; of others, parts of the header."""
    if data[:2] != b"\xff\xd8":
        return [(start, min(end, len(data))) for start, end in ((0, 12), (12, 24), (24, 90)) if start + 4 < len(data)]
    found, at = [], 2
    while at + 4 < len(data) and data[at] == 0xFF:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((at, min(end, len(data))))
        if data[at + 1] == 0xDA:
            break
        at = end
    return found or [(0, min(20, len(data)))]


def _header_byte(data: bytearray, rng: Random) -> bytearray:
    start, end = _pick(_segments(data), rng)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(start, max(end, start + 1))] = _pick(
            [0, 1, 2, 3, 17, 127, 128, 255, int(rng.integers(256))], rng
        )
    return data


def _any_byte(data: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return data


def _marker(data: bytearray, rng: Random) -> bytearray:
    """Another marker, a length that lies, or both."""
    start, _ = _pick(_segments(data), rng)
    if rng.integers(2):
        data[start + 1] = rng.integers(0xC0, 0x100)
    if rng.integers(2):
        data[start + 2 : start + 4] = int(_pick([0, 1, 2, 3, 8, 0x7FFF, 0xFFFF], rng)).to_bytes(2, "big")
    return data


def _frame(data: bytearray, rng: Random) -> bytearray:
    """Sizes, number of components, sampling factors and tables of a JPEG's frame and scan."""
    for start, end in _segments(data):
        if data[start + 1] in (0xC0, 0xC1, 0xC2, 0xDA) and rng.integers(2):
            at = int(rng.integers(start + 4, max(end, start + 5)))
            data[at] = _pick([0, 1, 2, 3, 4, 5, 0x11, 0x12, 0x21, 0x22, 0x41, 0x44, 0xF1, 0xFF], rng)
    return data


def _double(data: bytearray, rng: Random) -> bytearray:
    """A segment twice, left out, or moved to another place."""
    parts = _segments(data)
    start, end = _pick(parts, rng)
    segment, where = data[start:end], _pick(parts, rng)[0]
    if rng.integers(2):
        del data[start:end]
    return data if rng.integers(3) == 0 else data[:where] + segment + data[where:]


def _splice(data: bytearray, rng: Random) -> bytearray:
    """The head of one image and the tail of another."""
    other = _pick(seeds(), rng)
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def _cut(data: bytearray, rng: Random) -> bytearray:
    kept = data[: rng.integers(len(data) + 1)]
    return kept + _pick([b"", END, b"\xff\xda" + END, bytes(100)], rng)


def _junk_inside(data: bytearray, rng: Random) -> bytearray:
    at = int(rng.integers(len(data)))
    data[at : at + int(rng.integers(50))] = rng.bytes(int(rng.integers(50)))
    return data


def _disorder(data: bytearray, rng: Random) -> bytearray:
    """Junk between segments, a length off by one, restarts and fill in the header, tables on their own before it."""
    start, end = _pick(_segments(data), rng)
    if rng.integers(2):
        junk = _pick([b"abc", bytes(5), b"\xff\0", b"\xff\xd3", b"\xff\xff", b"\xff\x01", b"\xff\xd8", END], rng)
        return data[:start] + junk + data[start:]
    if rng.integers(2):
        length = int.from_bytes(data[start + 2 : start + 4], "big") + int(_pick([-1, 1], rng))
        data[start + 2 : start + 4] = (length % 65536).to_bytes(2, "big")
        return data
    return data[:2] + data[start:end] + END + data


def _after_the_end(data: bytearray, rng: Random) -> bytearray:
    other = _pick(seeds(), rng)
    cut = other[: rng.integers(len(other))]
    return data + _pick([bytes(9), b"\xff\xda", END, b"\xff\xda" + END, b"PK\3\4" + END, other, cut], rng)


MUTATIONS: tuple[Mutation, ...] = (
    _header_byte,
    _header_byte,
    _any_byte,
    _marker,
    _frame,
    _frame,
    _double,
    _splice,
    _cut,
    _junk_inside,
    _disorder,
    _after_the_end,
)


def _pick(choices: Sequence[Any], rng: Random) -> Any:
    return choices[int(rng.integers(len(choices)))]


def mutant(rng: Random) -> bytes:
    data = bytearray(_pick(seeds(), rng))
    for _ in range(int(rng.integers(1, 4))):
        if len(data) > 8:
            data = _pick(MUTATIONS, rng)(data, rng)
    return _mended(bytes(data)) if rng.integers(2) else bytes(data)


def _mended(data: bytes) -> bytes:
    """A PNG's checksums made right, so that its damage is not found by them."""
    parts, at = [data[:8]], 8
    if not data.startswith(b"\x89PNG"):
        return data
    while (end := at + 12 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
        parts.append(data[at : end - 4] + zlib.crc32(data[at + 4 : end - 4]).to_bytes(4, "big"))
        at = end
    return b"".join([*parts, data[at:]])


def images_of(round_number: int) -> tuple[list[bytes], list[int]]:
    """The images of a round, and which of them are good."""
    rng = np.random.default_rng([2012, round_number])
    good = sorted(rng.choice(NUM_GOOD + NUM_MUTANTS, NUM_GOOD, replace=False).tolist())
    images = [mutant(rng) for _ in range(NUM_GOOD + NUM_MUTANTS)]
    for i in good:
        images[i] = _pick(seeds()[: -len(REFUSED)], rng)
    return images, good


# -- one round ---------------------------------------------------------------------------------------------


def check(folder: Path, images: Sequence[bytes], good: Sequence[int]) -> int:
    """Both kinds of stream over these images, of which one at least is good; returns how many were bad."""
    from alexnet.pipeline.dataset.images import Listing
    from alexnet.pipeline.decode.settings import Settings
    from alexnet.pipeline.loader import Loader
    from alexnet.pipeline.treatment import Treatment

    listing = Listing()
    for i, content in enumerate(images):
        (folder / f"{i}.JPEG").write_bytes(content)
        listing.add(f"{i}.JPEG", i, len(content))
    dataset = listing.dataset(folder, "train", (str(i) for i in range(len(images))))
    how = Settings(threads=1, readers=2, max_pixels=1_000_000, max_bad=1.0)
    found, bad = _squares(dataset, range(len(images)), how)
    assert not set(good) & set(bad), {i: bad[i] for i in set(good) & set(bad)}
    _check_whole(dataset, images, set(bad), how)
    again, _ = _squares(dataset, range(len(images))[::-1], how)
    assert again.keys() == found.keys(), "images were refused once only"
    for i, pixels in found.items():
        assert np.array_equal(pixels, again[i]), f"image {i} has other pixels the second time"
    for i in good:
        assert np.array_equal(found[i], _squares(dataset, [i], how)[0][i]), f"image {i} has another's pixels"
    loader = Loader(
        dataset,
        Treatment(mean=np.zeros(3, np.float32)),
        settings=how,
        seed=0,
        batch_size=min(BATCH, len(images)),
        random_crop=False,
        random_flip=False,
    )
    for batch in loader:
        assert batch.labels.tolist() == batch.indices.tolist(), "a label of another image"
        assert bool(batch.images.isfinite().all())
        for image, i in zip(batch.images.permute(0, 2, 3, 1).numpy(), batch.indices.tolist(), strict=True):
            off = np.abs(image - found[i][16:240, 16:240].astype(np.float32)) if i in good else np.zeros(1)
            assert off.max() <= 1.01, f"image {i} has another's pixels in training"
    return len(bad)


def _check_whole(dataset: Dataset, images: Sequence[bytes], bad: set[int], how: Settings) -> None:
    """Decoded whole, the same images are bad, and the others have Pillow's pixels."""
    from alexnet.pipeline.squares import full_images

    found: dict[int, Any] = {}
    for part in full_images(dataset, np.arange(len(images)), batch_size=BATCH, settings=how):
        found |= {i: pixels.copy() for i, pixels in zip(part.indices.tolist(), part.pixels, strict=True)}
    assert bad == set(range(len(images))) - found.keys(), "the whole of an image is judged otherwise than its square"
    for i, pixels in found.items():
        plain = _pillow(images[i])
        assert plain is None or np.array_equal(pixels, plain), f"image {i} has other pixels than Pillow's"


def _pillow(image: bytes) -> Any:
    """Its pixels, uint8 (H, W, 3), or None: Pillow reads some headers more strictly than libjpeg."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


def _squares(dataset: Dataset, indices: Sequence[int], how: Settings) -> tuple[dict[int, Any], dict[int, str]]:
    """Every image's pixels, uint8 (256, 256, 3), or what is wrong with it."""
    from alexnet.pipeline.squares import squares

    found: dict[int, Any] = {}
    bad: dict[int, str] = {}
    for part in squares(dataset, np.array(indices), batch_size=BATCH, settings=how, bad=bad):
        found |= dict(zip(part.indices.tolist(), part.pixels.numpy().copy(), strict=True))
    assert sorted([*found, *bad]) == sorted(indices), "an image was lost, or came twice"
    return found, bad


def go_through(first: int, last: int, only: int | None) -> None:
    """Rounds `first` to `last`, each announced before it begins; or one image of one round, with a good one."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            faulthandler.dump_traceback_later(SECONDS_A_ROUND, exit=True)
            images, good = images_of(number)
            print(number, flush=True)
            if only is None:
                print("bad", check(Path(folder), images, good), flush=True)
            else:
                check(Path(folder), [images[only], images[good[0]]], [1])


# -- all rounds, in processes that may die -----------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How far a child process came, how many images were bad on the way, and what ended it, or nothing."""

    last_round: int
    bad: int
    problem: str


def in_a_child(first: int, last: int, only: int | None = None) -> Outcome:
    command = [sys.executable, "-X", "faulthandler", __file__, "--child", str(first), str(last), str(only)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = done.stdout.splitlines()
    bad = sum(int(line.split()[1]) for line in lines if line.startswith("bad"))
    rounds = [int(line) for line in lines if not line.startswith("bad")]
    said = [line for line in done.stderr.splitlines() if not line.startswith(("Bad image", "[", " "))]
    problem = "\n".join([f"exit code {done.returncode}", *said[-15:]]) if done.returncode else ""
    return Outcome(rounds[-1] if rounds else first, bad, problem)


def culprits(number: int) -> list[int]:
    """The mutants of a round that fail alone; empty where only several together do."""
    images, good = images_of(number)
    return [i for i in range(len(images)) if i not in good and in_a_child(number, number + 1, i).problem]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="a folder for mutants that were too much")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        first, last, only = options.child
        go_through(int(first), int(last), None if only == "None" else int(only))
        return
    at, last, bad, failures = options.first, options.first + options.rounds, 0, 0
    started = time.monotonic()
    while at < last:
        outcome = in_a_child(at, min(at + 50, last))
        bad += outcome.bad
        if not outcome.problem:
            at = min(at + 50, last)
            print(f"{at - options.first} rounds, {bad} bad images, {time.monotonic() - started:.0f} s", flush=True)
            continue
        failures += 1
        which = culprits(outcome.last_round)
        print(f"round {outcome.last_round}, mutants {which}: {outcome.problem}", flush=True)
        for i in which if options.keep else ():
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{outcome.last_round}-{i}").write_bytes(images_of(outcome.last_round)[0][i])
        at = outcome.last_round + 1
    print(f"{options.rounds} rounds of {NUM_MUTANTS} mutants: {bad} bad, {failures} failures")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
