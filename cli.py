"""The command line: arguments in, calls out. No logic lives here.

Heavy imports stand inside the commands, so `alexnet --help` answers at once, without DALI or torch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from . import __version__
from .train.config import PRESETS
from .train.console import ARGUMENTS, Commands, bar, print_table, run_commands, say
from .train.options import (
    ANY_PATH,
    FOLDER,
    LOADING,
    batch_option,
    bench_options,
    config_options,
    data_argument,
    execution_option,
    json_option,
    loading_options,
    mesh_options,
    pack_options,
    stats_options,
    threads_option,
    train_options,
    views_option,
)

if TYPE_CHECKING:
    from .pca.stats import Region, RgbStats

@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alexnet")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """AlexNet as of 2012, trained end to end at the speed of today's hardware.

    DATA is a folder with train/<class>/*.JPEG and val/, or with the ILSVRC2012 tar archives, or with WebDataset
    shards. Left out, it is $ALEXNET_DATA, then /data/imagenet.
    """
    logger = logging.getLogger("alexnet")
    logger.handlers, logger.propagate = [logging.StreamHandler(sys.stderr)], False
    logger.setLevel(logging.INFO)


# -- statistics --------------------------------------------------------------------------------------------


@main.command("pca-stats")
@data_argument
@stats_options
@loading_options
@json_option
def pca_stats(data: Path | None, out: Path | None, region: Region, parts: tuple[Path, ...],
              part: tuple[int, int] | None, plot: Path | None, as_json: bool, **loading: Any) -> None:  # fmt: skip
    """Colour statistics of a training set: mean image, covariance, eigenvectors and eigenvalues.

    Exact integer sums: the same bits whatever the threads and processes, in one go or resumed. After an
    interruption the same command goes on where it was. Under torchrun the ranks share the images.

    Example: alexnet pca-stats /data/imagenet --out stats.json --plot stats.png
    """
    from .pipeline.dataset import open_dataset
    from .train.launch import Place
    from .train.loading import compute_statistics, example_square, settings_of
    from .train.session import stats_path
    from .train.tables import print_stats

    if (parts or part) and out is None:
        raise click.UsageError(f"{'--merge' if parts else '--part'} needs --out FILE.")
    if parts and (data or part):
        raise click.UsageError("--merge adds up files: leave DATA and --part out.")
    if part and not 0 <= part[0] < part[1]:
        raise click.UsageError(f"--part {part[0]} {part[1]}: the parts of {part[1]} are 0 to {part[1] - 1}.")
    if part and "WORLD_SIZE" in os.environ:
        raise click.UsageError("torchrun shares the images out by itself: leave --part out.")
    example = None
    Place.join()
    if parts:
        from .pca.compute import merge_stats

        stats: RgbStats | None = merge_stats(parts)
    else:
        dataset = open_dataset(data, "train")
        out = out or stats_path(dataset, region)
        stats = compute_statistics(dataset, region, settings_of(loading), loading["decode"], part or (0, 1))
        example = example_square(dataset, loading) if plot else None
    if stats is None:  # another rank has the whole
        return
    assert out is not None
    stats.save(out)
    if plot:
        from .pca.figures import plot_stats

        plot_stats(stats, plot, example)
    print(out.read_text()) if as_json else print_stats(stats, out)


# -- packing -----------------------------------------------------------------------------------------------


@main.command()
@click.argument("data", type=ANY_PATH)
@click.argument("out", type=FOLDER)
@pack_options
@loading_options
@json_option
def pack(data: Path, out: Path, splits: tuple[Literal["train", "val"], ...], raw: bool, quality: int, shard_size: int,
         as_json: bool, **loading: Any) -> None:  # fmt: skip
    """Down-sample a data set once, as the paper did: 256x256 images in WebDataset shards, for any command's DATA.

    ImageNet becomes 34 GB, which memory can hold, and decodes several times faster. After an interruption the same
    command goes on where it was. Images that cannot be read are left out and listed in OUT/pack.json.

    Example: alexnet pack /data/imagenet /data/imagenet-256
    """
    from .pipeline.dataset import open_dataset
    from .pipeline.pack import PackOptions
    from .pipeline.pack import pack as pack_split
    from .train.loading import settings_of

    options = PackOptions(raw=raw, quality=quality, images_per_shard=shard_size, decode=loading["decode"])
    results = []
    for dataset in [open_dataset(data, split) for split in splits or ("train", "val")]:
        with bar(f"pack {dataset.split}", len(dataset), "images") as update:
            results.append(pack_split(dataset, out, options, settings_of(loading), update))
    if as_json:
        print(json.dumps({"splits": [asdict(result) for result in results]}))
        return
    print_table(str(out), ("split", "images", "shards", "size", "left out"),
                [(r.split, f"{r.num_images:,}", f"{r.num_shards:,}", f"{r.num_bytes / 1e9:.2f} GB", f"{len(r.bad):,}")
                 for r in results])  # fmt: skip


# -- training ----------------------------------------------------------------------------------------------


@main.command()
@data_argument
@train_options
@mesh_options
@execution_option
@loading_options
@config_options
@click.pass_context
def train(ctx: click.Context, data: Path | None, preset: str | None, run_dir: Path | None, resume: str | None,
          stats_file: Path | None, describe: bool, num_classes: int, checkpoint_every: int | None, keep: int,
          log_every: int, execution: str | None, **given: Any) -> None:  # fmt: skip
    """Train the network, on as many devices as --mesh says.

    The run folder holds the configuration, metrics.jsonl and the checkpoints. Ctrl-C writes a checkpoint first.
    On one machine this starts a rank for each device; under torchrun or srun it joins their ranks.

    Example: alexnet train /data/imagenet --preset original --run runs/first

    \b
    The paper's two GPUs, the same on a laptop's CPU, and two machines of eight GPUs (on each of them):
      alexnet train /data/imagenet --mesh 1x2
      alexnet train /data/imagenet --mesh 1x2 --device cpu --width 0.25
      torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m -- alexnet.cli train /data/imagenet --mesh 8x2 --run /shared/run
    """
    from .train import run
    from .train.session import resolve_config
    from .train.tables import print_description

    ranks = run.Ranks(**{k: given.pop(k) for k in ("mesh", "devices", "timeout", "max_restarts")})
    loading = {k: given.pop(k) for k in LOADING}
    overrides = {k: v for k, v in given.items() if v is not None}
    if describe:
        print_description(resolve_config(preset, overrides, None), num_classes)
        return
    job = run.TrainingJob(data=data, preset=preset, overrides=overrides, run_dir=run_dir, resume=resume,
                          stats_file=stats_file, checkpoint_every=checkpoint_every, keep=keep, log_every=log_every,
                          execution=execution, loading=loading, ranks=ranks)  # fmt: skip
    ctx.exit(run.train(job, ctx.meta[ARGUMENTS]))


# -- evaluation --------------------------------------------------------------------------------------------


@main.command()
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="CKPT... [DATA]")
@views_option
@batch_option
@mesh_options
@loading_options
@json_option
@click.pass_context
def evaluate(ctx: click.Context, paths: tuple[Path, ...], views: Literal[1, 10], batch_size: int, as_json: bool,
             **given: Any) -> None:  # fmt: skip
    """Top-1 and top-5 error of checkpoints or run folders on the validation set, every image counted once.

    Several checkpoints are averaged, by class probabilities as in the paper. The last argument may be the data set.
    A rank for each GPU takes its share of the images, whatever mesh the network was trained on.

    Example: alexnet evaluate runs/first /data/imagenet --views 10
    """
    from .train import run
    from .train.session import split_data

    ranks = run.Ranks(**{k: given.pop(k) for k in ("mesh", "devices", "timeout", "max_restarts")})
    checkpoints, data = split_data(paths)
    result = run.evaluate(checkpoints, data, views=views, batch_size=batch_size, loading=given, ranks=ranks,
                          arguments=ctx.meta[ARGUMENTS])  # fmt: skip
    if isinstance(result, int):  # the first rank prints
        ctx.exit(result)
    if as_json:
        print(json.dumps(asdict(result) | {"checkpoints": [str(c) for c in checkpoints]}))
        return
    print(f"images       {result.num_images:,}" + (f" ({len(result.bad)} could not be used)" if result.bad else ""))
    print(f"views        {views}" + (f", {len(checkpoints)} networks averaged" if len(checkpoints) > 1 else ""))
    print(f"top-1 error  {result.top1_error:.2%}")
    print(f"top-5 error  {result.top5_error:.2%}")


@main.command()
@click.argument("checkpoint", type=ANY_PATH, metavar="CKPT")
@click.argument("images", nargs=-1, required=True, type=ANY_PATH, metavar="IMAGE...")
@views_option
@loading_options
@json_option
def predict(checkpoint: Path, images: tuple[Path, ...], views: Literal[1, 10], as_json: bool, **loading: Any) -> None:
    """The five most probable classes of images.

    Example: alexnet predict runs/first cat.jpg dog.jpg
    """
    from .pipeline.dataset import from_files
    from .train import evaluate as evaluation
    from .train.loading import device_of, settings_of
    from .train.session import load_classifier

    files, device = from_files(images), device_of(loading)
    bad: dict[int, str] = {}
    found = evaluation.predict([load_classifier(checkpoint, device)], files, views=views, device=device,
                               settings=settings_of(loading | {"max_bad": 1.0}), bad=bad,
                               decode=loading["decode"])  # fmt: skip
    results = [(files.name(p.index), dict(p.classes)) for p in found]
    if as_json:
        print(json.dumps({"predictions": dict(results), "bad": {files.name(i): why for i, why in bad.items()}}))
    else:
        for name, classes in results:
            print_table(name, ("probability", "class"), [(f"{p:.1%}", c) for c, p in classes.items()])
    if bad:
        raise SystemExit(1)


# -- the machine -------------------------------------------------------------------------------------------


@main.command("bench-loader")
@data_argument
@bench_options
@loading_options
@json_option
def bench_loader(data: Path | None, plot: Path | None, as_json: bool, **asked: Any) -> None:
    """Images per second of the loader that training uses, stage by stage, against its own ceiling.

    read: bytes and headers; decode: whole images, nothing else; pipeline: the training graph; loader: the same in
    torch's hands; from memory, and from the disk as in a first epoch. Then what the symptoms are, and which options
    help. Without DATA it makes JPEGs of ImageNet's sizes, once, in the cache folder.

    Example: alexnet bench-loader /data/imagenet --step --sweep --plot loader.png
    """
    from .train.bench_loader import run_bench_loader
    from .train.bench_tables import print_bench

    result = run_bench_loader(data, asked)
    if plot:
        from .pipeline.bench.figures import plot_bench

        plot_bench(result, plot)
    print(result.to_json()) if as_json else print_bench(result)


@main.command("bench-train")
@data_argument
@click.option("--preset", type=click.Choice(list(PRESETS)), default="paper", show_default=True)
@click.option("--width", type=float, default=1.0, show_default=True, help="Scales channels and units.")
@batch_option
@click.option("--seconds", type=click.FloatRange(0.05), default=5.0, show_default=True, help="Of each window.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Windows of each kind.")
@mesh_options
@execution_option
@loading_options
@json_option
@click.pass_context
def bench_train(ctx: click.Context, data: Path | None, preset: str, width: float, batch_size: int, seconds: float,
                rounds: int, execution: str | None, as_json: bool, **given: Any) -> None:  # fmt: skip
    """Images per second of training on a mesh: the step alone on a cached batch, and with the loader.

    Also the share of time that waits for other ranks and for data, and the bytes sent, counted and from the shapes.

    Example: alexnet bench-train /data/imagenet --mesh 1x2
    """
    from .train import run
    from .train.config import Config
    from .train.tables import print_train_bench

    ranks = run.Ranks(**{k: given.pop(k) for k in ("mesh", "devices", "timeout", "max_restarts")})
    config = Config.from_preset(preset, width=width, batch_size=batch_size)
    result = run.bench(data, config, seconds=seconds, rounds=rounds, execution=execution, loading=given, ranks=ranks,
                       arguments=ctx.meta[ARGUMENTS])  # fmt: skip
    if isinstance(result, int):  # the first rank prints
        ctx.exit(result)
    print(json.dumps(asdict(result))) if as_json else print_train_bench(result)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """What this machine has, and for each thing missing what it costs and how to get it.

    Example: alexnet doctor
    """
    from .pipeline.doctor import diagnose

    findings = diagnose()
    if as_json:
        print(json.dumps({"findings": [asdict(f) for f in findings]}))
        return
    print_table("This machine", ("", "area", "found"), [(f.status, f.area, f.found) for f in findings])
    for finding in findings:
        if finding.status != "ok":
            print(f"\n{finding.area}: {finding.cost}\n  {finding.remedy}")


@main.command()
@click.option("--folder", type=FOLDER, default=Path("demo"), show_default=True, help="For images and results.")
@threads_option
def demo(folder: Path, threads: int) -> None:
    """Everything above on generated images, in minutes, on a CPU.

    Draws a small ImageNet-shaped tree of ten classes that need colour, shape and texture to tell apart, then runs
    the commands that a user would type.

    Example: alexnet demo --folder /tmp/demo
    """
    from .pipeline.generate import generate_tree

    say(f"Drawing ten classes of JPEGs into {folder / 'data'}")
    with bar("drawing", 1200, "images") as update:
        data = generate_tree(folder / "data", train_per_class=100, val_per_class=20, seed=0, processes=threads,
                             progress=lambda done, total: update(done))  # fmt: skip
    run, stats, run_on = folder / "run", folder / "stats.json", f"--threads {threads}"
    run_commands(
        f"pca-stats {data} --out {stats} --plot {folder / 'stats.png'} {run_on}",
        f"train {data} --stats {stats} --run {run} --width 0.25 --batch-size 16 --epochs 20 --schedule stages "
        f"--num-stages 2 --stage-factor 10 {run_on}",
        f"evaluate {run} {data} --views 1 {run_on}",
        f"evaluate {run} {data} --views 10 {run_on}",
        f"bench-loader {data} --seconds 1 {run_on}",
    )


if __name__ == "__main__":
    main()
