"""What the library offers: few names, imported when asked for, each with a description whose examples run."""

import ast
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from runs import invoke

import alexnet

CHECKOUT = Path(__file__).parents[1]
API, EXPORT = CHECKOUT / "docs/api.md", CHECKOUT / "docs/export.md"
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{i}")
    for page in (API, EXPORT)
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("name", alexnet.__all__)
def test_names_lead_to_what_is_described(name: str) -> None:
    found = getattr(alexnet, name)
    assert found is getattr(import_module(f"alexnet.{alexnet.PUBLIC[name]}"), name)
    assert found.__doc__
    assert f"### {name}\n" in API.read_text()
    assert name in dir(alexnet)


def test_type_checkers_see_the_same_names() -> None:
    (block,) = (node for node in ast.parse(Path(alexnet.__file__).read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == alexnet.PUBLIC


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="module 'alexnet' has no attribute 'nothing'"):
        _ = alexnet.nothing
    with pytest.raises(ImportError):
        exec("from alexnet import nothing")


def test_names_cost_nothing_until_they_are_asked_for() -> None:
    program = "import sys, alexnet; dir(alexnet); print({'torch', 'nvidia', 'numpy', 'click'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_page_is_made_of_the_code() -> None:
    made = runpy.run_path(str(CHECKOUT / "docs/make_api.py"))["page"]()
    assert made == API.read_text(), "run docs/make_api.py"


@pytest.fixture(scope="module")
def folder(colour_tree: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and what is exported of it."""
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(cache_dir))
        small = "--width 0.02 --batch-size 4 --epochs 1 --views 1 --device cpu --threads 1".split()
        invoke("train", colour_tree, "--run", folder / "runs/first", *small)
        for to in ("safetensors", "onnx"):
            invoke("export", folder / "runs/first", "--to", to, "--out", folder / f"first.{to}")
    (folder / "cat.jpg").write_bytes((colour_tree / "val/red/0.JPEG").read_bytes())
    return folder


@pytest.mark.usefixtures("quiet_machine")
@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(code: str, folder: Path, colour_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    smaller = {"/data/imagenet": str(colour_tree), "batch_size=128": "batch_size=4"}
    smaller["epochs=30"] = "width=0.02, batch_size=4, epochs=1"
    for text, instead in smaller.items():
        code = code.replace(text, instead)
    exec(compile(code, "example", "exec"), {})
