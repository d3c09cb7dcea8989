"""The look that the figures share: size, colours, titles, pictures, and how a figure becomes a file.

Every other file of `figures/` draws with it. A figure is 850 pixels wide on a page, on white; its colours are told
apart by the colour-blind (Okabe and Ito's), and nothing is told by colour alone. Nothing here uses pyplot.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ...pipeline.errors import UserError
from ...pipeline.files import can_write_into, write_atomically

WIDTH = 8.5  # inches, of every figure
DOTS_PER_INCH = 160  # of a PNG
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#d0d0d0"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
FORMATS = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}  # suffix: metadata; the same bits always

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, selected and read aloud
    "svg.hashsalt": "alexnet",
    "pdf.fonttype": 42,
    "image.composite_image": False,  # each picture keeps its own pixels
}


def new_figure(height: float, title: str, note: str = "") -> Figure:
    """An empty figure of `height` inches, with its title and a smaller note under it at the top left."""
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    return _titled(Figure(figsize=(WIDTH, height), layout=layout, facecolor="white"), title, note)


def new_sheet(height: float, title: str, note: str = "") -> Axes:
    """Axes over the whole of such a figure, in inches from its top left.

    For many pictures, whose places are known: axes for each, and a layout of those, would take seconds.
    """
    figure = _titled(Figure(figsize=(WIDTH, height), facecolor="white"), title, note)
    sheet = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
    sheet.set_axis_off()
    return sheet


def _titled(figure: Figure, title: str, note: str) -> Figure:
    head, height = f"{title}\n" if note else title, figure.get_figheight()
    place: dict[str, Any] = {} if figure.get_layout_engine() else {"y": 1 - 0.06 / height}
    figure.suptitle(head, x=0.01, **place, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    if note:
        figure.text(0.01, 1 - 0.3 / height, note, fontsize=9, color=MUTED, va="top", parse_math=False)
    return figure


def place_image(
    sheet: Axes, image: NDArray[Any], left: float, top: float, width: float, height: float, **options: Any
) -> None:
    """Show an image as `show_image` does, in a rectangle of a sheet; what does not fill it lies at its top left."""
    scale = min(width / image.shape[1], height / image.shape[0])
    right, bottom = left + scale * image.shape[1], top + scale * image.shape[0]
    usual = {"interpolation": "nearest", "cmap": "gray", "aspect": "auto"}
    sheet.imshow(image, extent=(left, right, bottom, top), **usual | options)


def write(sheet: Axes, text: str, left: float, baseline: float, size: float, **options: Any) -> None:
    """Write a name from outside, or any words, on a sheet."""
    look: dict[str, Any] = {"color": INK, "parse_math": False} | options
    sheet.text(left, baseline, text, fontsize=size, **look)


def set_title(axes: Axes, text: str, note: str = "") -> None:
    """Put a panel's title at its top left, and a smaller note between the title and the panel."""
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold", color=INK, pad=20 if note else 6, parse_math=False)
    if note:
        axes.annotate(
            note, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8.5, color=MUTED
        ).set_parse_math(False)


def show_image(axes: Axes, image: NDArray[Any], **options: Any) -> None:
    """Show an image, (H, W, 3) uint8 or 0..1, or (H, W) of any numbers, without axes; `options` are of `imshow`."""
    axes.imshow(image, **{"interpolation": "nearest", "cmap": "gray"} | options)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def bare(axes: Axes, *kept: str) -> None:
    """Leave of a panel's frame only the sides that are named."""
    sides = {"left", "right", "top", "bottom"}
    axes.spines[list(sides - {*kept})].set_visible(False)
    axes.spines[:].set_color(MUTED)
    axes.tick_params(length=3 if kept else 0, labelsize=8.5, color=MUTED, labelcolor=INK)


def shorten(text: str, length: int, *, keep_end: bool = False) -> str:
    """A name from outside as one line that can be drawn, of at most `length` characters: its beginning, or its end."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= length:
        return text
    dots = "\N{HORIZONTAL ELLIPSIS}"
    return dots + text[1 - length :] if keep_end else text[: length - 1].rstrip(" ,(") + dots


def class_labels(classes: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """What to write for each class, different for each: the first of its words, all of them, or its name with them."""
    known = [words.get(name, name) for name in classes]
    firsts = [text.partition(",")[0] for text in known]
    num_first, num_known = Counter(firsts), Counter(known)
    return tuple(
        first if num_first[first] == 1 else text if num_known[text] == 1 else f"{text} ({name})"
        for name, text, first in zip(classes, known, firsts, strict=True)
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of `path`, whole or not at all.

    UserError for another suffix, or if the folder cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise UserError(f"{path} must end in one of {', '.join(FORMATS)}.")
    if not can_write_into(path.parent):
        raise UserError(f"The folder of {path} cannot be written. Use another folder.")
    write_atomically(path, rendered(figure, ending))


def rendered(figure: Figure, ending: str) -> bytes:
    """The bytes of a file with this ending, one of `FORMATS`."""
    drawn = BytesIO()
    with drawing_with(_SETTINGS):
        lay_out(figure, DOTS_PER_INCH)
        figure.savefig(drawn, format=ending[1:], dpi=DOTS_PER_INCH, metadata=FORMATS[ending])
    return drawn.getvalue()


@contextmanager
def drawing_with(settings: dict[Any, Any]) -> Iterator[None]:
    """Let matplotlib have these settings; a name in another script becomes boxes, without a warning."""
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def lay_out(figure: Figure, dots_per_inch: float) -> None:
    """Settle where everything goes; `savefig` would draw the whole figure once more for that."""
    figure.set_dpi(dots_per_inch)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
