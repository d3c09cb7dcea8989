"""Every safetensors file that is not a whole network of ours is refused in one line that says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import SMALL, small
from runs import invoke
from safetensors.numpy import save as serialised

from alexnet.pipeline.errors import CheckpointError
from alexnet.train.checkpoint import Checkpoint
from alexnet.train.config import Config
from alexnet.train.safe_tensors import load_safetensors, save_safetensors

Parts = tuple[dict[str, Any], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "net.safetensors"
    model = small(num_classes=2)
    arrays = {"mean": np.zeros(3, np.float32), "divisor": np.ones(3, np.float32)}
    classes = ["a", "b\udcff"]  # whatever the name of a folder holds
    config = Config(**SMALL)
    save_safetensors(
        path, Checkpoint(config=config, classes=classes, epoch=0, step=0, model=model.state_dict(), arrays=arrays)
    )
    return path


def parts_of(path: Path) -> Parts:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["alexnet"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_names_that_are_no_text_survive(whole: Path) -> None:
    assert load_safetensors(whole).classes == ["a", "b\udcff"]


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_cut_short(whole: Path, share: float, tmp_path: Path) -> None:
    path, content = tmp_path / "net.safetensors", whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=rf"^{path}: cut short, or not a safetensors file \(.*\): copy it again$"):
        load_safetensors(path)


@pytest.mark.parametrize("content", [b"junk", b"<!DOCTYPE html>" * 20, b"PK\3\4" + bytes(100)])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    said = invoke("figure", "kernels", path, "--out", tmp_path / "kernels.png", code=1).stderr
    assert said.startswith(f"Error: {path}: cut short, or not a safetensors file (")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"alexnet": "{}"}, {"alexnet": '{"format": "else"}'}])
def test_files_of_other_programs(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(serialised({"features.0.weight": np.zeros(3, np.float32)}, metadata))
    with pytest.raises(CheckpointError, match=r"net.safetensors: another program's safetensors, which do not say what"):
        load_safetensors(path)


def without(name: str) -> Callable[[Parts], object]:
    return lambda parts: parts[1].pop(name)


def with_array(name: str, array: Any) -> Callable[[Parts], object]:
    return lambda parts: parts[1].update({name: array})


def with_fact(name: str, value: Any) -> Callable[[Parts], object]:
    return lambda parts: parts[0].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("conv3.bias"), "model conv3.bias is missing"),
        (with_array("conv9.bias", np.zeros(2, np.float32)), "model conv9.bias is unknown"),
        (with_array("fc8.bias", np.zeros(9, np.float32)), r"model fc8.bias: expected shape \(2,\), found \(9,\)"),
        (with_array("fc8.bias", np.zeros(2, np.int32)), "model fc8.bias: expected float32 or float64, found int32"),
        (without("treatment.mean"), "treatment.mean is missing"),
        (with_array("treatment.std", np.zeros(3, np.float32)), "treatment.std is unknown"),
        (with_array("treatment.mean", np.zeros((9, 9, 3), np.float32)), r"treatment.mean: expected float32 \(3,\) or"),
        (with_fact("version", 2), "format 2 is newer than this program's, 1: update alexnet"),
        (with_fact("classes", "ab"), "metadata classes: expected list, found 'ab'"),
        (with_fact("config", {"colour": 1}), "its configuration does not fit this version: unknown setting 'colour'"),
    ],
)
def test_what_does_not_fit(change: Callable[[Parts], object], message: str, whole: Path, tmp_path: Path) -> None:
    path, parts = tmp_path / "net.safetensors", parts_of(whole)
    change(parts)
    path.write_bytes(serialised(parts[1], {"alexnet": json.dumps(parts[0])}))
    with pytest.raises(CheckpointError, match=f"^{path}: {message}"):
        load_safetensors(path)
