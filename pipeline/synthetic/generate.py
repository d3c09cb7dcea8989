"""Generated data sets: ten classes of drawn pictures to train on, and photograph-like JPEGs to time loaders with.

`draw.py` makes the pictures; `dataset/` finds the files like any others. Each picture has a random stream of its own,
so its bytes do not depend on the number of processes.
"""

import fcntl
import glob
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import cache_folder, needed_cache
from ..children import end_with_parent, no_ctrl_c
from ..dataset.images import Dataset
from ..dataset.open import open_dataset
from ..errors import UserError
from ..files import sync_folder
from ..machine.hardware import num_cores
from .draw import KINDS, Kind, draw_jpeg

log = logging.getLogger("alexnet")

GENERATOR = 2  # version of the pictures: a tree of another version is not reused
MARKER = "generated.json"
Progress = Callable[[int, int], None]


class _Job(NamedTuple):
    """One picture to draw: its file below the root, the key of its random stream, what it shows."""

    path: str
    key: tuple[int, ...]
    kind: Kind | None


def generate_tree(
    root: Path,
    *,
    train_per_class: int,
    val_per_class: int,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Draw ten classes as `root/train/<class>/*.JPEG` and `root/val/<class>/*.JPEG`; return `root`.

    The tree appears complete or not at all, and one with the same parameters is reused. `processes` defaults
    to the number of cores; they are spawned, so a script that calls this needs the usual `__main__` guard.
    `progress(done, total)` is called after each picture.
    """
    counts = {"train": train_per_class, "val": val_per_class}
    jobs = [
        _Job(f"{split}/{kind.name}/{kind.name}_{i:05d}.JPEG", (seed, s, k, i), kind)
        for s, (split, count) in enumerate(counts.items())
        for k, kind in enumerate(KINDS)
        for i in range(count)
    ]
    return _build(root, {"kind": "tree", **counts, "seed": seed}, jobs, processes, progress)


def generate_flat(
    root: Path, count: int, seed: int = 0, *, processes: int | None = None, progress: Progress | None = None
) -> Path:
    """Draw `count` photograph-like JPEGs as `root/train/<number>/*.JPEG`, 100 per folder; return `root`.

    They show no objects: they are for measuring loaders without a data set. As in `generate_tree`, the tree is
    complete or absent, and reused.
    """
    jobs = [_Job(f"train/{i // 100:04d}/{i:06d}.JPEG", (seed, i), None) for i in range(count)]
    return _build(root, {"kind": "flat", "train": count, "seed": seed}, jobs, processes, progress)


def generated_dataset(count: int, seed: int = 0, *, progress: Progress | None = None) -> Dataset:
    """Open `count` JPEGs of ImageNet's sizes, drawn once into the cache folder, for machines without a data set."""
    folder, name = cache_folder(), f"bench-jpegs/{count}-seed{seed}-v{GENERATOR}"
    if folder is None or not (folder / name).exists():
        folder = needed_cache("The JPEGs generated when no DATA is given go there.")
    return open_dataset(generate_flat(folder / name, count, seed, progress=progress), "train")


def _build(
    root: Path, facts: dict[str, Any], jobs: list[_Job], processes: int | None, progress: Progress | None
) -> Path:
    """Draw `jobs` into a sibling of `root` and rename it when complete; a second process waits for the first."""
    facts = {"generator": GENERATOR, **facts}
    if _is_generated(root, facts):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _turn(root) as locked:
        if _is_generated(root, facts):
            return root
        for abandoned in root.parent.glob(f".{glob.escape(root.name)}.partial-*") if locked else ():
            shutil.rmtree(abandoned, ignore_errors=True)  # its process was killed
        draft = root.with_name(f".{root.name}.partial-{os.getpid()}")
        try:
            for folder in sorted({(draft / job.path).parent for job in jobs}):
                folder.mkdir(parents=True)
            for done, _ in enumerate(_draw_all(draft, jobs, processes or num_cores()), start=1):
                if progress:
                    progress(done, len(jobs))
            (draft / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
            os.sync()  # once for thousands of files, before the folder gets its name
            try:
                draft.rename(root)  # an empty folder in the way is replaced
                sync_folder(root.parent)
            except OSError:
                if locked or not _is_generated(root, facts):  # without locks another process may have been faster
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return root


@contextmanager
def _turn(root: Path) -> Iterator[bool]:
    """Wait for this process's turn to draw beside `root`; yield False if the file system has no locks."""
    descriptor = os.open(root.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _lock(descriptor, root)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, root: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("Another process is drawing into %s; waiting for it.", root)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_generated(root: Path, facts: dict[str, Any]) -> bool:
    """Return whether `root` is the tree that `facts` describe; UserError if it is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    marker = root / MARKER
    found = json.loads(marker.read_text()) if marker.is_file() else None
    if found != facts:
        what = f"was generated with {found}" if found else f"was not generated here (it has no {MARKER})"
        raise UserError(f"{root} {what}; wanted {facts}. Choose another folder, or remove this one.")
    return True


def _draw_all(root: Path, jobs: list[_Job], processes: int) -> Iterator[None]:
    """Draw every job, yielding after each; use several processes if there is enough work for them."""
    draw = partial(_draw, root)
    processes = min(processes, len(jobs) // 200)
    if processes < 2:
        yield from map(draw, jobs)
        return
    context = multiprocessing.get_context("spawn")  # the caller may have threads of torch and DALI
    with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
        try:
            with no_ctrl_c():  # Ctrl-C would break the pool; the parent gets it too and ends the pool properly
                drawn = pool.map(draw, jobs, chunksize=16)
            yield from drawn
        finally:
            pool.shutdown(cancel_futures=True)


def _draw(root: Path, job: _Job) -> None:
    (root / job.path).write_bytes(draw_jpeg(job.key, job.kind))
