"""What names say, against names that are in use."""

from __future__ import annotations

from collections import Counter

import pytest

from alexnet.pipeline.dataset.names import (
    count_left_out,
    describe_left_out,
    is_hidden,
    is_image,
    names_both_splits,
    split_word,
)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("imagenet1k-validation-07", "validation"),
        ("imagenet1k-train-0007", "train"),
        ("train_000", "train"),
        ("VAL.0003", "val"),
        ("x2test4", "test"),
        ("cc3m-valid-{00}", "valid"),
        ("x-trainval-0", None),
        ("carnival-0", None),
        ("latest-0", None),
        ("carnival-train-0", "train"),
        ("training-set", None),
        ("größtest-train", "train"),
        ("test-of-train-0", "train"),
        ("train-part-for-val-0", "val"),
        ("000123", None),
    ],
)
def test_the_split_is_a_whole_word(name: str, word: str | None) -> None:
    assert split_word(name) == word
    assert names_both_splits(name) == (name in ("test-of-train-0", "train-part-for-val-0"))


def test_images_are_told_by_their_last_extension() -> None:
    assert [
        n
        for n in ("a.JPEG", "b.v2.jfif", "c.webp", "d/e.PnG", "f.jpg.txt", "jpg", "g.", ".h", "i.tif", "j.gif")
        if is_image(n)
    ] == ["a.JPEG", "b.v2.jfif", "c.webp", "d/e.PnG"]


def test_what_systems_add_is_hidden() -> None:
    names = ["._a.jpg", "__MACOSX/a.jpg", "x/__MACOSX/n01/._a.jpg", ".a", "../../a.jpg", "./a.jpg", "a__MACOSX/b.jpg"]
    assert [n for n in names if is_hidden(n)] == names[:4]
    assert all(map(is_hidden, ("train/@eaDir/a.jpg", "lost+found")))


def test_what_is_left_out_is_told_in_one_line() -> None:
    left_out = Counter[str]()
    assert describe_left_out(left_out) == ""
    count_left_out(left_out, ["a.tif"] * 8 + ["x/b.TXT"] * 4 + ["n01_boxes.txt", "val_annotations.txt", "Thumbs.db"])
    assert describe_left_out(left_out).startswith("Left out 12 files: 8 .tif, 4 .txt. Images are .jpg ")
    count_left_out(left_out, ["v1.2/README", "a.b", "a.c", "a.d", "a.e"])
    assert "8 .tif, 4 .txt, 1 without an extension, 1 .b, 1 .c, ..." in describe_left_out(left_out)
    assert describe_left_out(Counter({".gif": 1})).startswith("Left out 1 file: 1 .gif.")
