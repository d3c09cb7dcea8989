"""Packs: what is in them, who can read them, and what an interruption leaves."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import make_tar
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("nvidia.dali")
from nvidia.dali import fn, pipeline_def

from alexnet.pca.compute import compute_stats
from alexnet.pipeline import pack as module
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.index import save_index
from alexnet.pipeline.dataset.labels import class_words
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.dataset.shards import shard_stamp
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import DatasetError, TooManyBadFiles
from alexnet.pipeline.files import only_writer
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.pack import Packed, PackOptions, pack
from alexnet.pipeline.squares import full_images, squares
from alexnet.pipeline.treatment import Treatment

LENIENT = Settings(threads=2, max_bad=0.5)
RAW = PackOptions(raw=True, images_per_shard=5)
JPEG = PackOptions(images_per_shard=5)


def packed(tree: Path, out: Path, options: PackOptions, settings: Settings = LENIENT) -> tuple[Dataset, Packed]:
    result = pack(open_dataset(tree, "train"), out, options, settings)
    return open_dataset(out, "train"), result


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".index"}


def source_of(dataset: Dataset, i: int) -> int:
    """The image of the original data set that image i of a pack was."""
    return int(dataset.names[i].split("-")[0])


def all_squares(dataset: Dataset) -> dict[int, NDArray[np.uint8]]:
    batches = squares(dataset, np.arange(len(dataset)), batch_size=4, settings=LENIENT)
    return {int(i): square for b in batches for i, square in zip(b.indices, b.pixels.numpy(), strict=True)}


@pytest.mark.parametrize("options", [RAW, JPEG], ids=["raw", "jpeg"])
def test_holds_every_image_once_with_its_label(tiny_tree: Path, tmp_path: Path, options: PackOptions) -> None:
    original = open_dataset(tiny_tree, "train")
    dataset, result = packed(tiny_tree, tmp_path / "out", options)
    assert dataset.classes == original.classes
    assert sorted(source_of(dataset, i) for i in range(len(dataset))) == list(range(len(original)))
    assert all(dataset.labels[i] == original.labels[source_of(dataset, i)] for i in range(len(dataset)))
    assert (result.num_images, result.num_shards, result.bad) == (12, 3, {})
    assert result.num_bytes == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))
    wanted = all_squares(original)
    off = [np.abs(square.astype(int) - wanted[source_of(dataset, i)]) for i, square in all_squares(dataset).items()]
    if options.raw:
        assert max(map(np.max, off)) == 0
    else:
        assert np.mean([o.mean() for o in off]) < 4


def test_jpegs_are_those_that_pillow_writes(tiny_tree: Path, tmp_path: Path) -> None:
    dataset, _ = packed(tiny_tree, tmp_path / "out", replace(JPEG, quality=70))
    wanted = all_squares(open_dataset(tiny_tree, "train"))
    for i in range(len(dataset)):
        square = Image.fromarray(wanted[source_of(dataset, i)])
        square.save(buffer := io.BytesIO(), "JPEG", quality=70, subsampling="4:4:4")
        assert dataset.read(i).tobytes() == buffer.getvalue()


def test_statistics_of_raw_packs_are_the_same_bits(tiny_tree: Path, tmp_path: Path) -> None:
    original, (dataset, _) = open_dataset(tiny_tree, "train"), packed(tiny_tree, tmp_path / "out", RAW)
    a, b = (compute_stats(d, settings=LENIENT, work_dir=tmp_path / "work") for d in (original, dataset))
    for name in ("mean_image", "mean", "std", "covariance", "eigenvalues", "eigenvectors", "num_images", "num_pixels"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.sample
def test_statistics_of_jpeg_packs_differ_little(sample_dir: Path, tmp_path: Path) -> None:
    dataset, _ = packed(sample_dir, tmp_path / "out", PackOptions())
    original = open_dataset(sample_dir, "train")
    a, b = (compute_stats(d, settings=Settings(), work_dir=tmp_path / "work") for d in (original, dataset))
    np.testing.assert_allclose(b.eigenvalues, a.eigenvalues, rtol=5e-3)
    np.testing.assert_allclose(b.mean, a.mean, rtol=5e-3)
    np.testing.assert_allclose(b.covariance, a.covariance, rtol=5e-3)
    np.testing.assert_allclose(b.eigenvectors, a.eigenvectors, atol=5e-3)


@pytest.mark.parametrize("decode_seed", [0, 7])
def test_training_from_a_raw_pack_sees_the_same_pixels(tiny_tree: Path, tmp_path: Path, decode_seed: int) -> None:
    """Each image at its own crop: what the loader gives from the originals, from the pack."""
    original, (dataset, _) = open_dataset(tiny_tree, "train"), packed(tiny_tree, tmp_path / "out", RAW)
    rng = np.random.default_rng(0)
    treatment = Treatment(mean=rng.uniform(0, 255, (224, 224, 3)).astype(np.float32))

    def seen(of: Dataset) -> dict[int, torch.Tensor]:
        how: dict[str, Any] = {"batch_size": 6, "seed": decode_seed, "settings": LENIENT}
        loader = Loader(of, treatment, images_per_crop=12, **how)  # one crop and one flip for all
        return {int(i): image for b in loader for i, image in zip(b.indices, b.images, strict=True)}

    wanted = seen(original)
    for i, image in seen(dataset).items():
        assert (image - wanted[source_of(dataset, i)]).abs().max() <= 1.001  # one resample of a region, two roundings


def test_whole_images_of_a_raw_pack_are_its_squares(tiny_tree: Path, tmp_path: Path) -> None:
    dataset, _ = packed(tiny_tree, tmp_path / "out", RAW)
    wanted = all_squares(dataset)
    for batch in full_images(dataset, np.arange(12), batch_size=5, settings=LENIENT):
        for i, pixels in zip(batch.indices.tolist(), batch.pixels, strict=True):
            assert np.array_equal(pixels, wanted[i])


# -- other readers -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files to be collected
@pytest.mark.parametrize("options", [RAW, JPEG], ids=["raw", "jpeg"])
def test_webdataset_reads_it(tiny_tree: Path, tmp_path: Path, options: PackOptions) -> None:
    wds = pytest.importorskip("webdataset")
    dataset, _ = packed(tiny_tree, tmp_path / "out", options)
    shards = [str(p) for p in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [s["__key__"] for s in samples] == [Path(dataset.names[i]).stem for i in range(12)]
    assert [s["cls"] for s in samples] == dataset.labels.tolist()
    for sample, square in zip(samples, all_squares(dataset).values(), strict=True):
        pixels = sample["npy"] if options.raw else sample["jpg"]
        assert np.array_equal(pixels, square)


@pytest.mark.parametrize("options", [RAW, JPEG], ids=["raw", "jpeg"])
def test_dali_reads_it_by_its_indices(tiny_tree: Path, tmp_path: Path, options: PackOptions) -> None:
    dataset, _ = packed(tiny_tree, tmp_path / "out", options)
    shards = sorted((tmp_path / "out").glob("*.tar"))

    @pipeline_def(batch_size=12, num_threads=1, device_id=None)
    def reading() -> Any:
        paths, indices = [str(p) for p in shards], [str(p.with_suffix(".idx")) for p in shards]
        extensions = ["npy" if options.raw else "jpg", "cls"]
        samples: Any = fn.readers.webdataset(paths=paths, index_paths=indices, ext=extensions)
        return tuple(samples)

    images, labels = reading().run()
    for i in range(12):
        encoded = np.asarray(images[i]).tobytes()
        assert encoded.endswith(dataset.read(i).tobytes())
        assert int(np.asarray(labels[i]).tobytes()) == dataset.labels[i]


def test_indices_are_those_of_dalis_own_tool(tiny_tree: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    packed(tiny_tree, tmp_path / "out", JPEG)
    for shard in (tmp_path / "out").glob("*.tar"):
        creator = wds2idx.IndexCreator(str(shard), str(tmp_path / "theirs.idx"), verbose=False)
        creator.create_index()
        creator.close()
        assert (tmp_path / "theirs.idx").read_text() == shard.with_suffix(".idx").read_text()


# -- interruptions and mistakes ----------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 5, 7, 11])
def test_goes_on_after_an_interruption_and_ends_with_the_same_bytes(
    tiny_tree: Path, tmp_path: Path, after: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    packed(tiny_tree, whole, JPEG)
    dataset = open_dataset(tiny_tree, "train")

    def power_cut(done: int) -> None:
        if done > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(dataset, cut, JPEG, LENIENT, power_cut)
    assert len(list(cut.glob("*.tar"))) == after // 5
    started: list[int] = []
    pack(dataset, cut, JPEG, LENIENT, started.append)
    assert started[0] == after // 5 * 5 + 1  # what was whole is not done again
    assert content(cut) == content(whole)


def test_threads_change_nothing(tiny_tree: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        packed(tiny_tree, tmp_path / str(threads), JPEG, replace(LENIENT, threads=threads))
    assert content(tmp_path / "1") == content(tmp_path / "3")


def test_bad_files_are_left_out_and_listed(tiny_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(tiny_tree, tmp_path / "tree")
    victim = sorted((tree / "train").rglob("*.JPEG"))[4]
    victim.write_bytes(victim.read_bytes()[:200])
    dataset, result = packed(tree, tmp_path / "out", JPEG)
    assert len(dataset) == 11
    assert 4 not in {source_of(dataset, i) for i in range(11)}
    assert list(result.bad) == [str(victim.relative_to(tree))]
    again = pack(open_dataset(tree, "train"), tmp_path / "out", JPEG, LENIENT)
    assert again == result
    assert list(json.loads((tmp_path / "out" / "pack.json").read_text())["bad"]["train"]) == ["4"]
    with pytest.raises(TooManyBadFiles, match="1 of 12 images"):
        packed(tree, tmp_path / "strict", JPEG, replace(LENIENT, max_bad=0.01))


@pytest.mark.parametrize("size", [5, 12])
def test_too_many_bad_files_stay_too_many(tiny_tree: Path, tmp_path: Path, size: int) -> None:
    tree = shutil.copytree(tiny_tree, tmp_path / "tree")
    for victim in sorted((tree / "train").rglob("*.JPEG"))[::2]:
        victim.write_bytes(b"")
    options = PackOptions(images_per_shard=size)
    for _ in range(4):  # the same command again, which would go on with the shards that are missing
        with pytest.raises(TooManyBadFiles, match=r"more than --max-bad 0\.01 allows"):
            packed(tree, tmp_path / "out", options, replace(LENIENT, max_bad=0.01))
    assert packed(tree, tmp_path / "out", options)[1].num_images == 6


def test_a_pack_is_continued_only_as_it_was_begun(tiny_tree: Path, tmp_path: Path) -> None:
    dataset, _ = packed(tiny_tree, tmp_path, JPEG)
    with pytest.raises(DatasetError, match=r"begun otherwise: with --quality 90, not 80\. Use"):
        packed(tiny_tree, tmp_path, replace(JPEG, quality=80))
    with pytest.raises(DatasetError, match="begun otherwise: without --raw"):
        packed(tiny_tree, tmp_path, RAW)
    with pytest.raises(DatasetError, match="other train images"):
        pack(dataset, tmp_path, JPEG, LENIENT)


def test_a_folder_with_other_archives_is_refused(tiny_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
    with pytest.raises(DatasetError, match="did not write"):
        packed(tiny_tree, tmp_path, JPEG)


def test_two_at_once_are_one_too_many(tiny_tree: Path, tmp_path: Path) -> None:
    with only_writer(tmp_path, RuntimeError()), pytest.raises(DatasetError, match="Another process is packing"):
        packed(tiny_tree, tmp_path, JPEG)


def test_full_disk_leaves_no_half_shard(tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_add", full)
    with pytest.raises(OSError, match="No space left"):
        packed(tiny_tree, tmp_path, JPEG)
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".tar", ".tmp")]


def test_moved_packs_open_by_their_index(tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = packed(tiny_tree, tmp_path / "here", RAW)
    shutil.move(tmp_path / "here", tmp_path / "there")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("the shards were read"))
        after = open_dataset(tmp_path / "there", "train")
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.read(7), member_pixels(tmp_path / "there", after, 7))


def member_pixels(root: Path, dataset: Dataset, i: int) -> NDArray[np.uint8]:
    with tarfile.open(root / dataset.containers[dataset.container[i]].name) as tar:
        member = tar.extractfile(dataset.names[i])
        assert member is not None
        return np.load(io.BytesIO(member.read())).reshape(-1)


@pytest.mark.parametrize("options", [RAW, JPEG], ids=["raw", "jpeg"])
def test_packs_open_without_their_index_too(tiny_tree: Path, tmp_path: Path, options: PackOptions) -> None:
    before, _ = packed(tiny_tree, tmp_path / "out", options)
    (tmp_path / "out" / "train.index").unlink()
    after = open_dataset(tmp_path / "out", "train")
    assert after.fingerprint == before.fingerprint
    assert (after.stored, after.classes) == (before.stored, before.classes)


@pytest.mark.parametrize("index", [True, False], ids=["with its index", "without"])
def test_class_names_of_any_kind_read_back_the_same(tiny_tree: Path, tmp_path: Path, index: bool) -> None:
    names = [" leading", "a", "back\\slash", "caf\udce9", "new\nline", "trailing "]  # sorted; a byte that is no UTF-8
    image = next((tiny_tree / "train").rglob("*.JPEG")).read_bytes()
    for name in names:
        (tmp_path / "tree/train" / name).mkdir(parents=True)
        (tmp_path / "tree/train" / name / "0.JPEG").write_bytes(image)
    (tmp_path / "tree/words.txt").write_text("a\tthe first letter\nback\\slash\tleans back\n")
    words = class_words(tmp_path / "tree", names)
    pack(open_dataset(tmp_path / "tree", "train"), tmp_path / "out", RAW, LENIENT)
    if not index:
        (tmp_path / "out/train.index").unlink()
    dataset = open_dataset(tmp_path / "out", "train")
    assert list(dataset.classes) == names
    assert [source_of(dataset, i) for i in range(6)] == dataset.labels.tolist()  # an image a class
    assert class_words(tmp_path / "out", names) == words == {"a": "the first letter", "back\\slash": "leans back"}


def test_the_numbers_of_a_pack_can_be_named(tiny_tree: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("n01", "n02", "n03")):
        shutil.copytree(tiny_tree / "train" / name, tmp_path / "tree/train" / str(number))
    numbered, _ = packed(tmp_path / "tree", tmp_path / "out", RAW)
    assert numbered.classes == ("0", "1", "2")
    (tmp_path / "out/classes.txt").write_text("ant\nbee\ncat\n")
    named = open_dataset(tmp_path / "out", "train")
    assert named.classes == ("ant", "bee", "cat")
    assert named.labels.tolist() == numbered.labels.tolist()


@pytest.mark.parametrize(
    "forged", [{"container": -1}, {"container": 99}, {"labels": 3}, {"labels": -1}, {"lengths": -5}, {"offsets": -5}]
)
def test_an_index_that_leads_out_of_its_pack_is_not_believed(
    tiny_tree: Path, tmp_path: Path, forged: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """It comes with the pack, from anyone: an image outside all shards would be a file of any name."""
    dataset, _ = packed(tiny_tree, tmp_path, JPEG)
    arrays = {key: getattr(dataset, key).copy() for key in forged}
    for key, value in forged.items():
        arrays[key][-1] = value
    stamp = shard_stamp(dataset.containers)
    save_index(tmp_path / "train.index", stamp, replace(dataset, **arrays, _descriptors={}))
    again = open_dataset(tmp_path, "train")
    assert f"impossible {next(iter(forged))}" in caplog.text
    for key in ("container", "labels", "lengths", "offsets"):
        assert getattr(again, key).tolist() == getattr(dataset, key).tolist()


def test_a_shard_of_another_size_is_not_read_by_the_old_index(tiny_tree: Path, tmp_path: Path) -> None:
    packed(tiny_tree, tmp_path / "out", RAW)
    shard = tmp_path / "out" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:300_000])
    with pytest.raises(DatasetError, match=r"train-000001\.tar cannot be read"):
        open_dataset(tmp_path / "out", "train")


def test_a_pack_that_lacks_a_shard_is_not_taken_for_a_whole_one(tiny_tree: Path, tmp_path: Path) -> None:
    dataset, _ = packed(tiny_tree, tmp_path, replace(JPEG, images_per_shard=2))
    whole, second = len(dataset), dataset.containers[1]
    second.unlink()
    with pytest.raises(
        DatasetError, match=rf"lacks 1 of the \d+ train shards that its pack.json names, such as {second.name}"
    ):
        open_dataset(tmp_path, "train")
    (tmp_path / "pack.json").unlink()
    assert len(open_dataset(tmp_path, "train")) == whole - 2


def test_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    np.save(buffer := io.BytesIO(), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "train-0.tar").write_bytes(make_tar({"a.npy": buffer.getvalue(), "a.cls": b"0"}))
    with pytest.raises(DatasetError, match=r"a\.npy in .*\(64, 64, 3\).*alexnet pack --raw"):
        open_dataset(tmp_path, "train")


def test_every_command_takes_a_pack(tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from alexnet.cli import main

    def run(line: str) -> str:
        result = CliRunner().invoke(main, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.setattr(sys, "argv", ["alexnet"])
    for flags in ("", "--raw"):
        out, work = tmp_path / f"pack{flags}", tmp_path / f"run{flags}"
        assert "left out" in run(f"pack {tiny_tree} {out} --shard-size 5 {flags}")
        run(f"pca-stats {out} --out {work}.json")
        run(f"train {out} --stats {work}.json --run {work} --width 0.05 --batch-size 4 --epochs 1 --device cpu")
        assert "top-1 error" in run(f"evaluate {work} {out}")
        stages = json.loads(run(f"bench-loader {out} --json --rounds 1 --seconds 0.05 --batch-size 4"))["stages"]
        assert [s["name"] for s in stages] == ["read", "decode", "pipeline", "loader"]
