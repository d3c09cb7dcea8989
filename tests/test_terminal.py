"""What leaves for a terminal or a log: names are only names, whatever is in them."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.text import Text
from torch._C._distributed_c10d import HashStore

from alexnet.cli import main
from alexnet.console import progress as console
from alexnet.console import tables, terminal
from alexnet.console.terminal import error_console, printable, say, show
from alexnet.pipeline.machine.doctor import Finding
from alexnet.pipeline.pack import Packed
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
from alexnet.train.parallel.ranks import RankInfo

pytestmark = pytest.mark.usefixtures("quiet_machine")

NAMES = {
    "x[bold]z.JPEG": "x[bold]z.JPEG",
    "y[/b].JPEG": "y[/b].JPEG",
    "[red]": "[red]",
    ":warning:": ":warning:",
    "$x_$": "$x_$",
    "a\nb": r"a\nb",
    "tab\tand\rback": r"tab\tand\rback",
    "\x1b[31m": r"\x1b[31m",
    os.fsdecode(b"caf\xe9"): r"caf\xe9",
    "\ud800": r"\ud800",
    "\u202egnp.exe": r"\u202egnp.exe",
    "line\u2028\x85": r"line\u2028\x85",
    "Kühlschrank 冷蔵庫 😄": "Kühlschrank 冷蔵庫 😄",
}
FILES = {name: shown for name, shown in NAMES.items() if name != "\ud800"}  # whose name that cannot be
each_name = pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=map(ascii, NAMES))
each_file = pytest.mark.parametrize(("name", "shown"), FILES.items(), ids=map(ascii, FILES))


@each_name
def test_what_does_not_print_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(shown) == shown


@given(st.text(st.characters()))
def test_any_text_becomes_one_line_that_can_be_encoded(text: str) -> None:
    line = printable(text)
    assert len(line.encode().decode().splitlines()) <= 1
    assert not any(ord(character) < 32 for character in line)


@each_name
def test_every_door(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, log records, tables, and progress where there is no terminal."""
    terminal.set_up()
    show(name)
    say(name)
    logging.getLogger("alexnet").warning("Bad image %s: %s", name, name)
    with console.bar(name, 1, "images") as update:
        update(1)
    tables.print_table(name, (name, "n"), [(name, 1)])
    tables.print_findings([Finding("area", "warn", name, f"cost {name}", f"remedy {name}")])
    tables.print_packed(Path("out") / name, [Packed("train", 1, 1, 1, {})])
    tables.print_predictions([(name, {name: 0.5})])
    out, err = capsys.readouterr()
    first, *rest = out.splitlines()
    assert first == shown
    assert sum(line == shown for line in rest) == 2  # titles
    assert sum(f" {shown} " in line for line in rest) == 4  # a header and a cell, what the doctor found, a class
    assert f"out/{shown}" in rest
    assert f"area: cost {shown}" in rest
    assert f"  remedy {shown}" in rest
    lines = err.splitlines()
    assert lines[:2] == [shown, f"Bad image {shown}: {shown}"]
    assert lines[2].startswith(f"{shown}: 1/1 images")
    assert len(lines) == 3


@each_name
def test_bars_and_live_lines_on_a_terminal(name: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(error_console, "_force_terminal", True)
    monkeypatch.setattr(error_console, "_file", screen)
    monkeypatch.setattr(error_console, "_width", 200)
    with console.bar(name, 1, "images") as update:
        update(1)
        say(name)
    lines = [Text.from_ansi(line).plain for line in screen.getvalue().splitlines()]
    assert any(line.startswith(f"{shown} ━") for line in lines)
    assert shown in [line.rstrip() for line in lines]


@each_file
def test_errors_of_ours_and_of_clicks_are_one_line(name: str, shown: str) -> None:
    for arguments in (
        ["predict", "none.npz", f"no/{name}"],
        ["train", f"--{name}"],
        [name],
        ["train", f"no/{name}"],
        ["pca-stats", "--plot", f"{name}.gif"],
        ["train", "--describe", "--channels", name],
    ):
        stderr = CliRunner().invoke(main, arguments).stderr
        last = stderr.splitlines()[-1]
        assert last.startswith("Error: "), stderr
        assert stderr.count("Error: ") == 1
        assert "\x1b" not in stderr
        assert shown in last or repr(name)[1:-1] in last, last


def test_errors_of_usage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """click's own quote what they name in its newer versions alone."""

    def fail(*_: object, **__: object) -> None:
        raise click.UsageError("No such option: --a\nb")

    monkeypatch.setattr(main.commands["doctor"], "callback", fail)
    assert CliRunner().invoke(main, ["doctor"]).stderr.endswith("\nError: No such option: --a\\nb\n")
    monkeypatch.setattr(click.Group, "make_context", fail)
    assert "Error: No such option: --a\\nb\n" in CliRunner().invoke(main, ["doctor"]).stderr


def test_a_library_that_logs_too_repeats_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])
    terminal.set_up()
    logging.getLogger("alexnet").warning("once")
    assert capsys.readouterr().err == "once\n"


def test_a_traceback_keeps_its_lines() -> None:
    record = logging.LogRecord("alexnet", logging.ERROR, "", 0, "a\nb", (), None)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    first, *rest = terminal.LogFormatter().format(record).splitlines()
    assert (first, rest[-1]) == (r"a\nb", "RuntimeError: boom")


def test_a_locale_that_lacks_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    terminal.set_up()
    show("Kühlschrank")
    sys.stdout.flush()
    assert raw.getvalue() == b"K\\xfchlschrank\n"


def test_odd_classes_and_files_through_a_whole_command(tmp_path: Path) -> None:
    """`predict` in words and in JSON, with a file that is no image among them."""
    config, classes = Config(width=1 / 32, lighting="off"), list(NAMES)
    model = AlexNet(config, len(classes))
    path = tmp_path / "network.npz"
    zeros = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    treatment = {"mean": np.zeros(3, np.float32), "divisor": np.ones(3, np.float32)}
    save(path, Checkpoint(config=config, classes=classes, epoch=0, step=0, model=zeros, arrays=treatment))
    files = [tmp_path / name for name in FILES]
    for file in files[1:]:
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30)).save(file, "JPEG")
    files[0].write_bytes(b"no image")
    arguments = ["predict", str(path), *map(str, files), "--threads", "1", "--device", "cpu"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    lines = done.stdout.splitlines()
    assert all(f"{tmp_path}/{shown}" in lines for shown in list(FILES.values())[1:])
    assert done.stderr.startswith(f"Bad image {files[0]}: ")
    assert len(done.stderr.splitlines()) == 1
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert list(found["predictions"]) == [str(file) for file in files[1:]]
    assert set(found["predictions"][str(files[1])]) <= set(classes)


@each_file
def test_the_first_rank_tells_any_path(name: str, shown: str) -> None:
    first, second = (RankInfo(rank, 2, rank, 2, store=store) for store in [HashStore()] for rank in (0, 1))
    assert first.from_main("run", lambda: name) == second.from_main("run", lambda: "") == name


def test_work_that_was_done_already_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with console.bar("pca-stats", 3, "images") as update:
        update(3)
    assert capsys.readouterr().err == "pca-stats: 3/3 images\n"
