"""Parquet files as Hugging Face writes them, packed: against the images that were put in."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import plant

pytest.importorskip("nvidia.dali")
pytest.importorskip("pyarrow")
import pyarrow
import pyarrow.parquet

from alexnet.pipeline.dataset import parquet as module
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.labels import class_words
from alexnet.pipeline.dataset.open import open_dataset, open_splits, open_to_pack
from alexnet.pipeline.dataset.selection import Selection
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import DatasetError, NoSplit, UserError
from alexnet.pipeline.pack import PackOptions, pack

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = ["tench, Tinca tinca", "goldfish, Carassius auratus", "bonnet, poke bonnet"]
WNIDS = ["n01440764", "n01443537", "n02869837"]
LENIENT = Settings(threads=2, max_bad=0.5)
COPY = PackOptions(copy=True, images_per_shard=5)

Row = dict[str, Any]


def images_of(tree: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((tree / "train").rglob("*.JPEG"))]


def rows_like_the_hubs(images: list[bytes], split: str = "train") -> list[Row]:
    """Names end in the WordNet id, as in ILSVRC/imagenet-1k."""
    stems = [f"{WNIDS[i % 3]}_{i}" if split == "train" else f"ILSVRC2012_val_{i:08}" for i in range(len(images))]
    return [
        {"image": {"bytes": image, "path": f"{stem}_{WNIDS[i % 3]}.JPEG"}, "label": i % 3}
        for i, (image, stem) in enumerate(zip(images, stems, strict=True))
    ]


def write(path: Path, rows: list[Row], names: list[str] | None = NAMES, group: int = 2, label: str = "label") -> None:
    """As `datasets.Dataset.to_parquet` does it: row groups, the features as JSON in the schema's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if names is not None:
        features = {"image": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=group)


@pytest.fixture
def hub(tiny_tree: Path, tmp_path: Path) -> Path:
    """ImageNet as the hub has it, in small: two files to train, one to validate, and a test set without labels."""
    root, images = tmp_path / "hub", images_of(tiny_tree)
    rows = rows_like_the_hubs(images)
    write(root / "data/train-00000-of-00002.parquet", rows[:7])
    write(root / "data/train-00001-of-00002.parquet", rows[7:])
    write(root / "data/validation-00000-of-00001.parquet", rows_like_the_hubs(images[:6], "validation"))
    write(root / "data/test-00000-of-00001.parquet", [{**row, "label": -1} for row in rows[:3]])
    return root


def opened(root: Path, split: str = "train", **how: Any) -> Dataset:
    return open_to_pack(root, split, **how)  # type: ignore[arg-type]


def listed(dataset: Dataset) -> Counter[tuple[str, bytes]]:
    return Counter((dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i in range(len(dataset)))


def copied(root: Path, out: Path, options: PackOptions = COPY) -> list[Dataset]:
    for dataset in open_splits(root, ()):
        pack(dataset, out, options, LENIENT)
    return open_splits(out, ())


def test_copies_are_the_bytes_that_were_put_in(hub: Path, tiny_tree: Path, tmp_path: Path) -> None:
    images, out = images_of(tiny_tree), tmp_path / "out"
    train, val = copied(hub, out)
    assert listed(train) == Counter((WNIDS[i % 3], image) for i, image in enumerate(images))
    assert listed(val) == Counter((WNIDS[i % 3], image) for i, image in enumerate(images[:6]))
    assert train.classes == val.classes == tuple(WNIDS)
    assert class_words(out, WNIDS) == dict(zip(WNIDS, NAMES, strict=True))


def test_a_pack_has_the_squares_of_the_same_images_in_folders(hub: Path, tmp_path: Path) -> None:
    tree, dataset = tmp_path / "tree", opened(hub)
    for i in range(len(dataset)):
        path = tree / "train" / dataset.classes[dataset.labels[i]] / dataset.names[i]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dataset.read(i).tobytes())
    raw = PackOptions(raw=True)
    for source, out in ((dataset, "squares"), (open_dataset(tree, "train"), "plain")):
        pack(source, tmp_path / out, raw, LENIENT)
    assert listed(open_dataset(tmp_path / "squares", "train")) == listed(open_dataset(tmp_path / "plain", "train"))


