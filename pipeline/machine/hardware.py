"""Facts about this machine, read from the kernel and the NVIDIA driver; `doctor.py` judges them."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

CGROUP, PROC = Path("/sys/fs/cgroup"), Path("/proc")
JPEG_ENGINES = {"A100": 5, "H100": 7, "H200": 7}  # hardware JPEG decoders of a GPU, by architecture


def num_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of the processor's model, such as "AMD EPYC 7763 64-Core Processor"; else its architecture."""
    listing = PROC / "cpuinfo"
    facts = re.search(r"^model name\s*: (.+)$", listing.read_text() if listing.exists() else "", re.MULTILINE)
    return facts[1].strip() if facts else platform.machine()


def core_quota() -> float:
    """How many cores' worth of time control groups grant this process; infinite if they set no limit."""
    version_2 = (line.split() for line in _cgroup_files("cpu.max"))  # microseconds granted, and per how many
    version_1 = zip(_cgroup_files("cpu.cfs_quota_us"), _cgroup_files("cpu.cfs_period_us"), strict=True)
    grants = [int(quota) / int(period) for quota, period in (*version_1, *version_2) if quota not in ("max", "-1")]
    return min(grants, default=float("inf"))


def memory() -> tuple[int, int]:
    """Bytes available to this process, and bytes in all: the machine's, or what a control group grants."""
    facts = dict(line.split(":", 1) for line in (PROC / "meminfo").read_text().splitlines())
    total, free = (int(facts[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limits = [*_cgroup_files("memory.max"), *_cgroup_files("memory.limit_in_bytes")]
    total = min(int(limit) for limit in (str(total), *limits) if limit != "max")
    return min(free, total), total


def _cgroup_files(name: str) -> Iterator[str]:
    """The contents of a file in each control group of this process and in their parents, version 1 or 2."""
    listing = PROC / "self/cgroup"
    for line in listing.read_text().splitlines() if listing.exists() else ():
        _, controllers, path = line.split(":", 2)
        group = CGROUP / controllers / path.lstrip("/")
        while group.is_relative_to(CGROUP):
            if (group / name).is_file():
                yield (group / name).read_text().strip()
            group = group.parent


def driver_version() -> str | None:
    """Such as "535.104.05", from the kernel module or else nvidia-smi; None without an NVIDIA driver."""
    module = PROC / "driver/nvidia/version"
    text = module.read_text() if module.exists() else "\n".join(query_gpus("driver_version"))
    match = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return match and match[0]


def query_gpus(fields: str) -> list[str]:
    """What nvidia-smi says about each GPU, fields joined by commas; empty without a GPU or nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def jpeg_engines(gpu: str) -> int:
    """Hardware JPEG decoders of a GPU of this name; 0 where none are known."""
    return next((count for name, count in JPEG_ENGINES.items() if name in gpu), 0)
