"""What may happen to a loader while it runs: files that fail, ranks, interruptions, other ends, many epochs."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("nvidia.dali")
from streams import corrupt_tables

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.bad_images import add_bad
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import TooManyBadFiles
from alexnet.pipeline.loader import Batch, Loader
from alexnet.pipeline.plan import draw_epoch
from alexnet.pipeline.treatment import Treatment

HERE = Path(__file__).parent
TREATMENT = Treatment(mean=np.full(3, 100, np.float32), basis=np.diag([9, 5, 2]).astype(np.float32), lit_divisor=1.1)
NUM_IMAGES, BATCH = 24, 6
STEPS = NUM_IMAGES // BATCH  # an epoch

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def plant(root: Path) -> Path:
    """24 JPEGs of three classes, no two alike."""
    for i in range(NUM_IMAGES):
        rng = np.random.default_rng(i)
        picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((90 + i, 120 - 2 * i))
        path = root / "train" / f"class{i // 8}" / f"{i:02d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
    return root


def path_of(dataset: Dataset, i: int) -> Path:
    return dataset.root / dataset.name(i)


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-50])
    elif how == "replaced":  # of the same size
        path.write_bytes(b"x" * len(content))
    else:
        path.write_bytes(corrupt_tables(content))


def loader_of(
    dataset: Dataset, *, threads: int = 1, readers: int = 2, prefetch: int = 1, max_bad: float = 0.5, **changes: Any
) -> Loader:
    how = Settings(threads=threads, readers=readers, prefetch=prefetch, max_bad=max_bad)
    usual: dict[str, Any] = {"treatment": TREATMENT, "batch_size": BATCH, "seed": 3, "num_epochs": 3, "lit": lit}
    return Loader(dataset, settings=how, **(usual | changes))


def lit(epoch: int) -> bool:
    return epoch != 1


def assert_same(a: Sequence[Batch], b: Sequence[Batch]) -> None:
    assert [(x.epoch, x.step) for x in a] == [(x.epoch, x.step) for x in b]
    for x, y in zip(a, b, strict=True):
        assert x.indices.tolist() == y.indices.tolist()
        assert torch.equal(x.labels, y.labels)
        assert torch.equal(x.images, y.images)


def joined(parts: Sequence[Batch]) -> Batch:
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return Batch(images, labels, np.concatenate([p.indices for p in parts]), parts[0].epoch, parts[0].step)


# -- files that fail ---------------------------------------------------------------------------------------

SPOILT = {2: "deleted", 3: "truncated", 11: "replaced", 20: "tables", 23: "deleted"}  # 2 and 3 in a row; 23 is the last
SUBSTITUTE = {2: 4, 3: 4, 11: 12, 20: 21, 23: 0}


def test_files_that_fail_in_mid_training_are_replaced_alike_on_both_ranks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_dataset(plant(tmp_path), "train")
    whole = loader_of(dataset)
    ranks = [loader_of(dataset, rank=rank, num_ranks=2) for rank in (0, 1)]
    sources = [iter(loader) for loader in (whole, *ranks)]
    with caplog.at_level(logging.WARNING):
        for taken in range(3 * STEPS):
            if taken == 2:  # in the first epoch, some of them read ahead already
                for i, how in SPOILT.items():
                    spoil(path_of(dataset, i), how)
            one, *two = (next(source) for source in sources)
            planned = draw_epoch(NUM_IMAGES, 3, one.epoch)[BATCH * one.step : BATCH * one.step + BATCH].order
            both = joined(two)
            for found in (one, both):
                assert found.labels.tolist() == dataset.labels[found.indices].tolist()
                for i, used in zip(planned.tolist(), found.indices.tolist(), strict=True):
                    assert used == SUBSTITUTE.get(i, i) or (used == i and one.epoch == 0)  # read before it was spoilt
            if one.epoch > 0:
                assert_same([one], [both])
    assert whole.bad.keys() == SPOILT.keys()
    assert ranks[0].bad.keys() | ranks[1].bad.keys() == SPOILT.keys()
    for loader in (whole, *ranks):
        assert all(text in loader.bad.get(i, text) for i, text in {2: "No such file", 3: "were listed"}.items())
    said = [record.getMessage() for record in caplog.records]
    for i in SPOILT:
        times = sum(i in loader.bad for loader in (whole, *ranks))
        assert sum(line.startswith(f"Bad image {dataset.name(i)}: ") for line in said) == times  # once each
    assert all(next(source, None) is None for source in sources)
    with pytest.raises(StopIteration):
        next(sources[0])


def test_too_many_failures_stop_both_ranks_at_one_step_with_one_message(tmp_path: Path) -> None:
    dataset = open_dataset(plant(tmp_path), "train")
    limit = 4.5 / NUM_IMAGES  # four may fail
    ranks = [loader_of(dataset, max_bad=limit, rank=rank, num_ranks=2, num_epochs=100) for rank in (0, 1)]
    sources = [iter(loader) for loader in ranks]
    for source in sources:
        next(source)
    for i, how in SPOILT.items():
        spoil(path_of(dataset, i), how)
    messages: list[str] = []
    while not messages:
        for source in sources:
            next(source)  # no rank has met five of them by itself
        met = [dict(loader.bad) for loader in ranks]
        for loader in ranks:
            try:
                for theirs in met:
                    add_bad(dataset, loader.bad, theirs, limit)
            except TooManyBadFiles as error:
                messages.append(str(error))
    assert len(messages) == 2
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"5 of 24 images (20.83%) cannot be used, more than --max-bad {limit:g} allows. ")
    assert all(dataset.name(i) in messages[0] for i in (2, 3, 11))
    for source in sources:
        source.close()  # type: ignore[attr-defined]
    alone = loader_of(dataset, max_bad=limit)
    with pytest.raises(TooManyBadFiles) as caught:
        list(alone)
    assert str(caught.value) == messages[0]


def test_a_failure_that_passes_leaves_no_trace_in_later_batches(tmp_path: Path) -> None:
    dataset = open_dataset(plant(tmp_path), "train")
    expected = list(loader_of(dataset))
    hidden = path_of(dataset, 5).rename(tmp_path / "away")
    loader = loader_of(dataset)
    source = iter(loader)
    first = list(islice(source, STEPS))
    assert 5 in loader.bad
    assert 5 not in np.concatenate([batch.indices for batch in first])
    hidden.rename(path_of(dataset, 5))
    assert_same(list(source), expected[STEPS:])


@pytest.mark.parametrize(("batch_size", "num_ranks"), [(1, 2), (5, 6)])
def test_a_batch_that_leaves_a_rank_without_images_is_refused(tmp_path: Path, batch_size: int, num_ranks: int) -> None:
    dataset = open_dataset(plant(tmp_path), "train")
    message = f"A batch of {batch_size} cannot be shared by {num_ranks} ranks: raise --batch-size"
    with pytest.raises(ValueError, match=message):
        loader_of(dataset, batch_size=batch_size, rank=0, num_ranks=num_ranks)
    assert len(next(iter(loader_of(dataset, batch_size=batch_size, rank=0, num_ranks=batch_size))).labels) == 1


# -- resuming ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Dataset, list[Batch]]]:
    """Three epochs of a good set and of one with bad images, by two threads; epoch 1 is not lit."""
    found = {}
    for spoilt in (False, True):
        root = plant(tmp_path_factory.mktemp("unbroken"))
        dataset = open_dataset(root, "train")
        for i, how in SPOILT.items() if spoilt else ():
            spoil(path_of(dataset, i), how)
        found[spoilt] = dataset, list(loader_of(dataset, threads=2, prefetch=2))
    return found


@settings(max_examples=45)
@given(
    spoilt=st.booleans(),
    position=st.integers(0, 3 * STEPS - 1),
    threads=st.integers(1, 3),
    readers=st.integers(1, 5),
    prefetch=st.integers(1, 3),
    count=st.integers(1, 4),
)
def test_resumed_anywhere_by_any_threads_the_batches_are_the_same_bits(
    unbroken: dict[bool, tuple[Dataset, list[Batch]]],
    spoilt: bool,
    position: int,
    threads: int,
    readers: int,
    prefetch: int,
    count: int,
) -> None:
    dataset, expected = unbroken[spoilt]
    loader = loader_of(dataset, threads=threads, readers=readers, prefetch=prefetch)
    resumed = loader.batches(*divmod(position, STEPS))
    assert_same(list(islice(resumed, count)), expected[position : position + count])
    resumed.close()  # type: ignore[attr-defined]


def test_resumed_to_the_end_by_one_two_and_three_threads(unbroken: dict[bool, tuple[Dataset, list[Batch]]]) -> None:
    for spoilt, (dataset, expected) in unbroken.items():
        for threads in (1, 2, 3):
            loader = loader_of(dataset, threads=threads)
            assert_same(list(loader.batches(1, threads)), expected[STEPS + threads :])
            assert bool(loader.bad) == spoilt


# -- other ends --------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[str, signal.Signals | None, int, str]] = {  # way, signal, exit code, last line of stderr
    "Ctrl-C": ("loop", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    "Ctrl-C between batches": ("wait", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
    "SIGTERM": ("loop", signal.SIGTERM, -signal.SIGTERM, ""),
    "an error": ("error", None, 1, "ZeroDivisionError: in the training loop"),
    "an exit with four loaders running": ("leave", None, 7, ""),
    "a loader dropped": ("drop", None, 0, ""),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and last line of stderr of a process for each of them, all at once."""
    tree = str(plant(tmp_path_factory.mktemp("ends")))
    children = {
        name: warm.Popen([sys.executable, HERE / "endings.py", tree, way], stdout=warm.PIPE, stderr=warm.PIPE)
        for name, (way, *_) in ENDS.items()
    }
    found = {}
    for name, child in children.items():
        assert child.stdout is not None
        assert child.stdout.readline() == "going\n", child.communicate()[1]
        number = ENDS[name][1]
        if number is not None:
            child.send_signal(number)
        try:
            _, error = child.communicate(timeout=180)
        except TimeoutError:
            error = "it did not end\n"
        found[name] = child.wait(), (error.splitlines() or [""])[-1]
    return found


@pytest.mark.parametrize("name", ENDS)
def test_a_process_ends_with_its_loader(ended: dict[str, tuple[int, str]], name: str) -> None:
    *_, code, last_line = ENDS[name]
    assert ended[name] == (code, last_line)


# -- many epochs -------------------------------------------------------------------------------------------


def test_memory_threads_and_files_do_not_grow(tmp_path: Path) -> None:
    """`benchmarks/memory.py`, shorter: streams that are made anew leak most when they leak."""
    command = [sys.executable, str(HERE.parent / "benchmarks/memory.py"), "--epochs", "24", "--json"]
    command += ["--only", "one stream", "--only", "a stream an epoch", "--arenas", "one arena"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    for case, found in json.loads(child.stdout).items():
        assert found["epochs"] == 24
        assert found["mib_grown"] < 64, case  # a batch has 9 MiB: one lost an epoch would make 180
        assert found["threads_grown"] <= 0, case
        assert found["files_grown"] <= 0, case
