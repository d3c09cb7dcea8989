"""Writes docs/api.md: the public names, from the docstrings in the code, and examples, from here.

    python docs/make_api.py

What is public stands in `alexnet/__init__.py`. The code is parsed, not run. `tests/test_api.py` runs the examples, and
fails if the page is older than the code.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet import PUBLIC

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "docs/api.md"
Documented = ast.ClassDef | ast.FunctionDef


class Section(NamedTuple):
    """Names that belong together: each with those of its fields and methods that the page shows; *: all fields."""

    title: str
    text: str
    example: str
    names: dict[str, str]


INTRODUCTION = """\
<!-- Made by docs/make_api.py from the docstrings: change those, and run it again. -->

# As a library

These names are what other programs are meant to use, imported from `alexnet` itself. Whatever else the modules hold may
change at any time. Longer programs are in [examples](../examples/): a training loop for another network, colour
statistics, a run without the command line.
"""

SECTIONS = (
    Section(
        "Images",
        "The loader works for any network: it yields batches of torch tensors, on the CPU or, with\n"
        "`Settings(device_id=0)`, on that GPU. Order, crops, flips and colour noise follow from the seed, the epoch\n"
        "and the position alone.",
        """\
from pathlib import Path

from alexnet import Loader, Treatment, open_dataset

train = open_dataset(Path("/data/imagenet"), "train")
loader = Loader(train, Treatment.imagenet(), batch_size=128, seed=0, num_epochs=2)
for batch in loader:
    batch.images, batch.labels  # float (128, 3, 224, 224), int64 (128,)
for batch in loader.batches(epoch=1):  # a run that was interrupted goes on
    assert batch.epoch == 1
""",
        {
            "open_dataset": "",
            "Selection": "*",
            "Dataset": "root split classes labels __len__ num_classes fingerprint name subset",
            "Treatment": "* imagenet apply",
            "Loader": "* __len__ batches",
            "Batch": "*",
            "Settings": "*",
        },
    ),
    Section(
        "Colour statistics",
        "They are sums of whole numbers: the same bits for any number of threads and in any order.",
        """\
from pathlib import Path

from alexnet import RgbStats, Treatment, compute_stats, open_dataset

train = open_dataset(Path("/data/imagenet"), "train")
stats = compute_stats(train, work_dir=Path("passes"))  # where an interrupted pass goes on
stats.save(Path("colours.json"))
stats = RgbStats.load(Path("colours.json"))
treatment = Treatment(mean=stats.mean.astype("float32"), basis=stats.lighting_basis("std", 0.1))
""",
        {"compute_stats": "", "RgbStats": "* fingerprint strengths lighting_basis save load"},
    ),
    Section(
        "The network",
        "A network is plain code for one device, whatever mesh it was trained on. It sees treated images; a\n"
        "`Classifier` knows how they were treated, and what the classes are called.",
        """\
from pathlib import Path

import torch

from alexnet import AlexNet, evaluate, load_classifier, open_dataset

network = AlexNet.from_checkpoint("runs/first")  # a run, a checkpoint, safetensors or torchvision's weights
with torch.no_grad():
    features = network.forward_features(torch.zeros(2, *network.config.image_shape))
features["fc7"]  # float (2, 4096)

classifier = load_classifier("runs/first")
result = evaluate([classifier], open_dataset(Path("/data/imagenet"), "val"), views=10)
print(f"top-1 error {result.top1_error:.1%}, top-5 error {result.top5_error:.1%}")
""",
        {
            "AlexNet": "__init__ from_checkpoint forward forward_features layers",
            "load_classifier": "",
            "Classifier": "* name_of",
            "evaluate": "",
            "Evaluation": "*",
        },
    ),
    Section(
        "Training",
        "`alexnet train` does what a `Trainer` does on one device; `alexnet train --describe` shows every field of\n"
        "`Config` with its source.",
        """\
from pathlib import Path

from alexnet import Config, RunOptions, Trainer, open_dataset

train, val = (open_dataset(Path("/data/imagenet"), split) for split in ("train", "val"))
config = Config.from_preset("owt", epochs=30)  # its treatment needs no statistics
Trainer(config, train, val, None, RunOptions(run_dir=Path("runs/mine"))).fit()
""",
        {
            "Config": "from_preset from_dict from_json to_json layers towers image_shape",
            "RunOptions": "*",
            "Trainer": "__init__ fit classifier",
        },
    ),
    Section(
        "Errors",
        "Everything that a user can put right is one kind of exception; any other is a bug.",
        "",
        {"UserError": ""},
    ),
)


def page() -> str:
    """Return the whole text of docs/api.md."""
    return "\n".join([INTRODUCTION, *(part for section in SECTIONS for part in described(section))])


def described(section: Section) -> Iterator[str]:
    yield f"## {section.title}\n\n{section.text}\n"
    if section.example:
        yield f"```python\n{section.example}```\n"
    for name, members in section.names.items():
        module = PUBLIC[name]
        source = (CHECKOUT / f"{module.replace('.', '/')}.py").read_text()
        kinds = (ast.ClassDef, ast.FunctionDef)
        node = next(n for n in ast.parse(source).body if isinstance(n, kinds) and n.name == name)
        lines = source.splitlines()
        code = class_lines(node, lines, members.split()) if isinstance(node, ast.ClassDef) else head(node, lines)
        block = "\n".join([f"# alexnet.{module}", *code])
        yield f"### {name}\n\n{ast.get_docstring(node)}\n\n```py\n{block}\n```\n"


def head(node: Documented, lines: list[str]) -> list[str]:
    """The lines before the docstring."""
    first = min([node, *node.decorator_list], key=lambda each: each.lineno)
    return lines[first.lineno - 1 : node.body[0].lineno - 1]


def class_lines(node: ast.ClassDef, lines: list[str], shown: list[str]) -> list[str]:
    """A class as it is in the code, without private fields and without what its methods do."""
    code = first = head(node, lines)
    for each in node.body:
        if isinstance(each, ast.AnnAssign):
            name = ast.unparse(each.target)
            if name in shown or ("*" in shown and (name == "_" or not name.startswith("_"))):
                code = [*code, *lines[each.lineno - 1 : each.end_lineno]]
        elif isinstance(each, ast.FunctionDef) and each.name in shown:
            *before, last = head(each, lines)
            text = each.body[0]
            described = [last, *lines[text.lineno - 1 : text.end_lineno]]
            end = described if ast.get_docstring(each) else [f"{last} ..."]
            code = [*code, *([] if code is first else [""]), *before, *end]
    return code


if __name__ == "__main__":
    PAGE.write_text(page())
