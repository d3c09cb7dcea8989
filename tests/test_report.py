"""A run's report: facts against the folder's own numbers, the paper's tables as printed, and a page that is whole.

In a real browser it fetches nothing, complains of nothing, fits its window, and shows every picture.
"""

import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from runs import invoke, records, trainer

from alexnet.console.command_options import REPORT_SECTIONS
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import UserError
from alexnet.train.config import Config
from alexnet.train.evaluate import Evaluation
from alexnet.train.figures.drawing import new_figure
from alexnet.train.outcomes import Outcomes
from alexnet.train.report.facts import departures, read_run
from alexnet.train.report.page import Contents, render
from alexnet.train.report.paper import ILSVRC_2010, ILSVRC_2012, beside_2010, beside_2012
from alexnet.train.report.pictures import embed
from alexnet.train.report.report import SECTIONS
from alexnet.train.starts import read_starts, write_start

pytestmark = pytest.mark.usefixtures("quiet_machine")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WRONG = """() => ({
  sideways: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  undrawn: [...document.images].filter(i => !i.complete || !i.naturalWidth || i.clientWidth < 100).map(i => i.alt),
})"""


class Page(HTMLParser):
    """What a page refers to, what it defines, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links, self.images = Counter[str](), list[str](), list[str](), list[dict[str, Any]]()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags[tag] += 1
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("href", "src", "action", "data", "poster") if name in found]
        self.images += [found] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(colour_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first <b>&"
    trainer(colour_tree, folder, {"epochs": 2, "lr": 0.005}).fit()
    return folder


# -- facts -------------------------------------------------------------------------------------------------


def test_departures_are_those_of_the_configuration() -> None:
    changes: dict[str, Any] = {"width": 0.5, "lighting": "off", "without": ("conv4",), "seed": 3}
    found = departures(Config.from_preset("original", **changes))
    assert {d.setting: d.value for d in found} == changes
    preset = asdict(Config.from_preset("original"))
    assert {d.setting: d.preset_value for d in found} == {name: preset[name] for name in changes}
    assert departures(Config.from_preset("owt")) == []


def test_times_and_rates(run: Path) -> None:
    facts, lines = read_run(run), records(run)
    windows = [r for r in lines if r["kind"] == "train"]
    seconds = [4 / r["images_per_second"] for r in windows]  # every window is one step of four images
    assert facts.training_seconds == pytest.approx(sum(seconds))
    assert facts.images_per_second == pytest.approx(np.median([r["images_per_second"] for r in windows]))
    waited = sum(s * r["waiting"] for s, r in zip(seconds, windows, strict=True))
    assert facts.waiting == pytest.approx(waited / sum(seconds))
    assert facts.validation_seconds == pytest.approx(sum(r["seconds"] for r in lines if r["kind"] == "val"))
    assert facts.finished
    assert facts.stats is not None


@pytest.mark.parametrize(("config", "metrics"), [(None, ""), ("{}", ""), ("{}", '{"kind": "va')])
def test_a_folder_without_a_run_is_refused(config: str | None, metrics: str, tmp_path: Path) -> None:
    if config:
        (tmp_path / "config.json").write_text(config)
    (tmp_path / "metrics.jsonl").write_text(metrics)
    with pytest.raises(UserError, match="not the folder of a run" if config is None else "no step of training yet"):
        read_run(tmp_path)


# -- the paper's tables ------------------------------------------------------------------------------------


def test_the_tables_are_the_papers() -> None:
    assert dict(ILSVRC_2010.rows) == {"Sparse coding": (47.1, 28.2), "SIFT + FVs": (45.7, 25.7), "CNN": (37.5, 17.0)}
    assert dict(ILSVRC_2012.rows) == {
        "SIFT + FVs": (None, None, 26.2),
        "1 CNN": (40.7, 18.2, None),
        "5 CNNs": (38.1, 16.4, 16.4),
        "1 CNN*": (39.0, 16.6, None),
        "7 CNNs*": (36.7, 15.4, 15.3),
    }


def imagenet(dataset: Dataset, num: int) -> Dataset:
    synsets = ("n01440764", *(f"n1{i:07}" for i in range(998)), "n15075141")
    return replace(dataset, classes=synsets, labels=np.zeros(num, np.int32))


@pytest.mark.parametrize(
    ("num", "used", "views", "expected"),
    [
        (50_000, 50_000, 10, "Comparable"),
        (50_000, 50_000, 1, "Not quite comparable"),
        (50_000, 49_999, 10, "Not comparable: this run was measured on 49,999 images of 1,000 classes, ten views"),
        (49_999, 49_999, 10, "Not comparable"),
    ],
)
def test_only_the_papers_images_are_comparable(num: int, used: int, views: int, expected: str, tiny_tree: Path) -> None:
    dataset = imagenet(open_dataset(tiny_tree, "val"), num)
    result = Evaluation(used, top1_error=0.407, top5_error=0.182, loss=1.0, views=views)
    row = beside_2012(result, dataset)
    assert row.why.startswith(expected)
    assert row.comparable == (expected == "Comparable")
    assert row.cells == (pytest.approx(40.7), pytest.approx(18.2), None)
    assert not beside_2010(result, dataset).comparable


# -- the page ----------------------------------------------------------------------------------------------


def report(run: Path, out: Path, *more: Any, code: int = 0) -> Page:
    """Make the report as a user would."""
    result = invoke("report", run, *more, "--out", out, "--threads", 1, code=code)
    assert code == 0, result.output
    return Page(out.read_text())


def skip(*sections: str) -> list[str]:
    return [word for section in sections for word in ("--skip", section)]


def check_whole(page: Page) -> None:
    """Nothing is fetched, every link leads somewhere, every picture has its bytes and says what it shows."""
    assert page.tags["script"] == 0
    anchors = {link for link in page.links if link.startswith("#")}
    assert {anchor[1:] for anchor in anchors} <= {*page.ids}
    assert all(link.startswith("data:") for link in {*page.links} - anchors)
    assert all(len(image["alt"]) > 20 and len(image["src"]) > 1000 for image in page.images)


def test_a_run_without_its_images(run: Path, tmp_path: Path) -> None:
    contents = Contents(facts=read_run(run), val_set=None, measured=None, sections=[])
    page = Page(render(contents).decode())
    check_whole(page)
    assert "first <b>&" in page.text  # escaped: its name is text, not markup
    assert page.tags["b"] == 0
    for number in ("40.7", "18.2", "26.2", "47.1", "15.3"):
        assert number in page.text
    last = records(run)[-1]
    assert f"{last['top1_error']:.1%}" in page.text


def test_names_from_files_are_text(run: Path) -> None:
    facts = replace(read_run(run), bad_images={"<script>x\udcff": "cut & short"}, warnings=["a < b"])
    text = render(Contents(facts=facts, val_set=None, measured=None, sections=[])).decode()
    page = Page(text)
    check_whole(page)
    assert r"<script>x\udcff" in page.text
    assert "cut & short" in page.text
    assert "a < b" in page.text


@pytest.mark.parametrize("kind", ["svg", "webp"])
def test_names_in_other_scripts_warn_of_nothing(kind: Literal["svg", "webp"], recwarn: pytest.WarningsRecorder) -> None:
    """They become boxes."""
    figure = new_figure(2, "\u51b7\u8535\u5eab")
    figure.subplots()
    assert embed(figure, "a title", "", kind).uri.startswith("data:image/")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_sections_that_can_be_skipped_are_all() -> None:
    assert tuple(SECTIONS) == REPORT_SECTIONS


@pytest.fixture(scope="module")
def drawn(ten_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """A run on ten classes, and the page of all sections."""
    folder = tmp_path_factory.mktemp("drawn")
    trainer(ten_classes, folder / "run", {"epochs": 1, "width": 0.03125}).fit()
    return folder / "run", report(folder / "run", folder / "report.html")


def test_the_data_set_is_found_where_the_run_was(drawn: tuple[Path, Page], ten_classes: Path) -> None:
    _, page = drawn
    check_whole(page)
    assert {"paper", "run", "errors", "again", *REPORT_SECTIONS} <= {*page.ids}
    assert "left-out" not in page.ids
    assert len(page.images) == len(REPORT_SECTIONS)
    assert f"{ten_classes}: 20 training and 10 validation images" in page.text
    assert page.text.count("Not comparable: this run was measured on 10 images of 10 classes, ten views of each") == 2


def test_errors_are_those_of_evaluate(drawn: tuple[Path, Page], ten_classes: Path) -> None:
    run, page = drawn
    found = json.loads(invoke("evaluate", run, ten_classes, "--views", 10, "--json", "--per-class").stdout)
    assert f"top-1 error {found['top1_error']:.2%}, top-5 error {found['top5_error']:.2%}" in page.text
    for row in found["classes"]:
        assert re.search(rf"{row['name']}\s*1\s*{row['top1_error']:.1%}\s*{row['top5_error']:.1%}", page.text)


def test_the_command_repeats_the_run(drawn: tuple[Path, Page]) -> None:
    _, page = drawn
    (line,) = [line for line in page.text.splitlines() if line.startswith("alexnet train")]
    options = dict(zip(*[iter(line.split()[3:])] * 2, strict=True))
    assert options == {
        "--preset": "paper",
        "--width": "0.03125",
        "--batch-size": "4",
        "--epochs": "1",
        "--run": "AGAIN",
    }


def test_the_command_repeats_the_start_too(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made from within the folder, which has a name all the same."""
    shutil.copytree(run, tmp_path / "chosen")
    (start,) = read_starts(run)
    begun = replace(start, data="/no where", selection="--val-fraction 0.1", pretrained={"source": "other run.npz"})
    write_start(tmp_path / "chosen", begun)
    monkeypatch.chdir(tmp_path / "chosen")
    page = report(Path(), tmp_path / "page.html", *skip(*REPORT_SECTIONS))
    (line,) = [line for line in page.text.splitlines() if line.startswith("alexnet train")]
    *_, init, source, option, fraction, _, _ = shlex.split(line)
    assert (init, source, option, fraction) == ("--init-from", "other run.npz", "--val-fraction", "0.1")
    assert "chosen: report of an AlexNet" in page.text


