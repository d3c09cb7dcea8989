"""Figures as parts of a page: the bytes of the picture in its address, and the text for those who do not see it.

`report.py` draws with `train/figures/`; `page.html` shows.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

PIXELS_PER_INCH = 96  # of CSS
SHARPNESS = 2  # pixels of a photograph for each of CSS


@dataclass(frozen=True)
class Picture:
    """`width` and `height` are those of the page before it shrinks the picture to fit, in pixels of CSS."""

    uri: str
    width: int
    height: int
    alt: str  # says what is to be seen
    caption: str


def embed(figure: Figure, alt: str, caption: str, kind: Literal["svg", "png"] = "svg") -> Picture:
    """Draw into a data URI: lines and text as SVG, photographs as PNG."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path"}):  # the same letters wherever the page is read
        figure.savefig(buffer, format=kind, dpi=SHARPNESS * PIXELS_PER_INCH)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    uri = f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    width, height = (round(PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    return Picture(uri, width, height, alt, caption)
