"""Generated data sets: the same bytes however they are made, like ImageNet in size, complete or absent."""

import errno
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.pipeline.errors import UserError
from alexnet.pipeline.synthetic import generate
from alexnet.pipeline.synthetic.draw import GREY_SHARE, KINDS, Kind, _paste, draw_jpeg, draw_size
from alexnet.pipeline.synthetic.generate import generate_flat, generate_tree, generated_dataset


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.JPEG"))}


def test_tree_has_the_shape_of_imagenet(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    root = generate_tree(
        tmp_path / "tree",
        train_per_class=2,
        val_per_class=1,
        seed=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    files = read_tree(root)
    assert Counter(name.rpartition("/")[0] for name in files) == {
        f"{split}/{kind.name}": count for split, count in (("train", 2), ("val", 1)) for kind in KINDS
    }
    assert len(set(files.values())) == 30
    assert seen == [(done, 30) for done in range(1, 31)]
    for data in files.values():
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            image.load()


@pytest.mark.parametrize("attribute", ["shape", "texture", "colour"])
def test_no_attribute_alone_tells_the_classes_apart(attribute: str) -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) == 10
    values = [getattr(kind, attribute) for kind in KINDS]
    assert min(Counter(values).values()) >= 2
    assert len(set(values)) <= 4


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    one = generate_flat(tmp_path / "one", 404, seed=1, processes=1)
    two = generate_flat(tmp_path / "two", 404, seed=1, processes=2)
    assert read_tree(one) == read_tree(two)
    assert len(read_tree(one)) == 404
    assert sorted(path.name for path in (one / "train").iterdir()) == ["0000", "0001", "0002", "0003", "0004"]


def test_seeds_draw_different_pictures() -> None:
    assert draw_jpeg((0, 5), None) == draw_jpeg((0, 5), None)
    assert draw_jpeg((0, 5), None) != draw_jpeg((1, 5), None)
    assert draw_jpeg((0, 0, 0, 5), KINDS[0]) != draw_jpeg((0, 1, 0, 5), KINDS[0])


def test_sizes_are_those_of_imagenet() -> None:
    rng = np.random.default_rng(0)
    sizes = [draw_size(rng) for _ in range(4000)]
    assert [size for size, _ in Counter(sizes).most_common(2)] == [(500, 375), (500, 333)]
    assert np.mean([width * height for width, height in sizes]) == pytest.approx(0.2e6, rel=0.05)
    assert 0.2 < np.mean([height > width for width, height in sizes]) < 0.4
    assert min(map(min, sizes)) >= 30
    assert max(map(max, sizes)) <= 2400


def test_files_cost_what_imagenets_do() -> None:
    files = [draw_jpeg((0, i), None) for i in range(300)]
    images = [Image.open(io.BytesIO(data)) for data in files]
    pixels = sum(image.width * image.height for image in images)
    assert sum(map(len, files)) / pixels == pytest.approx(0.54, abs=0.06)  # bytes per pixel
    assert np.mean([image.mode == "L" for image in images]) == pytest.approx(GREY_SHARE, abs=0.025)
    assert {image.mode for image in images} == {"L", "RGB"}


def test_no_grey_file_where_colour_tells_the_class() -> None:
    coloured = [kind for kind in KINDS if kind.colour]
    assert len(coloured) == 6
    modes = {Image.open(io.BytesIO(draw_jpeg((0, i), coloured[i % 6]))).mode for i in range(100)}
    assert modes == {"RGB"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_thing_is_whole_in_the_central_square_and_of_its_colour(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((375, 500), (500, 334), (40, 40)):
        scene = np.full((height, width, 3), -1000, np.float32)
        _paste(scene, rng, kind)
        drawn = np.any(scene > -1000, axis=2)
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        assert drawn.sum() == drawn[top : top + short, left : left + short].sum() > 0.03 * short**2
        mean = scene[np.all(scene >= 0, axis=2)].mean(0)
        if kind.colour:
            strongest = ["red", "green", "blue"].index(kind.colour)
            assert mean[strongest] > np.delete(mean, strongest).max() + 30


def test_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_flat(tmp_path / "flat", 10, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_complete_tree_is_reused_and_another_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = generate_flat(tmp_path / "flat", 3)
    monkeypatch.setattr(generate, "draw_jpeg", None)  # nothing is drawn again
    assert generate_flat(root, 3) == root
    with pytest.raises(UserError, match=r"wanted .*'train': 4"):
        generate_flat(root, 4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"mine was not generated here .* Choose another folder"):
        generate_flat(tmp_path / "mine", 3)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    assert len(read_tree(generate_flat(tmp_path, 2))) == 2


DRAW = """
import sys
from pathlib import Path
from alexnet.pipeline.synthetic.generate import generate_flat
if __name__ == "__main__":
    generate_flat(Path(sys.argv[1]), 404, processes=2, progress=lambda done, total: print(done, flush=True))
    print("complete", flush=True)
"""


def drawing(root: Path) -> subprocess.Popen[str]:
    """Another process, and its workers, in a group of their own as under a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", DRAW, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def group_is_gone(leader: int, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_several_processes(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C goes to every process of a terminal's group, kill -9 to one; all end, and the next call starts afresh."""
    running = drawing(tmp_path / "flat")
    assert running.stdout is not None
    assert running.stdout.readline()
    os.killpg(running.pid, number) if number == signal.SIGINT else os.kill(running.pid, number)
    _, errors = running.communicate(timeout=120)
    assert group_is_gone(running.pid)
    left = [path.name for path in tmp_path.iterdir()]
    if number == signal.SIGINT:
        assert errors.count("Traceback") == 1  # the KeyboardInterrupt itself, nothing of the pool's
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert left == []
    else:
        assert left == [f".flat.partial-{running.pid}"]
    assert len(read_tree(generate_flat(tmp_path / "flat", 3))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["flat"]


def test_two_at_once_draw_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = drawing(tmp_path / "flat")
    assert first.stdout is not None
    assert first.stdout.readline()
    monkeypatch.setattr(generate, "draw_jpeg", None)  # the second draws nothing, it waits
    assert len(read_tree(generate_flat(tmp_path / "flat", 404))) == 404
    assert "Another process is drawing" in caplog.text
    assert first.communicate(timeout=120)[0].endswith("complete\n")


def test_without_locks_the_faster_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def overtake(done: int, total: int) -> None:
        if done == total:
            shutil.copytree(other, tmp_path / "here/flat")

    other = generate_flat(tmp_path / "there/flat", 3)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert read_tree(generate_flat(tmp_path / "here/flat", 3, progress=overtake)) == read_tree(other)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["flat"]


def test_generated_dataset_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    drawn: list[tuple[int, int]] = []
    first = generated_dataset(4, progress=lambda *report: drawn.append(report))
    again = generated_dataset(4, progress=lambda *report: drawn.append(report))
    assert len(first) == len(drawn) == 4
    assert again.fingerprint == first.fingerprint
    assert first.root.is_relative_to(tmp_path / "bench-jpegs")
