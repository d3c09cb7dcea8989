"""What this machine has, what it lacks, what that costs and how to get it: `alexnet doctor`.

Every probe stands alone and may fail alone: `diagnose` never raises. A package is imported by the probe that needs it,
so that one that is missing or broken becomes a finding.
"""

import os
import platform
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import permutations
from pathlib import Path
from typing import Literal

from ..cache import cache_folder, cache_problem
from ..compiled import NotBuilt, load
from .dali_trial import dali_decodes
from .hardware import core_quota, driver_version, jpeg_engines, memory, num_cores, query_gpus

Status = Literal["ok", "warn", "missing"]
Outcome = tuple[Status, str, str, str]  # a Finding without its area

GIB = 2**30
DRIVER_FOR_CUDA = {11: 450, 12: 525, 13: 580}  # the first NVIDIA driver for each major version of CUDA
REINSTALL = "in the source folder `rm -r .venv; make demo` installs versions that fit together"


@dataclass(frozen=True)
class Finding:
    """One thing examined: what was found and, unless all is well, what that costs and what to do about it."""

    area: str
    status: Status
    found: str
    cost: str = ""
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Examine everything; a probe that fails becomes a finding itself."""
    return [_examine(area, probe) for area, probe in PROBES.items()]


def _examine(area: str, probe: Callable[[], Outcome]) -> Finding:
    try:
        return Finding(area, *probe())
    except (ImportError, NotBuilt) as error:
        return Finding(area, "missing", f"cannot be imported: {error}", "what needs it fails", REINSTALL)
    except Exception as error:
        found = f"could not be examined: {type(error).__name__}: {error}"
        return Finding(area, "warn", found, "nothing is known about it", "none needed if all else works")


def _ok(found: str) -> Outcome:
    return "ok", found, "", ""


def _python() -> Outcome:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if platform.system() != "Linux":
        return "missing", found, "DALI is for Linux: no image is decoded", "use Linux, WSL 2 or a container"
    return _ok(found)


def _cores() -> Outcome:
    usable, quota = num_cores(), core_quota()
    found = f"{usable} of {os.cpu_count()} usable"
    if quota < usable:
        cost = "the kernel pauses threads that want more, which is slower than running fewer"
        return "warn", f"{found}, a cgroup grants {quota:g}", cost, f"--threads {max(1, int(quota))}"
    if usable < 4:
        cost = "decoding original JPEGs limits the speed of training on a GPU"
        return "warn", found, cost, "more cores, or images reduced beforehand by `alexnet pack`, which decode faster"
    return _ok(found)


def _memory() -> Outcome:
    free, total = memory()
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB available"
    if free < 8 * GIB:
        cost = "commands need up to 8 GiB with ImageNet, and files that do not stay in memory are read again"
        return "warn", found, cost, "a smaller --batch-size and fewer --threads need less"
    return _ok(found)


def _shared_memory() -> Outcome:
    size = shutil.disk_usage("/dev/shm").total
    found = f"/dev/shm holds {size / GIB:.1f} GiB"
    if size < GIB:
        cost = "NCCL, and the loaders that ours is compared with, run out of it"
        return "warn", found, cost, "in a container: docker run --ipc=host, or --shm-size=8g"
    return _ok(found)


def _open_files() -> Outcome:
    import resource

    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < 1024:  # -1 is no limit
        remedy = f"ulimit -n {hard}" if hard >= 1024 else "ask the administrator for more"
        return "warn", f"limit of {limit}", "data sets of many archives cannot be opened", remedy
    return _ok(f"limit of {limit}" if limit >= 0 else "no limit")


def _cache() -> Outcome:
    folder, problem = cache_folder(), cache_problem()
    if folder is None or problem:
        cost = "lists of images and statistics are made again each time; mesh training and `bench-loader` may need it"
        return "missing", problem, cost, "set ALEXNET_CACHE to a writable folder"
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / GIB:.0f} GiB free"
    if free < 2 * GIB:
        return "warn", found, "generated data sets may not fit", "set ALEXNET_CACHE to a folder on a larger disk"
    return _ok(found)


def _data() -> Outcome:
    from ..dataset.layouts import find_layout  # these need numpy, and the doctor must start without it
    from ..dataset.open import locate
    from ..errors import DatasetError
    from ..remote.urls import url_of

    try:
        root = locate(None)
        if url := url_of(root):
            return _ok(f"{url}, not looked at")
        layouts = [find_layout(root, split).describe for split in ("train", "val")]
    except DatasetError as error:
        cost = "commands need DATA on their command line; `demo` and `bench-loader` generate their own"
        return "missing", str(error), cost, "point ALEXNET_DATA at the folder that holds train/ and val/"
    return _ok(f"{root}: {', '.join(layouts)}")


def _driver() -> Outcome:
    driver = driver_version()
    if driver is None:
        cost = "training runs on the CPU: fine for the demo, months for ImageNet"
        return "missing", "no NVIDIA driver", cost, "a machine with an NVIDIA GPU; in a container: --gpus all"
    found = f"NVIDIA driver {driver}"
    for name, cuda in _cuda_builds().items():
        needed = DRIVER_FOR_CUDA.get(cuda, max(DRIVER_FOR_CUDA.values()))
        if int(driver.split(".")[0]) < needed:
            remedy = f"driver {needed} or newer, or a {name} built for an older CUDA"
            return "warn", f"{found}, older than CUDA {cuda} needs", f"{name} cannot use the GPU", remedy
    return _ok(found)


def _cuda_builds() -> dict[str, int]:
    """The major version of CUDA that each installed package was built for."""
    names = [package.name or "" for package in metadata.distributions()]
    dali = re.search(r"\bnvidia-dali-cuda(\d\d)", " ".join(names))
    builds = {"DALI": int(dali[1])} if dali else {}
    with suppress(ImportError):
        import torch

        if torch.version.cuda:
            builds["torch"] = int(torch.version.cuda.partition(".")[0])
    return builds


def _gpus() -> Outcome:
    gpus = query_gpus("name,memory.total,compute_cap")
    if not gpus:
        return "missing", "none", "training runs on the CPU", "a machine with an NVIDIA GPU"
    if old := [gpu for gpu in gpus if gpu.rpartition(", ")[2].partition(".")[0] in ("5", "6", "7")]:
        name = old[0].partition(",")[0]
        cost = f"{name} has no bfloat16 (compute capability 8.0 has) and trains in float32, several times slower"
        return "warn", "; ".join(gpus), cost, "a newer card, such as A100, L4, RTX 30 or later"
    return _ok("; ".join(gpus))


def _jpeg_engines() -> Outcome:
    names = query_gpus("name")
    engines = [jpeg_engines(name) for name in names]
    if not any(engines):
        found = "none known for these GPUs" if names else "no GPU"
        cost = f"JPEGs are decoded by {'CUDA and ' if names else ''}CPU cores"
        return "missing", found, cost, "A100, H100 and H200 have them"
    return _ok(f"{', '.join(map(str, engines))} by architecture")


def _peer_access() -> Outcome:
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return _ok("only matters with two or more GPUs")
    pairs = list(permutations(range(count), 2))
    apart = [f"{a}-{b}" for a, b in pairs if not torch.cuda.can_device_access_peer(a, b)]
    if apart:
        cost = "towers on these GPUs exchange activations through host memory"
        found = f"{len(pairs) - len(apart)} of {len(pairs)} pairs; not {', '.join(apart[:8])}"
        return "warn", found, cost, "choose a pair that has it with --devices A,B (see nvidia-smi topo -m)"
    return _ok(f"between all {count} GPUs")


def _torch() -> Outcome:
    import torch

    count = torch.cuda.device_count()
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    found = f"{torch.__version__} {build}, sees {count} GPU{'s' if count != 1 else ''}"
    if driver_version() and count == 0:
        remedy = "install a torch built for CUDA; look at CUDA_VISIBLE_DEVICES"
        return "warn", f"{found} though there is a driver", "training runs on the CPU", remedy
    if strange := _gpus_not_built_for():
        remedy = "a torch whose wheel has kernels for it: older cards need an older CUDA, newer ones a newer torch"
        return "warn", f"{found}, but has no kernels for {strange}", "nothing can be computed there", remedy
    return _ok(found)


def _gpus_not_built_for() -> str:
    """Name the GPUs for which torch has neither machine code nor intermediate code that the driver can compile."""
    import torch

    built = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", arch) for arch in torch.cuda.get_arch_list()]
    kinds = [(m[1], (int(m[2]), int(m[3]))) for m in built if m]
    strange = []
    for index in range(torch.cuda.device_count()):
        own = torch.cuda.get_device_capability(index)
        if not any(ready <= own and (kind == "compute" or ready[0] == own[0]) for kind, ready in kinds):
            strange.append(f"{torch.cuda.get_device_name(index)} (compute capability {own[0]}.{own[1]})")
    return ", ".join(strange)


def _distributed() -> Outcome:
    from torch import cuda, distributed

    names = ("nccl", "gloo")
    there = [name for name in names if distributed.is_available() and distributed.is_backend_available(name)]
    found = ", ".join(there) or "no backend"
    if not there or (cuda.device_count() > 1 and "nccl" not in there):
        cost = "torch processes cannot communicate" if not there else "GPUs exchange through host memory"
        return "missing", found, cost, "install torch from its own wheels, which hold both NCCL and gloo"
    return _ok(found)


def _dali() -> Outcome:
    decoded, found = dali_decodes("cpu")
    if not decoded:
        return "missing", found, "no image can be decoded", REINSTALL
    found += ", decodes on the CPU"
    if driver_version() is None:
        return _ok(found)
    decoded, why = dali_decodes("mixed")
    if not decoded:
        remedy = "a newer driver, or the nvJPEG, NPP and cuFFT packages for DALI's version of CUDA"
        return "warn", f"{found}, but not on the GPU: {why}", "decoding needs --decode-on cpu", remedy
    return _ok(f"{found} and the GPU")


def _compiled() -> Outcome:
    decode = (f"pipeline/decode/{name}.c" for name in ("jpeg", "resample", "dct", "transcode"))
    parts = *decode, "train/network/lrn_cpu.c"
    for part in parts:
        load(Path(__file__).parents[2] / part)
    return _ok(", ".join(parts))


def _pillow() -> Outcome:
    from PIL import __version__, features

    if not features.check("jpg"):
        return "missing", f"{__version__} without JPEG", "nothing can be packed or generated", REINSTALL
    return _ok(f"{__version__}, {'libjpeg-turbo' if features.check('libjpeg_turbo') else 'libjpeg'}")


def _matplotlib() -> Outcome:
    import matplotlib

    return _ok(matplotlib.__version__)


PROBES: dict[str, Callable[[], Outcome]] = {
    "Python": _python,
    "CPU cores": _cores,
    "memory": _memory,
    "shared memory": _shared_memory,
    "open files": _open_files,
    "cache folder": _cache,
    "data set": _data,
    "NVIDIA driver": _driver,
    "GPUs": _gpus,
    "JPEG engines": _jpeg_engines,
    "peer access": _peer_access,
    "torch": _torch,
    "NCCL and gloo": _distributed,
    "DALI": _dali,
    "compiled code for CPUs": _compiled,
    "Pillow": _pillow,
    "matplotlib": _matplotlib,
}
