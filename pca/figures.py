"""The statistics as one picture: mean image, spectrum, axes, and what lighting does to an image.

After `compute.py`; for people's eyes only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from .oracle import KNOWN
from .stats import RgbStats

SIGMA = 0.1  # of the lighting draw, section 4.1 of the paper
STEPS = (-3, -2, -1, 0, 1, 2, 3)  # in sigmas
INK, MUTED, OURS = "#222222", "#777777", "#3b6ea5"
THEIRS = ("#b8b8b8", "#dcdcdc")
CHANNELS = {"R": "#c8473c", "G": "#4c9a52", "B": "#3f68b5"}
