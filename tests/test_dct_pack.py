"""Packs of coefficients: what `alexnet pack --dct` writes, conversions without loss, and their use everywhere."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import make_tar
from coefficients import jpeg, picture, pillow
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("nvidia.dali")

from alexnet.pca.compute import compute_stats
from alexnet.pipeline.bench.peer import PillowImages
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.index import save_index
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.dataset.shards import shard_stamp
from alexnet.pipeline.decode.dct import decode_dct
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.decode.transcode import jpeg_to_dct
from alexnet.pipeline.errors import DatasetError, UserError
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.pack import PackOptions, pack
from alexnet.pipeline.squares import full_images, squares
from alexnet.pipeline.treatment import Treatment

LENIENT = Settings(threads=2, max_bad=0.5)
JPEG, DCT = PackOptions(images_per_shard=5), PackOptions(dct=True, images_per_shard=5)


def packed(source: Path, out: Path, options: PackOptions) -> Dataset:
    pack(open_dataset(source, "train"), out, options, LENIENT)
    return open_dataset(out, "train")


@pytest.fixture(scope="module", params=["444", "420"])
def packs(request: Any, tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """A pack of JPEGs, and the coefficients it becomes."""
    folder = tmp_path_factory.mktemp("packs")
    jpegs = packed(tiny_tree, folder / "jpeg", replace(JPEG, chroma=request.param))
    return jpegs, packed(folder / "jpeg", folder / "dct", DCT)


def original(dataset: Dataset, i: int) -> int:
    """The image in the data set that was packed: the key's first number."""
    return int(dataset.names[i].split("-")[0])


def all_squares(dataset: Dataset) -> list[NDArray[np.uint8]]:
    batches = squares(dataset, np.arange(len(dataset)), batch_size=5, settings=LENIENT)
    return [square for batch in batches for square in batch.pixels.numpy()]


def test_conversion_keeps_every_pixel_and_label(packs: tuple[Dataset, Dataset]) -> None:
    jpegs, dcts = packs
    wanted = all_squares(jpegs)
    assert dcts.stored == "dct"
    assert sorted(original(dcts, i) for i in range(12)) == list(range(12))
    for i, square in enumerate(all_squares(dcts)):
        assert np.array_equal(square, wanted[original(dcts, i)])
        assert dcts.labels[i] == jpegs.labels[original(dcts, i)]
    for batch in full_images(dcts, np.arange(12), batch_size=5, settings=LENIENT):
        for i, pixels in zip(batch.indices.tolist(), batch.pixels, strict=True):
            assert np.array_equal(pixels, wanted[original(dcts, i)])