def test_every_row_group_is_read_once(tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never a file as a whole: in the order of a pack, with no more memory than two row groups."""
    images = images_of(tiny_tree) * 4
    write(tmp_path / "train-0.parquet", rows_like_the_hubs(images[:30]), group=3)
    write(tmp_path / "train-1.parquet", rows_like_the_hubs(images[30:]), group=3)
    read = Counter[tuple[str, int]]()
    real = module._read_group

    def counted(file: Path, group: int) -> Any:
        read[file.name, group] += 1
        return real(file, group)

    monkeypatch.setattr(module, "_read_group", counted)
    monkeypatch.setattr(module, "KEPT_GROUPS", 4)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    dataset = opened(tmp_path)
    pack(dataset, tmp_path / "out", replace(COPY, images_per_shard=48), replace(LENIENT, threads=1))
    assert read == Counter((f"train-{f}.parquet", g) for f, n in ((0, 10), (1, 6)) for g in range(n))
    assert isinstance(dataset, module.ParquetDataset)
    assert len(dataset.read_groups._kept) == 4


def test_the_order_is_random_by_row_groups(tiny_tree: Path, tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", rows_like_the_hubs(images_of(tiny_tree)), group=3)
    dataset = opened(tmp_path)
    assert isinstance(dataset, module.ParquetDataset)
    orders = [dataset.shuffled(np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order) == list(range(12)) != order
        assert [len({i // 3 for i in order[k : k + 3]}) for k in range(0, 12, 3)] == [1] * 4


def test_bad_rows_are_left_out_and_named(hub: Path, tiny_tree: Path, tmp_path: Path) -> None:
    rows = rows_like_the_hubs(images_of(tiny_tree)[:6])
    rows[0]["image"]["bytes"] = None
    rows[1]["image"] = None
    rows[2]["label"] = -1
    rows[3]["label"] = 3
    rows[4]["image"]["bytes"] = b"version https://git-lfs"
    write(hub / "data/train-00000-of-00002.parquet", rows, WNIDS)
    write(hub / "data/train-00001-of-00002.parquet", rows_like_the_hubs(images_of(tiny_tree)), WNIDS)
    write(hub / "data/validation-00000-of-00001.parquet", rows_like_the_hubs(images_of(tiny_tree)), WNIDS)
    found = pack(opened(hub), tmp_path / "out", COPY, LENIENT)
    assert found.num_images == 13
    place = "train-00000-of-00002.parquet:"
    assert found.bad == {
        f"{place}n01440764_0_n01440764.JPEG": "has no bytes of an image",
        f"{place}train-00000-of-00002-000001": "has no bytes of an image",
        f"{place}n02869837_2_n02869837.JPEG": "has no label",
        f"{place}n01440764_3_n01440764.JPEG": "has no label",
        f"{place}n01443537_4_n01443537.JPEG": "a Git LFS pointer to an image; `git lfs pull` fetches it",
    }


def test_an_interrupted_pack_ends_with_the_same_bytes(hub: Path, tmp_path: Path) -> None:
    def power_cut(done: int) -> None:
        if done > 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(opened(hub), tmp_path / "cut", COPY, LENIENT, power_cut)
    (tmp_path / "cut/.train-000001.tar.99.tmp").write_bytes(b"what a kill leaves")
    for out in ("cut", "whole"):
        pack(opened(hub), tmp_path / out, COPY, LENIENT)
    ours, expected = ({p.name: p.read_bytes() for p in (tmp_path / out).iterdir()} for out in ("cut", "whole"))
    del ours["train.index"], expected["train.index"]  # they name their folder
    assert ours == expected


# -- other sets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "names", "classes"),
    [
        ([{"img": {"bytes": b"0", "path": None}, "label": 1}], ["cat", "dog"], ("cat", "dog")),
        ([{"jpg": b"0", "cls": 1}], None, ("0", "1")),
        ([{"image": b"0", "label": "dog"}, {"image": b"1", "label": "ant"}], None, ("ant", "dog")),
        ([{"image": {"bytes": b"0", "path": "x_n00000001.JPEG"}, "label": 0}], ["cat", "dog"], ("cat", "dog")),
        (
            [{"image": {"bytes": b"%d" % i, "path": f"{i}_n00000001.JPEG"}, "label": i} for i in range(2)],
            ["cat", "dog"],
            ("cat", "dog"),
        ),
    ],
    ids=["a cifar", "from webdataset", "names as labels", "not all classes have a WordNet id", "two have the same"],
)
def test_other_columns(tmp_path: Path, rows: list[Row], names: list[str] | None, classes: tuple[str, ...]) -> None:
    write(tmp_path / "train/0000.parquet", rows, names)
    dataset = opened(tmp_path)
    assert dataset.classes == classes
    expected = [row.get("label", row.get("cls")) for row in rows]
    assert [label if isinstance(label, int) else classes.index(label) for label in expected] == dataset.labels.tolist()
    assert [dataset.read(i).tobytes() for i in range(len(rows))] == [b"%d" % i for i in range(len(rows))]


@pytest.mark.parametrize(
    ("name", "found"),
    [("data/train-00000-of-00001-ab12.parquet", 1), ("default/train/0000.parquet", 1), ("train.parquet", 1)],
)
def test_where_files_are(tmp_path: Path, name: str, found: int) -> None:
    write(tmp_path / name, [{"image": b"0", "label": 0}], None)
    assert len(opened(tmp_path)) == found


def test_a_split_by_names_is_that_of_the_same_images_in_folders(hub: Path, tiny_tree: Path, tmp_path: Path) -> None:
    for path in (hub / "data").glob("[vt][ae][ls]*"):
        path.unlink()
    images, half = images_of(tiny_tree), Selection(val_fraction=0.5)
    plant(tmp_path / "tree", {f"train/{WNIDS[i % 3]}/{WNIDS[i % 3]}_{i}.JPEG": image for i, image in enumerate(images)})
    ours, theirs = opened(hub, "val", selection=half), open_dataset(tmp_path / "tree", "val", selection=half)
    assert listed(ours) == listed(theirs)
    assert 0 < len(ours) < len(images)


# -- refusals ----------------------------------------------------------------------------------------------


def refusal(root: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        opened(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "DATA")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"image": "x.jpg", "label": 0},
            "no column of images, as bytes called image, img, .* it has image .string., lab",
        ),
        ({"picture": b"x", "label": 0}, "no column of images"),
        ({"image": b"x", "text": "x"}, "no column of labels, as numbers or names called label, labels, cls or class;"),
        ({"image": b"x", "label": 0.5}, "no column of labels.* label .double.. Rename its columns."),
        ({"image": b"x", "label": 10**9}, "have label 1000000000; labels are 0 to 99999"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, row: Row, problem: str) -> None:
    write(tmp_path / "train-0.parquet", [row], None)
    assert re.search(problem, refusal(tmp_path))


def test_damaged_files(tmp_path: Path, hub: Path) -> None:
    file = hub / "data/train-00000-of-00002.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    assert "train-00000-of-00002.parquet cannot be read as parquet (" in refusal(hub)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert refusal(hub).endswith("It is a Git LFS pointer: `git lfs pull` fetches it.")
    file.unlink()
    file.symlink_to("../../blobs/gone")
    assert "is a symbolic link to ../../blobs/gone, which cannot be followed" in refusal(hub)
    file.unlink()
    file.write_bytes(b"PAR1" + bytes(len(whole) - 100) + whole[-96:])
    assert "cannot be read" in refusal(hub)


def test_a_damaged_row_group_is_of_bad_images(hub: Path, tmp_path: Path) -> None:
    file = hub / "data/train-00000-of-00002.parquet"
    with pyarrow.parquet.ParquetFile(file) as whole:
        column = whole.metadata.row_group(1).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 20] = bytes(20)
    file.write_bytes(content)
    found = pack(opened(hub), tmp_path / "out", COPY, LENIENT)
    assert [reason.partition(" (")[0] for reason in found.bad.values()] == ["its row group 1 cannot be read"] * 2
    assert found.num_images == 10


def test_files_that_name_their_classes_differently(tmp_path: Path) -> None:
    for i, names in enumerate((["a", "b"], ["b", "a"])):
        write(tmp_path / f"train-{i}.parquet", [{"image": b"x", "label": 0}], names)
    assert "train-0.parquet and DATA/train-1.parquet name their classes differently" in refusal(tmp_path)


def test_a_split_without_labels(hub: Path) -> None:
    (hub / "data/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(NoSplit, match=r"The rows of .*test-00000-of-00001\.parquet have no labels"):
        opened(hub, "val")
    assert [dataset.split for dataset in open_splits(hub, ())] == ["train"]


@pytest.mark.parametrize("folder", ["", "data/"])
def test_a_list_beside_the_files_names_numbered_classes(tmp_path: Path, folder: str) -> None:
    for split, label in (("train", 1), ("val", 2)):
        write(tmp_path / f"data/{split}-0.parquet", [{"image": b"x", "label": label}], None)
    (tmp_path / f"{folder}classes.txt").write_text("cat\ndog\nfox\n")
    for split in ("train", "val"):
        assert opened(tmp_path, split).classes == ("cat", "dog", "fox")
    dogs = opened(tmp_path, selection=Selection(classes=("dog",)))
    assert (dogs.classes, listed(dogs)) == (("dog",), Counter({("dog", b"x"): 1}))
    (tmp_path / f"{folder}classes.txt").write_text("cat\n")
    assert "there are 1 classes in" in refusal(tmp_path)


@pytest.mark.parametrize("label", [{"label": -1}, {"label": None}, {}], ids=["-1", "null", "none"])
def test_a_test_set_is_no_validation_set(hub: Path, label: Row) -> None:
    """So that a share of the training images can be, and these are packed whatever the test set lacks."""
    data = hub / "data"
    for name in ("validation-00000-of-00001", "test-00000-of-00001"):
        (data / f"{name}.parquet").unlink()
    rows = [{"image": row["image"], **label} for row in rows_like_the_hubs([b"x", b"y"], "validation")]
    write(data / "test/0.parquet", rows)
    with pytest.raises(NoSplit, match=r"The rows of .*test/0\.parquet have no labels"):
        open_dataset(hub, "val")
    train, val = (opened(hub, split, selection=Selection(val_fraction=0.5)) for split in ("train", "val"))
    assert min(len(train), len(val)) > 0
    assert len(train) + len(val) == len(opened(hub))
    write(data / "test/0.parquet", [{**rows[0], "label": 0}, *rows])
    with pytest.raises(DatasetError, match="has validation images already"):
        opened(hub, "train", selection=Selection(val_fraction=0.5))


def test_names_without_a_split(tmp_path: Path) -> None:
    write(tmp_path / "0000.parquet", [{"image": b"x", "label": 0}])
    assert refusal(tmp_path).endswith("Begin the names of parquet files with their split: train-00000.parquet.")


def test_other_commands_say_pack_it_first(hub: Path) -> None:
    for split in ("train", "val"):
        with pytest.raises(
            DatasetError, match=rf"holds . parquet files?, .* Pack it .*: alexnet pack {hub} {hub}-packed"
        ):
            open_dataset(hub, split)


def test_a_missing_package_says_how_to_install_it(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    assert refusal(hub).endswith("Install it from the source folder: pip install --editable '.[parquet]'")
