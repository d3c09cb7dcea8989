"""Whatever a tar's headers say, it is refused with one message or listed with its own labels, soon.

Headers are damaged with their checksums put right again, so that the damage is believed. Nothing of ours writes tars.
"""

from __future__ import annotations

import io
import json
import re
import signal
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from archives import make_tar, plant
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.pipeline.dataset.archive import members
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import DatasetError

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
LABELS = {f"<{i}>".encode(): (i * 7) % 5 for i in range(4)}  # of each image, by its content
pytestmark = pytest.mark.usefixtures("time_limit")


def sealed(header: bytearray) -> bytes:
    """With the checksum that it should have."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One block, which may claim any size, also a negative one."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[-BLOCK:])
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    return sealed(block)


def stored(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")


def shard(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def message_of(root: Path, tar: bytes, name: str = "train/0.tar") -> str:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(tar)
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, "train")
    return str(caught.value)


GOOD = (stored("a.jpg", b"<0>"), stored("a.cls", b"0"))


@pytest.mark.parametrize(
    ("tar", "said"),
    [
        (shard(header("a.jpg", -512), *GOOD), "a.jpg has -512 bytes"),
        (shard(header("a.jpg", -10240), *GOOD), "a.jpg has -10240 bytes"),
        (shard(*GOOD, header("b.jpg", -1), *GOOD), "b.jpg has -1 bytes"),
        (shard(header("a.jpg", 2**62), *GOOD), "a.jpg ends beyond the archive"),
        (shard(header("a.jpg", 8 * BLOCK), *GOOD), "a.jpg ends beyond the archive"),
        (shard(*GOOD, header("x", 2**44, b"A")), "x ends beyond the archive"),  # more than a file system can seek to
        (shard(*GOOD, header("x", 2**62, tarfile.CONTTYPE)), "x ends beyond the archive"),
        (shard(header("x", 2**40, tarfile.GNUTYPE_LONGNAME), *GOOD), "a header of 1099511627776 bytes"),
        (shard(header("x", -4096, tarfile.GNUTYPE_LONGLINK), *GOOD), "a header of -4096 bytes"),
        (shard(header("x", 2**40, tarfile.XHDTYPE), *GOOD), "a header of 1099511627776 bytes"),
        (shard(header("x", 2**40, tarfile.XGLTYPE), *GOOD), "a header of 1099511627776 bytes"),
        (shard(*[header("x", 0, tarfile.XHDTYPE)] * 3000, *GOOD), "recursion"),
        (shard(*[stored("x", b"long name", tarfile.GNUTYPE_LONGNAME)] * 3000, *GOOD), "recursion"),
        (shard(stored("x", b"19 size=-1000000\n00", tarfile.XHDTYPE), *GOOD), "cannot be read"),
        (shard(stored("x", b"12 size=xyz\n", tarfile.XHDTYPE), *GOOD), "cannot be read"),
        (shard(header("a.jpg", 3, tarfile.GNUTYPE_SPARSE), bytes(BLOCK), *GOOD), "a.jpg is stored as a sparse file"),
        (shard(*GOOD, *GOOD), "The sample a in .* has two members .jpg"),
        (shard(GOOD[0], stored("a.JPG", b"<1>"), GOOD[1]), "two members .JPG"),
        (shard(GOOD[0], stored("a.cls", b"9" * 5000)), "has no label"),
        (shard(GOOD[0], stored("a.cls", b"\xff\x00\xfe")), "has no label"),
        (shard(GOOD[0], stored("a.cls", b"100000")), "has label 100000; labels are 0 to 99999"),
        (shard(GOOD[0], stored("a.cls", b"1" + b"0" * 99)), "labels are 0 to 99999"),
        (shard(GOOD[0], stored("a.json", b"[" * 500_000)), "has no label"),
        (shard(GOOD[0], stored("a.json", b'{"label": 2.7}')), "has no label"),
        (shard(GOOD[0], stored("a.json", b'{"label": true}')), "has no label"),
        (shard(GOOD[0], stored("a.json", b'{"label": {"label": 1}}')), "has no label"),
        (shard(GOOD[0], stored("a.json", b'{"label": 1' + b" " * 2**20 + b"}")), "has no label"),
        (shard(header("a.jpg", 0, tarfile.SYMTYPE, "/etc/passwd"), GOOD[1]), "No images"),
        (shard(header("a.jpg", 0, tarfile.LNKTYPE, "b.jpg"), GOOD[1]), "No images"),
        (shard(header("a.jpg", 0, tarfile.CHRTYPE), header("a.png", 0, tarfile.FIFOTYPE)), "No images"),
    ],
)
def test_headers_and_labels_that_lie(tmp_path: Path, tar: bytes, said: str) -> None:
    message = message_of(tmp_path, tar)
    assert re.search(said, message), message
    assert "\n" not in message


def test_a_class_archive_twice_in_the_original(tmp_path: Path) -> None:
    inner = shard(stored("n01_1.JPEG", b"x"))
    twice = shard(stored("n01.tar", inner), stored("elsewhere/n01.tar", inner))
    assert "holds elsewhere/n01.tar twice" in message_of(tmp_path, twice, "ILSVRC2012_img_train.tar")


def test_members_of_an_inner_tar_cannot_lead_out_of_it(tmp_path: Path) -> None:
    inner = header("n01_1.JPEG", 4 * BLOCK) + bytes(BLOCK) + END
    tar = shard(stored("n01.tar", inner), stored("n02.tar", shard(stored("n02_1.JPEG", b"x"))))
    assert "ends beyond the archive" in message_of(tmp_path, tar, "ILSVRC2012_img_train.tar")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_odd_ones_are_labels_only(tmp_path: Path, form: int) -> None:
    names = ["n" * 5000 + ".jpg", "/etc/passwd.jpg", "../../../etc/x.jpg", "ü" * 200 + ".jpg", "a/./b.jpg"]
    files: dict[str, bytes] = {}
    for number, name in enumerate(names):
        files |= {name: b"image %d" % number, name[:-3] + "cls": b"%d" % number}
    plant(tmp_path, {"train/0.tar": make_tar(files, form=form)})
    dataset = open_dataset(tmp_path, "train")
    assert [dataset.read(i).tobytes() for i in range(5)] == [b"image %d" % i for i in range(5)]
    assert dataset.labels.tolist() == list(range(5))
    assert [dataset.names[i] for i in range(5)] == names
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train"]


# -- fuzz --------------------------------------------------------------------------------------------------


KINDS = [bytes([kind]) for kind in b"01234567ALKSNVDxgXM\0\xff"]
sizes = st.one_of(st.integers(-(2**40), 2**62), st.integers(-20, 20).map(lambda n: n * BLOCK), st.integers(0, 4000))
edits = st.one_of(
    st.tuples(st.just(124), sizes.map(lambda n: tarfile.itn(n, 12, tarfile.GNU_FORMAT))),  # type: ignore[attr-defined]
    st.tuples(st.just(156), st.sampled_from(KINDS)),
    st.tuples(st.sampled_from([0, 157, 345]), st.binary(max_size=40)),  # name, link, prefix
    st.tuples(st.just(257), st.sampled_from([b"ustar\x0000", b"ustar  \0", bytes(8)])),
    st.tuples(st.integers(0, BLOCK - 1), st.binary(min_size=1, max_size=12)),
)
records = st.tuples(
    st.sampled_from(
        "size path linkpath GNU.sparse.major GNU.sparse.minor GNU.sparse.map GNU.sparse.size GNU.sparse.realsize "
        "GNU.sparse.name hdrcharset mtime uid".split()
    ),
    st.sampled_from(["1", "0", "-512", "99999999999999999999", "x", "", "0,5", "3,a", "../x.jpg", "BINARY", "1e400"]),
)


def written(labels: Sequence[tuple[bytes, int]], form: int, extended: Sequence[tuple[str, str]]) -> bytes:
    """A shard of these images; one in two labels is JSON. `extended` are PAX records of the second sample."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:", format=form) as tar:
        for number, (image, label) in enumerate(labels):
            text = (b"%d" % label, json.dumps({"label": label}).encode())[number % 2]
            for name, content in ((f"{number}.jpg", image), (f"{number}.{('cls', 'json')[number % 2]}", text)):
                member = tarfile.TarInfo(name)
                member.size, member.pax_headers = len(content), dict(extended) if number == 1 else {}
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@settings(max_examples=300)
@given(data=st.data(), form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_believable_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: int
) -> None:
    signal.alarm(60)  # for each example
    tar = bytearray(written(list(LABELS.items()), form, data.draw(st.lists(records, max_size=2))))
    blocks = [at for at in range(0, len(tar), BLOCK) if tar[at + 257 : at + 262] == b"ustar"]
    for at in data.draw(st.lists(st.sampled_from(blocks), max_size=3)):
        block = bytearray(tar[at : at + BLOCK])
        place, content = data.draw(edits)
        block[place : place + len(content)] = content
        tar[at : at + BLOCK] = sealed(block[:BLOCK])
    path = tmp_path_factory.getbasetemp() / "believable/train/0.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar)
    try:
        dataset = open_dataset(path.parents[1], "train")
    except DatasetError:
        return
    assert 0 < len(dataset) <= len(LABELS)
    for i in range(len(dataset)):
        content = dataset.read(i).tobytes()
        assert len(content) == dataset.lengths[i]
        assert LABELS.get(content, dataset.labels[i]) == dataset.labels[i]


def test_one_in_a_thousand_members_at_a_time(tmp_path: Path) -> None:
    """Members are not kept: they come one by one, in the order of the archive."""
    (tmp_path / "a.tar").write_bytes(shard(*(stored(f"{i}", b"x") for i in range(1000))))
    found = members(tmp_path / "a.tar")
    assert [next(found).offset_data for _ in range(1000)] == [BLOCK + 2 * BLOCK * i for i in range(1000)]
    assert list(found) == []