def test_conversion_back_gives_the_same_jpegs(packs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    jpegs, dcts = packs
    back = packed(dcts.root, tmp_path / "back", JPEG)
    for i in range(12):
        assert back.read(i).tobytes() == jpegs.read(original(dcts, original(back, i))).tobytes()
    records = [json.loads((d.root / "pack.json").read_text()) for d in (jpegs, dcts, back)]
    assert len({(r["quality"], r["chroma"]) for r in records}) == 1
    again = packed(dcts.root, tmp_path / "again", DCT)
    assert all(again.read(i).tobytes() == dcts.read(original(again, i)).tobytes() for i in range(12))


def test_packing_anything_else_encodes_it_first(tiny_tree: Path, tmp_path: Path) -> None:
    """The same coefficients as by way of a pack of JPEGs."""
    jpegs = packed(tiny_tree, tmp_path / "jpeg", replace(JPEG, quality=70, chroma="420"))
    dcts = packed(tiny_tree, tmp_path / "dct", replace(DCT, quality=70, chroma="420"))
    for i in range(12):
        assert dcts.read(i).tobytes() == jpeg_to_dct(jpegs.read(i))


def test_statistics_have_the_same_bits(packs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    a, b = (compute_stats(d, settings=LENIENT, work_dir=tmp_path / "work") for d in packs)
    for name in ("mean_image", "mean", "std", "covariance", "eigenvalues", "eigenvectors", "num_images", "num_pixels"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("half", [False, True])
def test_training_sees_the_same_bits(packs: tuple[Dataset, Dataset], half: bool) -> None:
    """Each image at the same crop: treated pixels to the last bit."""
    rng = np.random.default_rng(0)
    treatment = Treatment(mean=rng.uniform(0, 255, (224, 224, 3)).astype(np.float32), lit_divisor=1.1)

    def seen(of: Dataset, key: Callable[[int], int]) -> dict[int, torch.Tensor]:
        found = dict[int, torch.Tensor]()
        for seed in range(3):
            how: dict[str, Any] = {"batch_size": 12, "seed": seed, "settings": LENIENT, "images_per_crop": 12}
            loader = Loader(of, treatment, half=half, **how)
            for batch in loader:
                found |= {100 * seed + key(int(i)): x for i, x in zip(batch.indices, batch.images, strict=True)}
        return found

    jpegs, dcts = packs
    wanted = seen(jpegs, lambda i: i)
    for key, image in seen(dcts, lambda i: original(dcts, i)).items():
        assert torch.equal(image, wanted[key])


def test_a_damaged_image_is_replaced_and_counted(packs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    tree = shutil.copytree(packs[1].root, tmp_path / "pack")
    dataset = open_dataset(tree, "train")
    shard = tree / dataset.containers[dataset.container[3]].name
    content = bytearray(shard.read_bytes())
    content[dataset.offsets[3] + 5000] ^= 1
    shard.write_bytes(content)
    bad = dict[int, str]()
    loader = Loader(dataset, Treatment(mean=np.zeros(3, np.float32)), batch_size=12, seed=0, settings=LENIENT, bad=bad)
    (batch,) = loader
    assert sorted(batch.indices.tolist()) == sorted([*range(3), 4, *range(4, 12)])
    assert bad == {3: "damaged (an image of coefficients: its checksum)"}
    result = pack(dataset, tmp_path / "again", DCT, LENIENT)
    assert result.num_images == 11
    assert list(result.bad.values()) == list(bad.values())


def test_they_open_with_and_without_their_index(packs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    tree = shutil.copytree(packs[1].root, tmp_path / "pack")
    before = open_dataset(tree, "train")
    (tree / "train.index").unlink()
    after = open_dataset(tree, "train")
    assert (after.stored, after.fingerprint, after.classes) == ("dct", before.fingerprint, before.classes)


def test_an_index_of_an_unknown_kind_is_not_believed(
    packs: tuple[Dataset, Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = shutil.copytree(packs[1].root, tmp_path / "pack")
    dataset = open_dataset(tree, "train")
    stored: Any = "zip"
    save_index(tree / "train.index", shard_stamp(dataset.containers), replace(dataset, stored=stored, _descriptors={}))
    assert open_dataset(tree, "train").stored == "dct"
    assert "impossible stored" in caplog.text


def test_other_sizes_are_bad_images(tmp_path: Path) -> None:
    """The format has them; packs do not."""
    members = dict[str, bytes]()
    for i in range(4):
        side = 256 if i else 64
        members |= {f"{i}.dct": jpeg_to_dct(jpeg(picture("smooth", side, side, i))), f"{i}.cls": b"0"}
    (tmp_path / "train-0.tar").write_bytes(make_tar(members))
    (batch,) = squares(open_dataset(tmp_path, "train"), np.arange(4), batch_size=4, settings=LENIENT)
    assert batch.indices.tolist() == [1, 2, 3]
    assert batch.bad == [(0, "coefficients of 64x64 pixels; packs have 256x256")]
    assert np.array_equal(batch.pixels[0], decode_dct(np.frombuffer(members["1.dct"], np.uint8)))


def test_kinds_are_kept_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one"):
        PackOptions(raw=True, dct=True)
    np.save(buffer := io.BytesIO(), np.zeros((256, 256, 3), np.uint8))
    files = {"0.dct": b"ADCT", "0.cls": b"0", "1.npy": buffer.getvalue(), "1.cls": b"0"}
    (tmp_path / "train-0.tar").write_bytes(make_tar(files))
    with pytest.raises(DatasetError, match=r"both \.dct images and \.npy arrays"):
        open_dataset(tmp_path, "train")


def test_what_is_converted_keeps_its_quality(packs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    for source, options in ((packs[0], DCT), (packs[1], JPEG)):
        with pytest.raises(DatasetError, match=r"quality 90 and chroma 4.., whose coefficients are kept"):
            pack(source, tmp_path, replace(options, quality=50), LENIENT)


def test_an_older_pack_is_no_pack_of_coefficients(tiny_tree: Path, tmp_path: Path) -> None:
    """Its record tells neither `dct` nor `chroma`: it is continued as what it was."""
    before = packed(tiny_tree, tmp_path, JPEG)
    record = json.loads((tmp_path / "pack.json").read_text())
    del record["dct"], record["chroma"]
    (tmp_path / "pack.json").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="begun otherwise: without --dct"):
        packed(tiny_tree, tmp_path, DCT)
    assert packed(tiny_tree, tmp_path, JPEG).fingerprint == before.fingerprint


def test_an_interrupted_conversion_ends_with_the_same_bytes(packs: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    def power_cut(done: int) -> None:
        if done > 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(packs[0], tmp_path, DCT, LENIENT, power_cut)
    assert len(list(tmp_path.glob("*.tar"))) == 1
    pack(packs[0], tmp_path, DCT, LENIENT)
    for path in packs[1].root.glob("*.tar"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_peer_decodes_them_too(packs: tuple[Dataset, Dataset]) -> None:
    """`bench-loader --compare torch` on a pack of coefficients."""
    mean = np.zeros((224, 224, 3), np.float32)
    crop, index = PillowImages(packs[1], mean, 4, 0, region=False)[0]
    whole = Image.fromarray(pillow(packs[0].read(original(packs[1], index))))
    found = [
        np.array_equal(np.asarray(whole.crop((x, y, x + 224, y + 224)))[:, ::flip], crop.numpy())
        for y in range(33)
        for x in range(33)
        for flip in (1, -1)
    ]
    assert any(found)


def test_every_command_takes_it(tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from alexnet.cli import main

    def run(line: str) -> str:
        result = CliRunner().invoke(main, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.setattr(sys, "argv", ["alexnet"])
    out, work = tmp_path / "pack", tmp_path / "run"
    run(f"pack {tiny_tree} {out} --shard-size 5 --dct --chroma 420 --quality 80")
    run(f"pca-stats {out} --out {work}.json")
    run(f"train {out} --stats {work}.json --run {work} --width 0.05 --batch-size 4 --epochs 1 --device cpu")
    assert "top-1 error" in run(f"evaluate {work} {out}")
    stages = json.loads(run(f"bench-loader {out} --json --rounds 1 --seconds 0.05 --batch-size 4"))["stages"]
    assert [s["name"] for s in stages] == ["read", "decode", "pipeline", "loader"]
