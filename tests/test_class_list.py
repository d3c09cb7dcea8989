"""Lists of classes in the forms in which people publish them, and what they leave of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planting import plant_named

from alexnet.pipeline.dataset.class_list import names_in, read_class_list
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.dataset.selection import Selection
from alexnet.pipeline.errors import DatasetError, UserError

pytestmark = pytest.mark.usefixtures("own_cache")

WANTED = ["n01440764", "n02869837"]
OTHERS = ["n01443537", "n03000000"]


def tree(root: Path, *names: str, splits: tuple[str, ...] = ("train", "val")) -> Path:
    return plant_named(root, *(f"{split}/{name}/{i}.JPEG" for split in splits for name in names for i in range(2)))


def selected(root: Path, content: str | bytes, split: str = "train") -> list[str]:
    file = root / "list.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = open_dataset(root, split, selection=Selection(classes=read_class_list(file)))  # type: ignore[arg-type]
    assert {dataset.name(i).split("/")[1] for i in range(len(dataset))} == set(dataset.classes)
    assert [dataset.name(i).split("/")[1] for i in range(len(dataset))] == [dataset.classes[n] for n in dataset.labels]
    return list(dataset.classes)


@pytest.mark.parametrize(
    "content",
    [
        "n01440764\nn02869837\n",
        "\n  n02869837 \r\n\r\nn01440764",
        "n01440764 tench, Tinca tinca\nn02869837\tbonnet, poke bonnet\n",
        "n01440764,tench\nn02869837: bonnet\n",
        "n01440764 1 tench\nn02869837 454 bonnet\n",
        "n01440764 n02869837",
        "n01440764, n02869837,\n",
        "'n01440764',\n\"n02869837\",\n",
        "['n01440764', 'n02869837']",
        "[\n'n01440764',\n 'n02869837'\n]".replace("[\n", "").replace("\n]", ""),
        json.dumps(WANTED),
        json.dumps({"n01440764": "tench, Tinca tinca", "n02869837": "bonnet"}, indent=1),
        "n01440764\n" * 3 + "n02869837\n",
        "\ufeffn01440764\nn02869837\n",
        "n01440764\nn02869837\n".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_list_in_any_usual_form(tmp_path: Path, content: str | bytes, split: str) -> None:
    assert selected(tree(tmp_path, *WANTED, *OTHERS), content, split) == WANTED


def test_classes_keep_their_order_and_not_the_lists(tmp_path: Path) -> None:
    root = tree(tmp_path, "10", "9", "2")
    assert selected(root, "10\n2\n") == ["2", "10"]
    alone = tree(tmp_path / "alone", "10", "2")
    listed = open_dataset(root, "train", selection=Selection(classes=("10", "2")))
    assert listed.fingerprint == open_dataset(alone, "train").fingerprint  # the same images, however they are chosen


def test_names_of_several_words() -> None:
    known = {"great white shark", "shark", "Tinca, the tench"}
    assert names_in("great white shark", known) == ["great white shark"]
    assert names_in('"great white shark",', known) == ["great white shark"]
    assert names_in("great white shark, a fish", known) == ["great white shark"]
    assert names_in("Tinca, the tench", known) == ["Tinca, the tench"]
    assert names_in("shark of the sea", known) == ["shark"]
    assert names_in("whale shark", known) == names_in(", ;", known) == []


def test_a_validation_set_without_one_of_the_classes(tmp_path: Path) -> None:
    root = tree(tmp_path, "a", "b", "c", splits=("train",))
    plant_named(root, "val/a/0.JPEG", "val/c/0.JPEG")
    selection = Selection(classes=("b", "c"))
    val = open_dataset(root, "val", selection=selection)
    assert (val.classes, val.labels.tolist()) == (("b", "c"), [1])
    with pytest.raises(DatasetError, match=r"the val split of .* has no images of these classes"):
        open_dataset(root, "val", selection=Selection(classes=("b",)))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["tench", "bonnet"], r"names no class of .*: it has 'tench', 'bonnet', not 'n01440764', .* one a line\."),
        (["n01440764", "n5"], r"1 of the 2 classes in --classes-file are not in .*: 'n5'\. Remove them from the list"),
    ],
)
def test_classes_that_are_not_there(tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(DatasetError, match=problem):
        selected(tree(tmp_path, *WANTED), "\n".join(lines))


def test_names_for_a_data_set_that_numbers_its_classes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"Say what the numbers mean in .*classes\.txt"):
        selected(tree(tmp_path, "0", "1"), "n01440764")


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_an_empty_list(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"list\.txt names no classes\. Write the name of one on each line"):
        selected(tree(tmp_path, "a"), content)