def test_what_is_missing_is_named(drawn: tuple[Path, Page], colour_tree: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer(colour_tree, run, {"epochs": 1}).fit()
    page = report(run, tmp_path / "three.html", colour_tree, *skip("kernels", "activations", "colours"))
    check_whole(page)
    assert "The network knows 3 classes, but the figure shows the best 5." in page.text
    assert "--skip kernels was given" in page.text
    moved = tmp_path / "moved"
    shutil.copytree(drawn[0], moved)
    (start,) = read_starts(moved)
    write_start(moved, replace(start, data="/nowhere"))
    page = report(moved, tmp_path / "moved.html", *skip("curves", "colours"))
    check_whole(page)
    assert "the run's data set is no longer at /nowhere: give DATA" in page.text
    assert "errors" not in page.ids


def test_another_data_set_is_refused(drawn: tuple[Path, Page], colour_tree: Path, tmp_path: Path) -> None:
    result = invoke("report", drawn[0], colour_tree, "--out", tmp_path / "x.html", code=1)
    assert "classes" in result.stderr
    assert not (tmp_path / "x.html").exists()


def test_most_confused_pairs() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2], np.int32)
    outcomes = Outcomes(labels, ["a", "b", "c"])
    predicted = np.array([1, 1, 0, 1, 0, 1, 0, 0, 2])
    seen = np.array([0, 1, 2, 3, 4, 5, 6, 7])  # the last one was bad
    outcomes.add(seen, torch.eye(3)[predicted[seen]])
    counts = Counter(zip(labels[seen].tolist(), predicted[seen].tolist(), strict=True))
    found = {(c.true, c.predicted): (c.num_images, c.of) for c in outcomes.most_confused(9)}
    of = Counter(labels[seen].tolist())
    assert found == {("abc"[t], "abc"[p]): (n, of[t]) for (t, p), n in counts.items() if t != p}
    assert [c.num_images / c.of for c in outcomes.most_confused(2)] == pytest.approx([2 / 3, 2 / 3])


# -- in a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=options)
        yield running
        running.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_report_in_a_browser(width: int, scheme: str, drawn: tuple[Path, Page], browser: Any) -> None:
    page = drawn[0].with_name("report.html")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    tab, said, requests = context.new_page(), list[str](), list[str]()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    assert tab.evaluate(WRONG) == {"sideways": False, "undrawn": []}
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert said == []
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) > 3 * 128) == (scheme == "light")
    context.close()
