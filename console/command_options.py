"""Command-line options of single commands; those of `train` are in `train_options.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from ..train.settings.presets import PRESETS
from .options import FILE, FOLDER, batch_option, gathered, together
from .train_options import resident_option
from .types import Commas, FiniteRange, Multiple, NumberChoice, Output

OUTPUT, PICTURE = Output(), Output(".png", ".pdf", ".svg")
CSV, ARRAY, HTML = Output(".csv"), Output(".npy"), Output(".html")
REPORT_SECTIONS = ("curves", "kernels", "activations", "predictions", "neighbours", "embedding", "colours")


bench_loader_options = together(
    batch_option,
    click.option("--seconds", type=FiniteRange(0.05), default=2.0, show_default=True, help="Length of a window."),
    click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Windows per contestant."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option(
        "--compare",
        type=click.Choice(["torch"]),
        help="Compare with torch's DataLoader and Pillow, at its best number of workers.",
    ),
    click.option("--step", is_flag=True, help="Is loading the bottleneck? Compare with the step on a cached batch."),
    click.option("--preset", type=click.Choice(list(PRESETS)), help="Network of --step.  [paper]"),
    click.option("--width", type=FiniteRange(min=0, min_open=True), help="Width of that network.  [1]"),
    click.option("--sweep", is_flag=True, help="Try other settings, and recommend the best if it is clearly better."),
    click.option("--plot", type=PICTURE, help="Plot the results, as PNG, PDF or SVG."),
    resident_option,
)
bench_train_options = together(
    click.option("--preset", type=click.Choice(list(PRESETS)), default="paper", show_default=True),
    click.option(
        "--width", type=FiniteRange(0, min_open=True), default=1.0, show_default=True, help="Scales channels and units."
    ),
    batch_option,
    click.option("--seconds", type=FiniteRange(0.05), default=5.0, show_default=True, help="Length of a window."),
    click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Windows per kind."),
)
stats_options = together(
    click.option(
        "--out", type=OUTPUT, help="JSON file; the mean image goes beside it.  [default: where `train` finds it]"
    ),
    click.option(
        "--region",
        type=click.Choice(["centre", "full"]),
        default="centre",
        show_default=True,
        help="centre: the 256x256 that training sees; full: whole images.",
    ),
    click.option(
        "--merge",
        "parts",
        multiple=True,
        type=FILE,
        help="Add up the statistics of a data set's parts instead; repeat for each file.",
    ),
    click.option("--part", type=(int, int), metavar="I N", help="Only part I (from 0) of N, to merge later."),
    click.option("--plot", type=PICTURE, help="Plot them too, as PNG, PDF or SVG."),
)
pack_options = together(
    click.option("--split", "splits", multiple=True, type=click.Choice(["train", "val"]), help="[default: both]"),
    click.option("--raw", is_flag=True, help="Pixels, not JPEGs: nothing lost, nothing to decode, ten times the size."),
    click.option(
        "--dct", is_flag=True, help="The JPEGs' coefficients: the same pixels three times as fast, 2.5 times the size."
    ),
    click.option("--copy", is_flag=True, help="The images as they are, of any size."),
    click.option("--quality", type=click.IntRange(1, 100), show_default="90", help="JPEG quality, also of --dct."),
    click.option(
        "--chroma",
        type=click.Choice(["444", "420"]),
        show_default="444",
        help="Colour at every pixel, or at every other one each way, which saves up to a third; also of --dct.",
    ),
    click.option("--shard-size", type=click.IntRange(1), default=4096, show_default=True, help="Images per shard."),
)
features_options = together(
    click.option("--layer", default="fc7", show_default=True, help="conv1 to fc8, or a norm or pool between them."),
    click.option("--out", type=FOLDER, required=True, help="The folder for features.npy and its index."),
    click.option("--split", type=click.Choice(["train", "val"]), show_default="val", help="Of DATA."),
    click.option(
        "--pool",
        type=click.Choice(["mean", "none"]),
        default="none",
        show_default=True,
        help="mean: one number for each map of a convolutional layer.",
    ),
    click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True),
    click.option("--batch-size", type=click.IntRange(1), show_default="32 on CPUs, 128 on GPUs"),
)
codes_options = together(
    click.option("--bits", type=Multiple(8), default=128, show_default=True, help="Of a code; a multiple of 8."),
    click.option("--out", type=FOLDER, required=True, help="The folder for codes.npy, encoder.npz and codes.json."),
    click.option(
        "--queries", type=FOLDER, help="Features of other images by the same network.  [default: rows held out]"
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
)
figure_out_option = click.option("--out", type=PICTURE, required=True, help="The file to draw: PNG, PDF or SVG.")
kept_features_option = click.option(
    "--features",
    type=FOLDER,
    help="Where features of the splits are, or go: its folders train and val.  [default: in the cache folder]",
)
neighbours_options = together(
    figure_out_option,
    kept_features_option,
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the queries."),
    click.option(
        "--images",
        type=Commas(str),
        default=(),
        metavar="A,B,...",
        help="Names of validation images to query instead; the end of a name is enough.",
    ),
)
embedding_options = together(
    figure_out_option,
    kept_features_option,
    click.option(
        "--num",
        type=click.IntRange(5, 5000),
        default=5000,
        show_default=True,
        help="Validation images, at most.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws them, and the layout."),
)
report_options = together(
    click.option("--out", type=HTML, required=True, metavar="FILE.html", help="The page to write."),
    click.option(
        "--views",
        type=NumberChoice((1, 10)),
        show_default="as the run's --views",
        help="Of each validation image, for the errors.",
    ),
    click.option(
        "--skip", multiple=True, type=click.Choice(REPORT_SECTIONS), help="Leave a section out; repeat for several."
    ),
)
export_options = together(
    click.option(
        "--to",
        type=click.Choice(["torchvision", "safetensors", "onnx"]),
        required=True,
        help="torchvision: a state_dict of its alexnet; safetensors: every tensor, read back by all commands; onnx: a "
        "graph for any runtime.",
    ),
    click.option(
        "--out",
        type=OUTPUT,
        help="The file to write, which must not exist.  [default: named like CKPT, in this folder]",
    ),
    click.option(
        "--input",
        "given",
        type=click.Choice(["uint8", "float"]),
        show_default="uint8",
        help="What an ONNX graph takes. uint8: pixels, (N, 224, 224, 3), and it subtracts the mean itself; float: "
        "images that are treated already, (N, 3, 224, 224).",
    ),
    click.option(
        "--check/--no-check",
        default=True,
        show_default=True,
        help="Compare an ONNX graph with the network on 100 drawn images, by onnxruntime, before it is written.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is wanted beside the errors."""

    per_class: bool
    confusion: Path | None
    save_probabilities: Path | None


evaluate_options = gathered(
    "options",
    EvaluateOptions,
    click.option("--per-class", is_flag=True, help="The errors of each class too, the worst first."),
    click.option(
        "--confusion", type=CSV, metavar="FILE.csv", help="Write how many images of each class were taken for which."
    ),
    click.option(
        "--save-probabilities",
        type=ARRAY,
        metavar="FILE.npy",
        help="Write the class probabilities of each image, a CKPT of later evaluations.",
    ),
)
