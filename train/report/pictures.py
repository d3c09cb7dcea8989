"""Figures as parts of a page: the bytes of the picture in its address, and the text for those who do not see it.

`report.py` draws with `train/figures/`; `page.html` shows.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.figure import Figure

from ..figures.drawing import drawing_with, lay_out

PIXELS_PER_INCH = 96  # of CSS
PAGE_WIDTH = 950  # pixels of CSS that a picture has on a wide page
QUALITY = 90  # of WebP
SHARPNESS = 1.5  # pixels of a photograph for each of CSS


@dataclass(frozen=True)
class Picture:
    """`width` and `height` are those of the page before it shrinks the picture to fit, in pixels of CSS."""

    uri: str
    width: int
    height: int
    alt: str  # says what is to be seen
    caption: str


def embed(figure: Figure, alt: str, caption: str, kind: Literal["svg", "webp"] = "svg") -> Picture:
    """Draw into a data URI: lines and text as SVG, photographs as WebP, a fifth as large as PNG."""
    width, height = (round(PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    shown = min(1.0, PAGE_WIDTH / width)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"pil_kwargs": {"quality": QUALITY}} if kind == "webp" else {}
    dots_per_inch = shown * SHARPNESS * PIXELS_PER_INCH
    with drawing_with({"svg.fonttype": "path"}):  # the same letters wherever the page is read
        lay_out(figure, dots_per_inch)
        figure.savefig(buffer, format=kind, dpi=dots_per_inch, **options)
    mime = {"svg": "image/svg+xml", "webp": "image/webp"}[kind]
    uri = f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, round(shown * width), round(shown * height), alt, caption)
