"""Put a data set's files into the kernel's page cache or drop them from it, without root, and see what is there.

`conditions.py` uses it to measure cold and warm. `posix_fadvise` asks the kernel to forget pages; it keeps those that
are dirty or mapped by a process, and file systems with memory of their own (tmpfs, ZFS, a network's server) keep
theirs. So `mincore` checks what stayed. Three caches can be neither emptied nor examined without root: the kernel's
names and inodes, the disk's own cache, and a hypervisor's.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np

from ..dataset.images import Dataset

Extents = list[tuple[int, int]]  # offset (where a page begins) and length, in bytes
MOUNTS = Path("/proc/self/mountinfo")
LARGEST_FOLIO = 512 * mmap.PAGESIZE  # pages that the kernel keeps together or not at all

_libc = ctypes.CDLL(None, use_errno=True)


def fill(dataset: Dataset, readers: int) -> None:
    """Read every image once; leave those that cannot be read to the loader."""

    def read(indices: range) -> None:
        for i in indices:
            with suppress(OSError, ValueError):
                dataset.read(i)

    with ThreadPoolExecutor(readers, thread_name_prefix="alexnet-fill") as pool, dataset.while_reading() as dataset:
        list(pool.map(read, (range(k, len(dataset), readers) for k in range(readers))))


def evict(dataset: Dataset) -> float | None:
    """Drop the images from memory; return the share of their pages that stayed, as `resident_share` does."""
    for descriptor, extents in _open_files(dataset):
        _forget(descriptor, extents, mmap.PAGESIZE)
        stayed = _count_resident(descriptor, extents)
        if stayed:
            with suppress(OSError):
                os.fdatasync(descriptor)  # dirty pages cannot be dropped
        if stayed != 0:  # or None, unknown; a folio may reach beyond the images
            _forget(descriptor, extents, LARGEST_FOLIO)
    return resident_share(dataset)


def resident_share(dataset: Dataset) -> float | None:
    """Return the share of the images' pages that is in memory; None if the kernel does not say.

    It tells only those who own a file or may write it; to others `mincore` claims that everything is there.
    """
    pages = resident = 0
    for descriptor, extents in _open_files(dataset):
        if (count := _count_resident(descriptor, extents)) is not None:
            pages += sum(-(-length // mmap.PAGESIZE) for _, length in extents)
            resident += count
    return resident / pages if pages else None


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, such as ext4, or "unknown"."""
    found = ("", "unknown")
    for line in MOUNTS.read_text().splitlines() if MOUNTS.exists() else ():
        mount, _, kind = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        if path.resolve().is_relative_to(point) and len(point) >= len(found[0]):  # a later mount hides an earlier one
            found = (point, kind.split()[0])
    return found[1]


def _open_files(dataset: Dataset) -> Iterator[tuple[int, Extents]]:
    """Yield every file that holds images and can be opened: a descriptor, and where they are in it."""
    for path, members in _files(dataset):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            size = os.fstat(descriptor).st_size
            spans = [(start, min(end, size)) for start, end in members]
            yield descriptor, [(start, end - start) for start, end in spans if end > start]
        finally:
            os.close(descriptor)


def _files(dataset: Dataset) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
    """Yield every file, and the byte ranges of its images; each starts where a page does."""
    starts = dataset.offsets // mmap.PAGESIZE * mmap.PAGESIZE
    spans = np.stack([starts, dataset.offsets + dataset.lengths], axis=1)
    order = np.argsort(dataset.container, kind="stable").tolist()
    for where, members in groupby(order, key=lambda i: int(dataset.container[i])):
        if where >= 0:
            yield dataset.containers[where], [(start, end) for start, end in spans[list(members)].tolist()]
        else:
            yield from ((dataset.root / dataset.names[i], [(0, int(dataset.lengths[i]))]) for i in members)


def _forget(descriptor: int, extents: Extents, unit: int) -> None:
    """Drop every `unit` of bytes that the extents touch, whole: the kernel keeps what is named in part."""
    for first, last in {(offset // unit, (offset + length - 1) // unit) for offset, length in extents}:
        os.posix_fadvise(descriptor, first * unit, (last + 1 - first) * unit, os.POSIX_FADV_DONTNEED)


def _count_resident(descriptor: int, extents: Extents) -> int | None:
    """Return how many of the pages are in memory; None if the kernel does not say (`can_do_mincore` in its
    mm/mincore.c) or the file system cannot map files."""
    owner = os.fstat(descriptor).st_uid
    if os.geteuid() not in (0, owner) and not os.access(f"/proc/self/fd/{descriptor}", os.W_OK):
        return None
    try:
        return sum(_resident_pages(descriptor, offset, length) for offset, length in extents)
    except OSError:
        return None


def _resident_pages(descriptor: int, offset: int, length: int) -> int:
    states = np.empty(-(-length // mmap.PAGESIZE), np.uint8)
    with mmap.mmap(descriptor, length, prot=mmap.PROT_READ, offset=offset) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        failed = _libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(length), states.ctypes)
        del view  # or the map could not be closed
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int((states & 1).sum())
