"""Exact neighbours among as many rows as ImageNet has training images, from a file in the page cache.

    python benchmarks/neighbours.py --folder /data/scratch

Rows of 4,096 numbers are generated, rectified noise, 10.5 GB in each dtype: 1.28 million in float16, half as many in
float32, of which all would be 21 GB. Each search runs in its own process, so that its peak memory (VmHWM) is its own.
The queries are rows with a little noise, whose nearest row is therefore known. Files are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.pipeline.bench.conditions import machine
from alexnet.train.nearest import nearest

ROWS, WIDTH = 1_280_000, 4096
QUERIES, NEAREST = 5, 6
WRITTEN_AT_ONCE = 8192  # rows
PASSES = 4  # the first fills the page cache
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    if options.search:
        print(json.dumps(_search(options.search, options.threads)))
        return
    found = []
    for dtype, rows in (("float16", options.rows), ("float32", options.rows // 2)):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="alexnet-neighbours-") as folder:
            path = Path(folder) / "rows.npy"
            _generate(path, rows, dtype)
            command = [sys.executable, __file__, "--search", str(path), "--threads", str(options.threads)]
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found.append({"dtype": dtype, "rows": rows} | json.loads(child.stdout.splitlines()[-1]))
        print(json.dumps(found[-1]), flush=True)
    _save(options, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for scratch files, 10.5 GB")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _generate(path: Path, rows: int, dtype: str) -> None:
    """Write rows block by block, as numpy can map them."""
    generator = torch.Generator().manual_seed(0)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, WIDTH)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, WRITTEN_AT_ONCE):
            block = torch.rand(min(WRITTEN_AT_ONCE, rows - start), WIDTH, generator=generator)
            file.write(block.sub_(0.5).relu_().to(getattr(torch, dtype)).numpy().data)


def _search(path: Path, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    rows = np.load(path, mmap_mode="r")
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(len(rows), QUERIES, replace=False))
    queries = (rows[places] + rng.normal(0, 0.01, (QUERIES, WIDTH))).astype(np.float32)
    before = _peak_mib()
    passes = []
    for _ in range(PASSES):
        wall, cpu = time.perf_counter(), time.process_time()
        found = nearest(queries, rows, NEAREST)
        passes.append((round(time.perf_counter() - wall, 2), round(time.process_time() - cpu, 2)))
        assert (found.indices[:, 0] == places).all()
    return {"passes": passes, "peak_mib_before": before, "peak_mib": _peak_mib()}


def _peak_mib() -> int:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) // 1024 if peak else 0


def _save(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    facts, now = machine(None), datetime.now(UTC)
    lines = [
        f"# Exact neighbours of {QUERIES} queries, {now:%Y-%m-%d}",
        "",
        f"`{shlex.join(['python', *sys.argv])}`",
        "",
        f"{facts['cpu']}, {facts['cores']} cores, {options.threads} threads; load before: {os.getloadavg()[2]:.1f}. "
        f"Rows of {WIDTH:,} generated numbers; the {NEAREST} nearest of each query.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("cpu", "cores", "device")),
        "",
        "| rows | file, GB | first pass, s | warm passes, s | CPU seconds of each | peak MiB | before the search |",
        "|---|---|---|---|---|---|---|",
        *map(_row, found),
        "",
        "The first pass may read from the disk. Peak memory is that of the whole process, torch included.",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"neighbours-{now:%Y-%m-%d}.md"
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())


def _row(found: dict[str, Any]) -> str:
    size = found["rows"] * WIDTH * np.dtype(found["dtype"]).itemsize / 1e9
    (first, _), *warm = found["passes"]
    seconds = ", ".join(str(wall) for wall, _ in warm)
    cpu = ", ".join(str(cpu) for _, cpu in warm)
    return (
        f"| {found['rows']:,} of {found['dtype']} | {size:.1f} | {first} | {seconds} | {cpu} | {found['peak_mib']:,} "
        f"| {found['peak_mib_before']:,} |"
    )


if __name__ == "__main__":
    main()
