"""Results as tables on standard output."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..pipeline.sizes import as_size
from ..train.config import Config
from ..train.settings.presets import PRESETS
from ..train.settings.setting import as_text
from .terminal import plain_console, printable, say, show

if TYPE_CHECKING:
    from ..pca.stats import RgbStats
    from ..pipeline.machine.doctor import Finding
    from ..pipeline.pack import Packed
    from ..train.ablation.table import Table as AblationTable
    from ..train.cifar.figure1 import Figure1
    from ..train.cifar.normalisation import Normalisation
    from ..train.codes import CodesReport
    from ..train.evaluate import ErrorRates, Evaluation
    from ..train.feature_folder import Description
    from ..train.outcomes import ClassErrors
    from .commands.evaluate import Report
    from .commands.figure import TowerColour


def print_stats(stats: RgbStats, out: Path) -> None:
    """Print the mean and standard deviation of each channel, the principal axes, and published constants."""
    from ..pca.oracle import compare

    rows = [
        (c, f"{mean:.4f}", f"{std:.4f}", f"{mean / 255:.5f}", f"{std / 255:.5f}")
        for c, mean, std in zip("RGB", stats.mean.tolist(), stats.std.tolist(), strict=True)
    ]
    print_table(
        f"{stats.num_images:,} images, {stats.num_pixels:,} pixels ({stats.region} region)",
        ("channel", "mean 0..255", "std 0..255", "mean 0..1", "std 0..1"),
        rows,
    )
    axes = [
        (i + 1, f"{v:.4f}", f"{v**0.5:.4f}", f"{v / 255**2:.6f}", _vector(stats.eigenvectors[:, i]))
        for i, v in enumerate(stats.eigenvalues.tolist())
    ]
    print_table("Principal axes of colour", ("axis", "variance 0..255", "std 0..255", "variance 0..1", "R, G, B"), axes)
    known = [
        (k.name, k.kind, ", ".join(f"{s:.2f}" for s in k.std), ", ".join(f"{r:.3f}" for r in k.ratio))
        for k in compare(stats.eigenvalues)
    ]
    print_table(
        "Published constants for ImageNet, and what they are",
        ("source", "published as", "std 0..255", "ours / theirs"),
        known,
    )
    if (check := stats.self_check) is not None:
        verdict = "agrees" if check.passed else "DISAGREES"
        show(
            f"scikit-learn's PCA of {check.num_pixels:,} of these pixels (of {check.num_images:,} images) {verdict}: "
            f"eigenvalues within {check.eigenvalue_error:.2%}, axes within {check.angle_degrees:.2f} degrees "
            f"(one standard error: {check.expected_eigenvalue_error:.2%}, {check.expected_angle_degrees:.2f})"
        )
    if stats.bad_files:
        show(f"{len(stats.bad_files)} images could not be used and were left out:")
        for bad in stats.bad_files[:10]:
            show(f"  {bad.name}: {bad.reason}")
    say(f"Written to {out}")


def _vector(values: Any) -> str:
    return ", ".join(f"{v:+.4f}" for v in values)


def print_packed(out: Path, splits: Iterable[Packed]) -> None:
    """Print the number and size of the images packed from each split."""
    print_table(
        str(out),
        ("split", "images", "shards", "size", "left out"),
        [(s.split, f"{s.num_images:,}", f"{s.num_shards:,}", as_size(s.num_bytes), f"{len(s.bad):,}") for s in splits],
    )


def print_evaluation(report: Report) -> None:
    """Print the errors of the average, what they were measured on, and the errors of each network and class."""
    result, several = report.average, report.num_networks > 1
    show(f"images       {result.num_images:,}" + (f" ({len(result.bad)} could not be used)" if result.bad else ""))
    show(f"views        {result.views}" + (f", {report.num_networks} networks averaged" if several else ""))
    show(f"top-1 error  {result.top1_error:.2%}")
    show(f"top-5 error  {result.top5_error:.2%}")
    if len(report.networks) > 1:
        networks = [(name, *_errors(of)) for name, of in report.networks]
        average = ("the average", *_errors(result))
        print_table("Each network, and the average", ("network", "top-1 error", "top-5 error"), [*networks, average])
    if report.classes is not None:
        classes = [(of.name, f"{of.num_images:,}", *_errors(of)) for of in report.classes]
        print_table("Each class, the worst first", ("class", "images", "top-1 error", "top-5 error"), classes)


def _errors(of: Evaluation | ErrorRates | ClassErrors) -> tuple[str, str]:
    return f"{of.top1_error:.2%}", f"{of.top5_error:.2%}"


def print_features(out: Path, about: Description) -> None:
    """What was computed, and where it is."""
    show(f"images    {about.shape[0]:,}" + (f" ({len(about.bad)} could not be used)" if about.bad else ""))
    show(f"layer     {about.layer}" + (", the mean of each map" if about.pool == "mean" else ""))
    show(f"views     {about.views}")
    show(f"array     {' x '.join(map(str, about.shape))}, {about.dtype}")
    say(f"Written to {out}")


def print_tower_colours(towers: Iterable[TowerColour]) -> None:
    """Print how much colour conv1 holds, tower by tower."""
    header = ("tower", "kernels", "mean distance from grey", "colour's share of squared weights")
    rows = [(t.tower, t.num_kernels, f"{t.mean_distance_from_grey:.4f}", f"{t.colour_share:.1%}") for t in towers]
    print_table("Colour in conv1", header, rows)


def print_codes(out: Path, report: CodesReport) -> None:
    """Print recall beside that of random hyperplanes, the time of a search, and sizes."""
    random, mine, speed = report.random_hyperplanes, report.recall, report.search
    print_table(
        f"Recall@10 of {report.bits} bits, {report.num_queries:,} queries ({report.queries})",
        ("codes", "among the 10 nearest", "among the 100 nearest"),
        [
            ("auto-encoder", f"{mine.among_10:.1%}", f"{mine.among_100:.1%}"),
            (
                f"random hyperplanes, {random.seeds} seeds",
                f"{random.mean.among_10:.1%} ({random.lowest.among_10:.1%} to {random.highest.among_10:.1%})",
                f"{random.mean.among_100:.1%} ({random.lowest.among_100:.1%} to {random.highest.among_100:.1%})",
            ),
        ],
    )
    print_table(
        f"A search of {report.num_codes:,} rows",
        ("search", "ms a query", "bytes"),
        [
            ("exact", f"{speed.exact_ms:,.2f}", f"{report.feature_bytes:,}"),
            ("Hamming", f"{speed.hamming_ms:,.2f}", f"{report.code_bytes:,}"),
        ],
    )
    say(f"Written to {out}")


def print_neighbours(found: Mapping[str, Any]) -> None:
    """Print how many of the neighbours are of their query's class."""
    for kind, hits in found["of_the_same_class"].items():
        show(f"nearest by {kind + ':':<7} {hits} of {found['neighbours']} are of the query's class")


