"""What `alexnet bench-loader` and `bench-train` found, as tables on standard output."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .tables import print_table
from .terminal import show

if TYPE_CHECKING:
    from ..pipeline.bench.bottleneck import Bottleneck
    from ..pipeline.bench.compare import Comparison
    from ..pipeline.bench.result import BenchResult
    from ..pipeline.bench.stages import PageCache
    from ..pipeline.bench.sweep import Sweep
    from ..pipeline.bench.windows import Figures
    from ..train.bench import TrainBench


def print_loader_bench(result: BenchResult) -> None:
    """Print the stages and what they mean, then the optional measurements."""
    data = result.dataset
    named = [(s.name, s) for s in result.stages] + [(f"{s.name}, disk", s) for s in result.cold]
    rows = [
        (
            name,
            *_rates(s),
            f"{s.cores_per_1000_images_per_second:.2f}",
            f"{s.encoded_megabytes_per_second:.0f}",
            _latencies(s),
            f"{s.peak_rss_megabytes:,.0f}",
        )
        for name, s in named
    ]
    print_table(
        f"{data['num_images']:,} images, {data['image_megapixels']:.3f} megapixels and "
        f"{data['image_kilobytes']:.0f} KB on average",
        ("stage", "images a second", "range", "cores per 1,000/s", "MB/s", "batch ms p50/p99/max", "peak MB"),
        rows,
    )
    if data["num_sampled"] < data["num_images"]:
        show(f"Measured on a random {data['num_sampled']:,} of them, from disk on others.")
    if data["num_bad"]:
        show(f"{data['num_bad']} images could not be used; others took their places.")
    show(_describe_cache(result.page_cache))
    show(f"The loader reaches {result.loader_share_of_decode:.0%} of the decode-only rate. {result.verdict}")
    print_table(
        "Symptoms, and the options that help",
        ("here", "where", "symptom", "measured", "options"),
        [("yes" if s.present else "no", s.where, s.sign, s.measured, s.options) for s in result.symptoms],
    )
    if result.comparison:
        _print_comparison(result.comparison)
    if result.bottleneck:
        _print_bottleneck(result.bottleneck)
    if result.sweep:
        _print_sweep(result.sweep)
    show(", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in result.machine.items()))


def _rates(figures: Figures) -> tuple[str, str]:
    return f"{figures.images_per_second:,.0f}", f"{figures.low:,.0f}..{figures.high:,.0f}"


def _latencies(figures: Figures) -> str:
    return f"{figures.latency_ms_p50:.0f}/{figures.latency_ms_p99:.0f}/{figures.latency_ms_max:.0f}"


def _describe_cache(cache: PageCache) -> str:
    """Say how cold the cold windows were, and how warm the warm ones."""
    if cache.resident_warm is None or cache.resident_cold is None:
        known = "unknown whether the files' pages left memory: the kernel tells only their owner"
    else:
        known = f"{cache.resident_cold:.1%} of the files' pages stayed in memory"
        if cache.resident_cold > 0.01:
            known += f" (in use by others, or {cache.file_system} keeps them), so these rates are too high"
    text = f"From disk: {known}; names and inodes, the disk's own cache and a hypervisor's cannot be dropped."
    if cache.resident_warm is not None and cache.resident_warm < 0.99:
        text += f" Only {cache.resident_warm:.0%} of the pages fitted in memory for the other windows."
    return text


def _print_comparison(comparison: Comparison) -> None:
    ours = comparison.ours
    rows = [("alexnet", "", *_rates(ours), "1", f"{ours.cores_per_1000_images_per_second:.2f}", "0 / 0")]
    rows += [
        (
            f"DataLoader, {p.name}",
            str(p.workers),
            *_rates(p.figures),
            str(p.ours_is_times_as_fast),
            f"{p.cores_per_1000_images_per_second:.2f}",
            f"{p.grey_levels_mean:.2f} / {p.grey_levels_max:.0f}",
        )
        for p in comparison.peers
    ]
    print_table(
        "Compared with torch's DataLoader and Pillow: the same images, crops and flips",
        (
            "loader",
            "workers",
            "images a second",
            "range",
            "ours is x times as fast",
            "cores per 1,000/s",
            "grey levels apart, mean / max",
        ),
        rows,
    )


def _print_bottleneck(found: Bottleneck) -> None:
    rows = [
        (name, *_rates(f), f"{f.latency_ms_p50:.0f}")
        for name, f in (
            ("training step, cached batch", found.step),
            ("loader alone", found.loader),
            ("training with the loader", found.together),
        )
    ]
    print_table("Is loading the bottleneck?", ("", "images a second", "range", "batch ms p50"), rows)
    show(found.verdict)


def _print_sweep(found: Sweep) -> None:
    rows = [
        (
            f"--{p.option.replace('_', '-')} {p.value:g}" + (" *" if p.in_force else ""),
            f"{p.images_per_second:,.0f}",
            f"{p.low:,.0f}..{p.high:,.0f}",
            f"{p.cores:.1f}",
            f"{p.latency_ms_p99:.0f}",
            str(p.gain),
        )
        for p in found.points
    ]
    where = "from the disk, as training will read" if found.cold else "from memory, as training will read"
    print_table(
        f"Other settings ({where}; * marks the current one)",
        ("option", "images a second", "range", "cores", "batch ms p99", "times as fast as *"),
        rows,
    )
    if found.gain is None:
        show("Recommended: the current settings; no other was faster in every round and by more than 3%.")
    elif not found.options:
        show("Recommended: the current settings; what seemed faster was not when measured again.")
    else:
        show(
            f"Recommended: {found.options}\n  {found.gain} times as fast: {found.after:,.0f} against "
            f"{found.before:,.0f} images/s. `alexnet train` takes the same options."
        )


def print_train_bench(result: TrainBench) -> None:
    """Print speeds, time spent waiting, and bytes sent."""
    print_table(
        f"Mesh {result.mesh} on {result.device}, a batch of {result.batch_size}",
        ("", "images/s", "windows", "share of time"),
        [
            (
                "step alone",
                f"{result.step_images_per_second:,.1f}",
                _range(result.step_windows),
                f"{result.exchange_share:.1%} waiting for other ranks",
            ),
            (
                "with the loader",
                f"{result.images_per_second:,.1f}",
                _range(result.windows),
                f"{result.waiting_share:.1%} waiting for data",
            ),
        ],
    )
    counted, expected = asdict(result.sent), asdict(result.expected)
    print_table(
        "Bytes that the first rank sends in a step",
        ("", "counted", "from the shapes"),
        [(name, f"{counted[name]:,}", f"{expected[name]:,}") for name in counted],
    )


def _range(windows: list[float]) -> str:
    return f"{min(windows):,.1f} .. {max(windows):,.1f}"
