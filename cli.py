"""The command line: arguments in, calls out. No logic lives here.

Heavy imports stand inside the commands, so `alexnet --help` answers at once, without DALI or torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from . import __version__
from .console.command_options import (
    bench_loader_options,
    bench_train_options,
    config_options,
    describe_options,
    pack_options,
    preset_option,
    stats_options,
    train_options,
)
from .console.errors import Commands
from .console.options import (
    ANY_PATH,
    FOLDER,
    LoadingOptions,
    batch_option,
    data_argument,
    execution_option,
    json_option,
    loading_options,
    mesh_options,
    rescan_option,
    threads_option,
    views_option,
)
from .console.terminal import set_up, show_json


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alexnet")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """AlexNet as of 2012, trained end to end at the speed of today's hardware.

    DATA is a folder with train/<class>/*.JPEG and val/, or with the ILSVRC2012 tar archives, or with WebDataset
    shards. Left out, it is $ALEXNET_DATA, then /data/imagenet.
    """
    set_up()


# -- before training ---------------------------------------------------------------------------------------


@main.command("pca-stats")
@data_argument
@stats_options
@loading_options
@json_option
def pca_stats(data: Path | None, as_json: bool, **asked: Any) -> None:
    """Colour statistics of a training set: mean image, covariance, eigenvectors and eigenvalues.

    Exact integer sums: the same bits whatever the threads and processes, in one go or resumed. After an
    interruption the same command goes on where it was. Under torchrun the ranks share the images.

    Example: alexnet pca-stats /data/imagenet --out stats.json --plot stats.png
    """
    from .console.commands.stats import run_pca_stats
    from .console.tables import print_stats

    if found := run_pca_stats(data, **asked):  # the first rank prints
        stats, out = found
        show_json(out.read_text()) if as_json else print_stats(stats, out)


@main.command()
@click.argument("data", type=ANY_PATH)
@click.argument("out", type=FOLDER)
@pack_options
@rescan_option
@loading_options
@json_option
def pack(data: Path, out: Path, as_json: bool, **asked: Any) -> None:
    """Down-sample a data set once, as the paper did: 256x256 images in WebDataset shards, for any command's DATA.

    ImageNet becomes 34 GB, which memory can hold, and decodes several times faster. After an interruption the same
    command goes on where it was. Images that cannot be read are left out and listed in OUT/pack.json.

    Example: alexnet pack /data/imagenet /data/imagenet-256
    """
    from .console.commands.pack import run_pack
    from .console.tables import print_packed

    results = run_pack(data, out, **asked)
    show_json(json.dumps({"splits": [asdict(r) for r in results]})) if as_json else print_packed(out, results)


# -- training ----------------------------------------------------------------------------------------------


@main.command()
@data_argument
@preset_option
@train_options
@describe_options
@mesh_options
@loading_options
@config_options
@click.pass_context
def train(
    ctx: click.Context,
    preset: str | None,
    overrides: dict[str, Any],
    describe: bool,
    num_classes: int,
    loading: LoadingOptions,
    **asked: Any,
) -> None:
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
    from .console.commands.train import run_train
    from .console.tables import print_description
    from .train.config import Config

    overrides |= loading.changing_pixels()
    if describe:
        print_description(Config.from_preset(preset or "paper", **overrides), num_classes)
    else:
        ctx.exit(run_train(preset=preset, overrides=overrides, loading=loading, **asked))


# -- evaluation --------------------------------------------------------------------------------------------


@main.command()
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="CKPT... [DATA]")
@views_option
@batch_option
@rescan_option
@mesh_options
@loading_options
@json_option
def evaluate(paths: tuple[Path, ...], as_json: bool, **asked: Any) -> None:
    """Top-1 and top-5 error of checkpoints or run folders on the validation set, every image counted once.

    Several checkpoints are averaged, by class probabilities as in the paper. The last argument may be the data set.
    A rank for each GPU takes its share of the images, whatever mesh the network was trained on.

    Example: alexnet evaluate runs/first /data/imagenet --views 10
    """
    from .console.commands.evaluate import run_evaluate, split_data
    from .console.tables import print_evaluation

    checkpoints, data = split_data(paths)
    if result := run_evaluate(checkpoints, data, **asked):  # the first rank prints
        record = asdict(result) | {"checkpoints": [str(c) for c in checkpoints]}
        show_json(json.dumps(record)) if as_json else print_evaluation(result, len(checkpoints))


@main.command()
@click.argument("checkpoint", type=ANY_PATH, metavar="CKPT")
@click.argument("images", nargs=-1, required=True, type=ANY_PATH, metavar="IMAGE...")
@views_option
@loading_options
@json_option
def predict(checkpoint: Path, images: tuple[Path, ...], as_json: bool, **asked: Any) -> None:
    """The five most probable classes of images.

    Example: alexnet predict runs/first cat.jpg dog.jpg
    """
    from .console.commands.predict import run_predict
    from .console.tables import print_predictions

    predictions, bad = run_predict(checkpoint, images, **asked)
    record = {"predictions": dict(predictions), "bad": bad}
    show_json(json.dumps(record)) if as_json else print_predictions(predictions)
    if bad:
        raise SystemExit(1)


# -- the machine -------------------------------------------------------------------------------------------


@main.command("bench-loader")
@data_argument
@bench_loader_options
@loading_options
@json_option
def bench_loader(data: Path | None, as_json: bool, **asked: Any) -> None:
    """Images per second of the loader that training uses, stage by stage, against its own ceiling.

    read: bytes and headers; decode: whole images, nothing else; pipeline: the training graph; loader: the same in
    torch's hands; from memory, and from the disk as in a first epoch. Then what the symptoms are, and which options
    help. Without DATA it makes JPEGs of ImageNet's sizes, once, in the cache folder.

    Example: alexnet bench-loader /data/imagenet --step --sweep --plot loader.png
    """
    from .console.bench_tables import print_loader_bench
    from .console.commands.bench import run_bench_loader

    result = run_bench_loader(data, **asked)
    show_json(result.to_json()) if as_json else print_loader_bench(result)


@main.command("bench-train")
@data_argument
@bench_train_options
@mesh_options
@execution_option
@loading_options
@json_option
def bench_train(data: Path | None, as_json: bool, **asked: Any) -> None:
    """Images per second of training on a mesh: the step alone on a cached batch, and with the loader.

    Also the share of time that waits for other ranks and for data, and the bytes sent, counted and from the shapes.

    Example: alexnet bench-train /data/imagenet --mesh 1x2
    """
    from .console.bench_tables import print_train_bench
    from .console.commands.bench import run_bench_train

    if result := run_bench_train(data, **asked):  # the first rank prints
        show_json(json.dumps(asdict(result))) if as_json else print_train_bench(result)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """What this machine has, and for each thing missing what it costs and how to get it.

    Example: alexnet doctor
    """
    from .console.tables import print_findings
    from .pipeline.machine.doctor import diagnose

    findings = diagnose()
    show_json(json.dumps({"findings": [asdict(f) for f in findings]})) if as_json else print_findings(findings)


@main.command()
@click.option("--folder", type=FOLDER, default=Path("demo"), show_default=True, help="For images and results.")
@threads_option
def demo(folder: Path, threads: int) -> None:
    """Everything above on generated images, in minutes, on a CPU.

    Draws a small ImageNet-shaped tree of ten classes that need colour, shape and texture to tell apart, then runs
    the commands that a user would type.

    Example: alexnet demo --folder /tmp/demo
    """
    from .console.commands.demo import run_demo

    run_demo(folder, threads)


if __name__ == "__main__":
    main()
