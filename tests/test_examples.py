"""Every example runs as it says in its first lines, and prints what it is about."""

import re
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvidia.dali")

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTS = {
    "another_network": r"^epoch 0, step 0: loss [\d.]+\nepoch 1, step 0: loss [\d.]+\n0 images could not be used\n$",
    "loader": r"12 images of 3 classes .*\nstep 0: \(12, 3, 224, 224\), mean [+-][\d.]+, first image: n0[123]\n$",
    "colour_statistics": r"^12 images, 786,432 pixels\n(.*\n)+divisor while lighting is on: \[1\. 1\. 1\.\]\n$",
    "train_tiny": r"^epoch 0, step 1: loss [\d.]+\ntop-1 error [\d.]+% of 6 images, ten views\n$",
}


def test_all_are_known() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PRINTS.keys()


@pytest.mark.usefixtures("quiet_machine")
@pytest.mark.parametrize("name", PRINTS)
def test_it_runs(
    name: str, tiny_tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EXAMPLES / f"{name}.py"
    assert f"    python examples/{name}.py [DATA]\n" in path.read_text()
    monkeypatch.setattr(sys, "argv", [str(path), str(tiny_tree)])
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(PRINTS[name], capsys.readouterr().out)


def test_they_are_short() -> None:
    assert all(len(path.read_text().splitlines()) <= 50 for path in EXAMPLES.glob("*.py"))
