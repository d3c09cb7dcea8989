"""The command line: arguments in, calls out. No logic lives here.

Heavy imports sit inside the commands, so that `alexnet --help` answers at once, without DALI or torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from . import __version__
from .console.command_options import evaluate_options, pack_options, report_options, stats_options
from .console.data_options import data_argument, data_options, val_options
from .console.errors import Commands
from .console.experiment_group import ablate, figure1
from .console.figure_group import figure
from .console.imports import quick_imports
from .console.machine_group import bench_loader, bench_train, doctor
from .console.network_group import codes, export, features
from .console.options import (
    ANY_PATH,
    FOLDER,
    LOCAL_PATH,
    LoadingOptions,
    batch_option,
    json_option,
    loading_options,
    mesh_options,
    threads_option,
    views_option,
)
from .console.terminal import set_up, show_json
from .console.train_options import config_options, describe_options, preset_option, train_options


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="alexnet")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """The AlexNet of 2012, trained end to end at the speed of today's hardware.

    DATA is a folder that holds train/<class>/*.JPEG and val/, the ILSVRC2012 tar archives, or WebDataset shards, or the
    URL of shards. It defaults to $ALEXNET_DATA, then to /data/imagenet.
    """
    set_up()


# -- before training ---------------------------------------------------------------------------------------


@main.command("pca-stats")
@data_argument
@stats_options
@loading_options
@json_option
def pca_stats(data: Path | None, as_json: bool, **rest: Any) -> None:
    """Compute a training set's colour statistics: mean image, covariance, eigenvectors and eigenvalues.

    Sums are exact integers: any number of threads and processes gives the same bits. After an interruption, run the
    same command again to continue. Under torchrun, the ranks share the images.

    Example: alexnet pca-stats /data/imagenet --out stats.json --plot stats.png
    """
    with quick_imports():
        from .console.commands.stats import run_pca_stats
        from .console.tables import print_stats

    if found := run_pca_stats(data, **rest):  # None on all ranks but the first
        stats, out = found
        show_json(out.read_text()) if as_json else print_stats(stats, out)


@main.command()
@click.argument("data", type=ANY_PATH)
@click.argument("out", type=FOLDER)
@pack_options
@data_options
@loading_options
@json_option
def pack(data: Path, out: Path, as_json: bool, **asked: Any) -> None:
    """Downsample a data set once, as the paper did: 256x256 images in WebDataset shards, for use as DATA.

    ImageNet shrinks to 34 GB, which fits in memory, and decodes several times faster. After an interruption, run the
    same command again to continue. Images that cannot be read are left out and listed in OUT/pack.json. A pack of JPEGs
    becomes one of coefficients (--dct), and the other way round, without a loss. Here DATA may also be a folder of
    parquet files, as Hugging Face has ImageNet.

    Example: alexnet pack /data/imagenet /data/imagenet-256
    """
    with quick_imports():
        from .console.commands.pack import run_pack
        from .console.tables import print_packed

    results = run_pack(data, out, **asked)
    show_json(json.dumps({"splits": [asdict(r) for r in results]})) if as_json else print_packed(out, results)


# -- training and evaluation -------------------------------------------------------------------------------


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
    **rest: Any,
) -> None:
    """Train the network on one or more devices.

    The run folder holds the configuration, metrics.jsonl and the checkpoints. Ctrl-C stops after writing a checkpoint.
    On one machine this starts one rank per device; under torchrun or srun it joins their ranks.

    Example: alexnet train /data/imagenet --preset original --run runs/first

    \b
    On two GPUs like the paper, the same on a laptop's CPU, and on two machines of eight GPUs (run it on each):
      alexnet train /data/imagenet --mesh 1x2
      alexnet train /data/imagenet --mesh 1x2 --device cpu --width 0.25
      torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m -- alexnet.cli train /data/imagenet --mesh 8x2 --run /shared/run
    """
    with quick_imports():
        from .console.commands.train import run_train
        from .console.tables import print_description
        from .train.config import Config

    overrides |= loading.pixel_overrides()
    if describe:
        print_description(Config.from_preset(preset or "paper", **overrides), num_classes)
    else:
        ctx.exit(run_train(preset=preset, overrides=overrides, loading=loading, **rest))


@main.command()
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="CKPT... [DATA]")
@views_option
@batch_option
@evaluate_options
@val_options
@mesh_options
@loading_options
@json_option
def evaluate(paths: tuple[Path, ...], as_json: bool, **rest: Any) -> None:
    """Measure top-1 and top-5 error on the validation set, counting every image once.

    CKPT is a checkpoint, a run folder, an exported network (.safetensors or torchvision's .pth), or a file from
    --save-probabilities, whose networks are not run again; the class probabilities of several are averaged, as in the
    paper. The last argument may be the data set. One rank per GPU takes a share of the images; the mesh used in
    training is irrelevant.

    Example: alexnet evaluate runs/first /data/imagenet --views 10
    """
    with quick_imports():
        from .console.commands.evaluate import run_evaluate, split_data
        from .console.tables import print_evaluation

    if report := run_evaluate(*split_data(paths), **rest):  # None on all ranks but the first
        show_json(json.dumps(report.record())) if as_json else print_evaluation(report)


@main.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@click.argument("images", nargs=-1, required=True, type=LOCAL_PATH, metavar="IMAGE...")
@views_option
@loading_options
@json_option
def predict(checkpoint: Path, images: tuple[Path, ...], as_json: bool, **asked: Any) -> None:
    """Print the five most probable classes of each image.

    Example: alexnet predict runs/first cat.jpg dog.jpg
    """
    with quick_imports():
        from .console.commands.predict import run_predict
        from .console.tables import print_predictions

    predictions, bad = run_predict(checkpoint, images, **asked)
    show_json(json.dumps({"predictions": dict(predictions), "bad": bad})) if as_json else print_predictions(predictions)
    if bad:
        raise SystemExit(1)


@main.command()
@click.argument("run", type=FOLDER, metavar="RUN")
@data_argument
@report_options
@loading_options
def report(run: Path, data: Path | None, **asked: Any) -> None:
    """Put all that can be known of a run on one page: numbers, curves, the paper's figures and its tables of results.

    RUN is a run folder. DATA is the data set that it was trained on; it defaults to the place where the run found it.
    The page needs no network and no script. What cannot be drawn is named on it, with the reason.

    Example: alexnet report runs/first /data/imagenet --out report.html
    """
    with quick_imports():
        from .console.commands.report import run_report

    run_report(run, data, **asked)


for command in (features, codes, export, figure, figure1, ablate):
    main.add_command(command)


# -- the machine -------------------------------------------------------------------------------------------

for command in (bench_loader, bench_train, doctor):
    main.add_command(command)


@main.command()
@click.option("--folder", type=FOLDER, default=Path("demo"), show_default=True, help="Where images and results go.")
@threads_option
def demo(folder: Path, threads: int) -> None:
    """Run the whole workflow on generated images, in minutes, on a CPU.

    Draws a small ImageNet-shaped tree of ten classes, told apart by colour, shape and texture, then runs the commands
    a user would type.

    Example: alexnet demo --folder /tmp/demo
    """
    with quick_imports():
        from .console.commands.demo import run_demo

    run_demo(folder, threads)


if __name__ == "__main__":
    main()
