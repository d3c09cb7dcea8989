"""Imports point one way: between rooms, between modules, and out of no package's `__init__.py`.

Modules are parsed, not run, so imports inside functions and under TYPE_CHECKING count too: hiding a circle from Python
does not undo it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ROOMS = ("pipeline", "pca", "train", "console", "cli")  # each imports only itself and those before it
PATHS = [CHECKOUT / "cli.py", *(path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py"))]
MODULES = {".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path for path in PATHS}


def imports_of(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever in its text."""
    package = path.relative_to(CHECKOUT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("alexnet.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [part for part in (*above, *(node.module or "").split(".")) if part not in ("", "alexnet")]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


IMPORTS = {module: MODULES.keys() & {*imports_of(path)} for module, path in MODULES.items()}


def reached_from(module: str) -> set[str]:
    """What it imports, what that imports, and so on."""
    found, pending = set[str](), {module}
    while pending:
        pending = set[str]().union(*(IMPORTS[name] for name in pending)) - found
        found |= pending
    return found


def test_imports_are_found() -> None:
    assert {"pipeline.dataset.open", "pca.stats", "train.network.model"} <= reached_from("cli")


def test_no_module_reaches_itself() -> None:
    reached = {module: reached_from(module) for module in MODULES}
    circles = {tuple(sorted(m for m in reached[start] if start in reached[m])) for start in MODULES}
    assert circles == {()}


def test_rooms_are_in_order() -> None:
    rank = {module: ROOMS.index(module.partition(".")[0]) for module in MODULES}
    upward = [f"{module} imports {name}" for module in MODULES for name in IMPORTS[module] if rank[name] > rank[module]]
    assert upward == []


def test_packages_import_nothing() -> None:
    assert [path for path in PATHS if path.name == "__init__.py" and [*imports_of(path)]] == []
