"""Packs of images as they are, and the names by which packs of any kind are split like their originals."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from planting import plant

pytest.importorskip("nvidia.dali")
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.numbers import image_keys
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.dataset.selection import Selection
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import DatasetError, UserError
from alexnet.pipeline.pack import PackOptions, pack

pytestmark = pytest.mark.usefixtures("own_cache")

LENIENT = Settings(threads=2, max_bad=0.5)
COPY = PackOptions(copy=True, images_per_shard=5)
RAW = PackOptions(raw=True)


def image(form: str, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    Image.new(mode, size, tuple(range(len(mode)))).save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


def listed(dataset: Dataset) -> Counter[tuple[str, bytes]]:
    return Counter((dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i in range(len(dataset)))


def packed(source: Path, out: Path, options: PackOptions = COPY) -> Dataset:
    pack(open_dataset(source, "train"), out, options, LENIENT)
    return open_dataset(out, "train")


@pytest.fixture
def formats(tmp_path: Path) -> Path:
    jpeg = image("JPEG")
    files = {
        "a/0.JPEG": jpeg,
        "a/1.JPEG": image("PNG"),  # ImageNet has one of these
        "a/2.jpg": image("JPEG", "CMYK"),
        "b/3.webp": image("WEBP"),
        "b/4.png": image("BMP"),
        "b/5.jpg": jpeg + b"and more",
        "b/cut.jpg": jpeg[:-60],
        "b/large.jpg": image("JPEG", size=(300, 2)),
    }
    return plant(tmp_path / "formats", {f"train/{name}": content for name, content in files.items()})


def test_copies_are_the_files(formats: Path, tmp_path: Path) -> None:
    found = pack(open_dataset(formats, "train"), tmp_path / "out", COPY, LENIENT)
    out = open_dataset(tmp_path / "out", "train")
    files = {path.stem: path for path in (formats / "train").rglob("*.*")}
    assert list(found.bad) == ["train/b/cut.jpg"]
    assert listed(out) == Counter((p.parent.name, p.read_bytes()) for p in files.values() if p.stem != "cut")
    endings = {Path(out.names[i]).stem.partition("-")[2]: Path(out.names[i]).suffix for i in range(len(out))}
    by_content = {"0": ".jpg", "1": ".png", "2": ".jpg", "3": ".webp", "4": ".bmp", "5": ".jpg", "large": ".jpg"}
    assert endings == by_content
    record = json.loads((tmp_path / "out/pack.json").read_text())
    assert (record["copy"], record["quality"], record["chroma"]) == (True, None, None)


def test_images_that_claim_too_many_pixels_are_not_copied(formats: Path, tmp_path: Path) -> None:
    found = pack(
        open_dataset(formats, "train"), tmp_path / "out", COPY, Settings(threads=2, max_bad=1, max_pixels=1000)
    )
    assert found.num_images == 1
    assert "more than --max-pixels 1000" in found.bad["train/a/0.JPEG"]


def test_a_pack_of_copies_is_packed_like_the_originals(tiny_tree: Path, tmp_path: Path) -> None:
    packed(tiny_tree, tmp_path / "copies")
    again = packed(tmp_path / "copies", tmp_path / "again")  # shards of another size, for one
    assert listed(again) == listed(open_dataset(tiny_tree, "train"))
    for options in (RAW, PackOptions(dct=True, quality=80)):
        kind = tmp_path / options.kind
        ours = packed(tmp_path / "copies", kind / "ours", options)
        assert listed(ours) == listed(packed(tiny_tree, kind / "plain", options))
    with pytest.raises(DatasetError, match=r"is a pack without image files, of which --copy has nothing to copy"):
        packed(tmp_path / "raw/ours", tmp_path / "no")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files to be collected
def test_webdataset_reads_copies(tiny_tree: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    dataset = packed(tiny_tree, tmp_path / "out")
    shards = [str(path) for path in dataset.containers]
    found = Counter((int(s["cls"]), s["jpg"]) for s in wds.WebDataset(shards, shardshuffle=False) if "jpg" in s)
    expected = Counter(
        (int(dataset.labels[i]), dataset.read(i).tobytes())
        for i in range(len(dataset))
        if dataset.names[i].endswith(".jpg")
    )
    assert found == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"raw": True}, "--raw and --copy are two kinds of pack: choose one"),
        ({"dct": True}, "--dct and --copy are two kinds of pack: choose one"),
        ({"quality": 80}, "--copy keeps the images as they are: leave out --quality and --chroma"),
        ({"chroma": "420"}, "leave out --quality and --chroma"),
    ],
)
def test_contradictions(options: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        PackOptions(copy=True, **options)  # type: ignore[arg-type]


# -- names -------------------------------------------------------------------------------------------------

ODD = [
    "猫.jpg",
    "犬.jpg",
    "x.y.jpg",
    "long" * 20 + "1.jpg",
    "long" * 20 + "2.jpg",
    "clip/0.jpg",
    "film/0.jpg",
    "plain_1.jpg",
]
PLAIN = [f"{i}.jpg" for i in range(8)]


def keys_of(dataset: Dataset) -> dict[str, bytes]:
    """Each image by its key, which must be its own."""
    keys = image_keys(dataset)
    found = {f"{dataset.classes[dataset.labels[i]]}/{keys[i]}": dataset.read(i).tobytes() for i in range(len(dataset))}
    assert len(found) == len(dataset)
    return found


@pytest.mark.parametrize("names", [PLAIN, ODD], ids=["plain", "odd"])
def test_packs_keep_the_keys_of_the_originals(tmp_path: Path, names: list[str]) -> None:
    files = {f"train/{c}/{name}": image("JPEG", size=(20 + i, 20 + c)) for i, name in enumerate(names) for c in (0, 1)}
    source = plant(tmp_path / "source", files)
    expected = {name.removeprefix("train/").removesuffix(".jpg"): content for name, content in files.items()}
    assert keys_of(open_dataset(source, "train")) == expected
    for step in ("once", "twice", "thrice"):  # a pack of a pack keeps them too
        source = packed(source, tmp_path / step).root
        assert keys_of(open_dataset(source, "train")) == expected
        assert (source / "train.names.json").exists() == (names is ODD)
        assert json.loads((source / "pack.json").read_text())["prefixes"] == ["once", "twice", "thrice"].index(step) + 1


def test_packs_are_split_like_the_originals(tmp_path: Path) -> None:
    files = {f"train/{c}/{name}": image("JPEG", size=(20 + i, 20 + c)) for i, name in enumerate(ODD) for c in (0, 1)}
    source, half = plant(tmp_path / "source", files), Selection(val_fraction=0.5)
    packed(source, tmp_path / "out")
    for split in ("train", "val"):
        ours, theirs = (open_dataset(root, split, selection=half) for root in (tmp_path / "out", source))
        assert listed(ours) == listed(theirs)
        pack(theirs, tmp_path / "halves", COPY, LENIENT)
        assert listed(open_dataset(tmp_path / "halves", split)) == listed(theirs)  # a data set of its own


def test_a_damaged_record_is_named(tiny_tree: Path, tmp_path: Path) -> None:
    packed(tiny_tree, tmp_path)
    (tmp_path / "pack.json").write_text("[")
    with pytest.raises(DatasetError, match=r"pack\.json is damaged .*\. Write the pack again\."):
        open_dataset(tmp_path, "train", selection=Selection(val_fraction=0.5))
