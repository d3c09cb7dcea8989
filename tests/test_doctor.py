"""The doctor: every probe answers, none can end the examination, each lack has its cost and remedy."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet.cli import main
from alexnet.pipeline.decode import dct
from alexnet.pipeline.machine import doctor, hardware
from alexnet.pipeline.machine.doctor import PROBES, Finding, diagnose


def examine(area: str) -> Finding:
    return doctor._examine(area, PROBES[area])


def fake_gpus(monkeypatch: pytest.MonkeyPatch, names: list[str], driver: str | None) -> None:
    monkeypatch.setattr(doctor, "query_gpus", lambda fields: names)
    monkeypatch.setattr(doctor, "driver_version", lambda: driver)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Puts files in the place of /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(hardware, "PROC", tmp_path / "proc")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path / "cgroup")

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


def test_examines_everything_and_whatever_is_wrong_has_a_remedy() -> None:
    findings = diagnose()
    assert [finding.area for finding in findings] == list(PROBES)
    for finding in findings:
        assert finding.found
        assert "could not be examined" not in finding.found
        assert (finding.status == "ok") == (not finding.cost) == (not finding.remedy), finding
    statuses = {finding.area: finding.status for finding in findings}
    found = {finding.area: finding.found for finding in findings}
    assert {f"pipeline/decode/{path.name}" for path in Path(dct.__file__).parent.glob("*.c")} <= {
        *found["compiled code for CPUs"].split(", ")
    }
    assert {statuses[a] for a in ("Python", "DALI", "compiled code for CPUs", "torch", "Pillow")} == {"ok"}


def test_probes_that_raise_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Outcome:
        raise RuntimeError("boom")

    def absent() -> doctor.Outcome:
        import no_such_package  # type: ignore[import-not-found]

        return doctor._ok(no_such_package.__version__)

    monkeypatch.setattr(doctor, "PROBES", {"a": broken, "b": absent})
    first, second = diagnose()
    assert (first.status, first.found) == ("warn", "could not be examined: RuntimeError: boom")
    assert (second.status, second.remedy) == ("missing", doctor.REINSTALL)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("import os; os.abort()", "the process ended with code -6"),
        ("raise ImportError('libcuda.so.1')", "ImportError: libcuda.so.1"),
    ],
)
def test_dali_that_dies_does_not_take_us_along(monkeypatch: pytest.MonkeyPatch, script: str, found: str) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run([sys.executable, "-c", script], **options))
    finding = examine("DALI")
    assert (finding.status, finding.found) == ("missing", found)


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "cgroup/pod/box/cpu.max": "max 100000",
            "cgroup/pod/cpu.max": "150000 100000",
        },
        {
            "proc/self/cgroup": "3:memory:/\n4:cpu,cpuacct:/box\n",
            "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    ],
    ids=["cgroup2", "cgroup1"],
)
def test_core_quota_of_a_container(
    kernel: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    assert hardware.core_quota() == float("inf")
    kernel(files)
    assert hardware.core_quota() == 1.5
    monkeypatch.setattr(doctor, "num_cores", lambda: 8)
    finding = examine("CPU cores")
    assert (finding.status, finding.remedy) == ("warn", "--threads 1")


def test_memory_limit_of_a_container(kernel: Callable[[dict[str, str]], None]) -> None:
    meminfo = "MemTotal:       33554432 kB\nMemFree:  1 kB\nMemAvailable:   16777216 kB\n"
    kernel({"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "cgroup/memory.max": "max"})
    assert examine("memory") == Finding("memory", "ok", "16.0 of 32.0 GiB available")
    kernel({"cgroup/memory.max": str(2 * 2**30)})
    assert examine("memory").status == "warn"
    assert examine("memory").found == "2.0 of 2.0 GiB available"


@pytest.mark.parametrize(("driver", "status"), [("470.82.01", "warn"), ("525.60.13", "ok"), (None, "missing")])
def test_driver_must_suit_dali(monkeypatch: pytest.MonkeyPatch, driver: str | None, status: str) -> None:
    fake_gpus(monkeypatch, [], driver)
    monkeypatch.setattr(doctor, "_cuda_builds", lambda: {"DALI": 12})
    finding = examine("NVIDIA driver")
    assert finding.status == status
    assert ("driver 525 or newer" in finding.remedy) == (status == "warn")


def test_cuda_version_of_dali_is_read_from_its_package() -> None:
    assert doctor._cuda_builds()["DALI"] == 12


def test_driver_version_is_read_from_the_kernel_module(kernel: Callable[[dict[str, str]], None]) -> None:
    kernel({"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Kernel Module  535.104.05  Sat\nGCC 12.3.0"})
    assert hardware.driver_version() == "535.104.05"


@pytest.mark.parametrize(
    ("gpus", "status", "found"),
    [
        (["NVIDIA H200", "NVIDIA A100-SXM4-80GB"], "ok", "7, 5 by architecture"),
        (["NVIDIA GeForce RTX 4090"], "missing", "none known for these GPUs"),
        ([], "missing", "no GPU"),
    ],
)
def test_jpeg_engines(monkeypatch: pytest.MonkeyPatch, gpus: list[str], status: str, found: str) -> None:
    fake_gpus(monkeypatch, gpus, None)
    assert (examine("JPEG engines").status, examine("JPEG engines").found) == (status, found)


@pytest.mark.parametrize(("connected", "status"), [(True, "ok"), (False, "warn")])
def test_peer_access(monkeypatch: pytest.MonkeyPatch, connected: bool, status: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.can_device_access_peer", lambda a, b: connected)
    assert examine("peer access").status == status


@pytest.mark.parametrize(
    ("own", "built", "works"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # code for 8.0 runs on all of 8.x
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),  # a V100 with a torch for CUDA 13
        ((12, 0), ["sm_80", "sm_90a"], False),  # an RTX 50 with an old torch
        ((12, 0), ["sm_80", "compute_90"], True),  # the driver compiles it
    ],
)
def test_torch_without_kernels_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, own: tuple[int, int], built: list[str], works: bool
) -> None:
    fake_gpus(monkeypatch, ["NVIDIA X"], "580.65.06")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: built)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: own)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA X")
    finding = examine("torch")
    assert finding.status == ("ok" if works else "warn")
    assert ("has no kernels for NVIDIA X (compute capability" in finding.found) is not works


def test_torch_that_sees_no_gpu_beside_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, ["NVIDIA H200"], "580.1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert "sees 0 GPUs though there is a driver" in examine("torch").found


def test_data_set_is_found_by_its_layout(tiny_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DATA", str(tiny_tree))
    finding = examine("data set")
    assert finding.status == "ok"
    assert "class folders in train/" in finding.found
    monkeypatch.setenv("ALEXNET_DATA", str(tiny_tree / "nowhere"))
    assert examine("data set").status == "missing"


@pytest.mark.gpu
def test_dali_decodes_on_the_gpu() -> None:
    assert examine("DALI").found.endswith("decodes on the CPU and the GPU")


def test_options_that_are_advised_exist() -> None:
    """Ours of some command, docker's by name."""
    of_docker = {"--gpus", "--ipc", "--shm-size"}
    ours = {name for command in main.commands.values() for parameter in command.params for name in parameter.opts}
    advised = set(re.findall(r"--[a-z][a-z-]*", inspect.getsource(doctor)))
    assert advised > of_docker
    assert advised <= ours | of_docker