def print_experiment(result: Figure1 | Normalisation, out: Path) -> None:
    """Print the tables of an experiment, and what came out."""
    for table in result.tables():
        print_table(*table)
    show(f"{result.summary()} {result.remark()}".strip())
    say(f"Written to {out}")


def print_predictions(predictions: Iterable[tuple[str, Mapping[str, float]]]) -> None:
    """Print a table of class probabilities for each (image name, classes)."""
    for name, classes in predictions:
        print_table(name, ("probability", "class"), [(f"{p:.1%}", c) for c, p in classes.items()])


def print_ablation(table: AblationTable) -> None:
    """Print the differences from the base beside what is reported, and how to read them."""
    from ..train.ablation.markdown import HEADER, cells, reading

    rows = [cells(row) for row in table.rows]
    print_table("Ablations" if table.complete else "Ablations so far", HEADER, rows)
    for paragraph in reading(table):
        show(paragraph)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what the machine has; then, for each thing it lacks, what that costs and how to get it."""
    print_table("This machine", ("", "area", "found"), [(f.status, f.area, f.found) for f in findings])
    for finding in findings:
        if finding.status != "ok":
            for line in ("", f"{finding.area}: {finding.cost}", f"  {finding.remedy}"):
                show(line)


def print_description(config: Config, num_classes: int) -> None:
    """Print the preset, the network layer by layer, and every number with its source; changes are starred."""
    from ..train.network.size import describe

    preset = PRESETS[config.preset]
    texts = (f"{config.preset}: {preset.reproduces}", f"Expected: {preset.expected}", f"Start: {preset.start}")
    for line in (*texts, preset.hardware, ""):
        show(line)
    rows = describe(config, num_classes)
    counts = [(r.parameters, r.macs, r.neurons) for r in rows]
    names = [(r.layer, "x".join(map(str, r.output_shape))) for r in rows]
    totals = tuple(sum(column) for column in zip(*counts, strict=True))
    table = [
        (*name, *(f"{n:,}" for n in numbers))
        for name, numbers in zip([*names, ("total", "")], [*counts, totals], strict=True)
    ]
    print_table(f"The network for {num_classes} classes", ("layer", "output", "parameters", "MACs", "neurons"), table)
    values, paper = asdict(config), asdict(Config())
    numbers = [
        (
            "*" if values[f.name] != paper[f.name] else "",
            f.name,
            as_text(values[f.name]),
            f.metadata["source"],
            f.metadata["help"],
        )
        for f in fields(Config)
    ]
    print_table("Every number (* differs from preset paper)", ("", "setting", "value", "source", "what it is"), numbers)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on standard output. Numbers are right-aligned and never wrapped: their headers wrap if need be."""
    console = plain_console(width=None if sys.stdout.isatty() else 150)
    title, header = printable(title), [printable(name) for name in header]
    columns = list(zip(*([printable(str(cell)) for cell in row] for row in rows), strict=True)) or [()] * len(header)
    widths = [max(map(len, cells), default=0) for cells in columns]
    scarce = sum(max(width, len(name)) + 3 for width, name in zip(widths, header, strict=True)) >= console.width
    table = Table()
    for name, width, cells in zip(header, widths, columns, strict=True):
        numeric = bool(cells) and all(map(_looks_numeric, cells))
        if numeric and scarce and name:
            longest_word = max(map(len, name.split()))
            name = "\n".join(textwrap.wrap(name, max(width, longest_word)))
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)


def _looks_numeric(text: str) -> bool:
    """Whether it is a number, perhaps with a unit or two of them with a word between; a sentence must wrap."""
    return not text or ((text[:1].isdigit() or text[:1] in "+-.") and len(re.findall(r"[^\W\d_]{2,}", text)) < 2)
