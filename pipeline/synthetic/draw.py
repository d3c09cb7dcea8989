"""One drawn picture: a size, a cluttered backdrop, perhaps an object of a class, light, JPEG bytes.

`generate.py` makes data sets of these. They cost as much to decode as ImageNet's: sizes, bytes per pixel,
chroma subsampling and the share of greyscale files match a sample of it. Scenes are float32 (H, W, 3), RGB,
about 0..255, and changed in place.
"""

import colorsys
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.floating]  # float32; numpy 2 keeps it when mixed with Python numbers


@dataclass(frozen=True)
class Kind:
    """What the pictures of a class have in common; `colour` None means any."""

    shape: str
    texture: str
    colour: str | None = None

    @property
    def name(self) -> str:
        return f"{self.colour or self.texture}_{self.shape}"


# Every shape, texture and colour occurs in several classes: any one of them alone gets at most four of ten right.
KINDS = (
    Kind("star", "plain", "red"),
    Kind("star", "plain", "blue"),
    Kind("disc", "plain", "red"),
    Kind("disc", "plain", "blue"),
    Kind("square", "plain", "green"),
    Kind("triangle", "plain", "green"),
    Kind("disc", "striped"),
    Kind("disc", "dotted"),
    Kind("square", "striped"),
    Kind("triangle", "dotted"),
)
_CORNERS = {"disc": 64, "star": 10, "square": 4, "triangle": 3}
_HUES = {"red": 0.0, "green": 0.33, "blue": 0.62}
_TEXTURES: dict[str, Callable[[Pixels, Pixels], Pixels]] = {  # phases, radians -> share of the second colour
    "plain": lambda u, v: 0.5 + 0.06 * u,
    "striped": lambda u, v: 0.5 + 3 * np.sin(u),
    "dotted": lambda u, v: 4 * (np.cos(u) + np.cos(v) - 0.8),
}
GREY_SHARE = 0.03


def draw_jpeg(key: tuple[int, ...], kind: Kind | None) -> bytes:
    """Draw one picture as a JPEG file: `key` seeds the picture, `key[0]` the textures of its data set."""
    rng = np.random.default_rng(key)
    width, height = draw_size(rng)
    scene = _backdrop(rng, height, width, seed=key[0])
    if kind:
        _paste(scene, rng, kind)
    _illuminate(scene, rng)
    picture = Image.fromarray(np.clip(scene, 0, 255, out=scene).astype(np.uint8))
    # The 6 kinds of 10 that colour tells apart are never grey; the other 4 make up for them.
    if (kind is None or not kind.colour) and rng.random() < GREY_SHARE * (10 / 4 if kind else 1):
        picture = picture.convert("L")
    fine = rng.random() < 0.68
    buffer = io.BytesIO()
    quality = 96 if fine else int(rng.integers(75, 93))
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:4:4" if fine else "4:2:0")
    return buffer.getvalue()


# How many of 1,000 ImageNet images have each common size (width, height). 44% of the others have a longer side of
# 500; the rest are drawn from the quantiles of the longer side and of the ratio of the sides.
_SIZE_COUNTS = {
    (500, 375): 214,
    (500, 333): 100,
    (375, 500): 60,
    (333, 500): 37,
    (500, 334): 27,
    (500, 332): 18,
    (500, 500): 12,
    (800, 600): 8,
    (640, 480): 8,
}
_SIZES = tuple(_SIZE_COUNTS)
_SIZE_SHARES = np.array(tuple(_SIZE_COUNTS.values())) / 1000
_QUANTILES = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
_LONG_SIDES = (75, 160, 200, 314, 440, 600, 800, 1024, 1600, 2400)
_RATIOS = (0.4, 0.56, 0.64, 0.67, 0.75, 0.8, 0.95, 1, 1, 1)


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw the width and height of a picture, in pixels, distributed like ImageNet's (0.2 megapixels on average)."""
    common = np.searchsorted(np.cumsum(_SIZE_SHARES), rng.random())
    if common < len(_SIZES):
        return _SIZES[common]
    long = 500 if rng.random() < 0.44 else round(np.interp(rng.random(), _QUANTILES, _LONG_SIDES))
    short = round(long * np.interp(rng.random(), _QUANTILES, _RATIOS))
    return (short, long) if rng.random() < 0.31 else (long, short)


def _backdrop(rng: np.random.Generator, height: int, width: int, seed: int) -> Pixels:
    """Draw a cluttered scene: a gradient of colours, clouds, leaves and grain, each of random strength."""
    clouds, leaves, grain = (_cut(texture, rng, height, width) for texture in _textures(seed))
    scene = clouds * np.float32(rng.uniform(5, 35))
    if rng.random() < 0.6:
        scene += leaves * np.float32(rng.uniform(5, 30))
    scene += grain * np.float32(rng.gamma(1.1, 3.3))
    base, down, right = rng.uniform(-40, 40, (3, 3)).astype(np.float32)
    base += np.float32(rng.uniform(70, 180))
    scene += base + np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * down  # (H, 1, 3)
    scene += np.linspace(-1, 1, width, dtype=np.float32)[:, None] * right  # (W, 3)
    return scene


@lru_cache(maxsize=2)
def _textures(seed: int) -> tuple[Pixels, ...]:
    """Draw the clouds, leaves and grain, (1024, 1024, 3), mean 0, deviation 1, that backdrops are cut from.

    Clouds have the amplitude spectrum of photographs, f**-1.2; leaves overlap, with edges as in photographs;
    grain is white. Brightness varies more than colour in all three.
    """
    side, rng = 1024, np.random.default_rng(seed)
    white = rng.standard_normal((3, side, side), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    clouds = np.fft.irfft2(np.fft.rfft2(white) / frequency**1.2).transpose(1, 2, 0)
    canvas = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(canvas)
    for x, y in rng.uniform(-50, side + 50, (6000, 2)):
        radius = min(200, 5 / np.sqrt(rng.random()))  # few large, many small, as in photographs
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        corners = np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), axis=1)
        draw.polygon(corners.ravel().tolist(), fill=tuple(rng.integers(256, size=3).tolist()))
    grey = (np.eye(3) + 0.8).astype(np.float32)
    layers = (clouds, np.asarray(canvas), white.transpose(1, 2, 0))
    return tuple(_standardise(layer.astype(np.float32) @ grey) for layer in layers)


def _standardise(layer: Pixels) -> Pixels:
    return (layer - layer.mean()) / layer.std()


def _cut(texture: Pixels, rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Cut a random (height, width, 3) piece of a texture, upside down or not; tile a texture that is too small."""
    repeats = math.ceil(height / len(texture)), math.ceil(width / len(texture)), 1
    if max(repeats) > 1:
        texture = np.tile(texture, repeats)
    y, x = rng.integers(texture.shape[0] - height + 1), rng.integers(texture.shape[1] - width + 1)
    return texture[y : y + height, x : x + width][:: rng.choice((-1, 1))]


def _paste(scene: Pixels, rng: np.random.Generator, kind: Kind) -> None:
    """Draw the object of a class, of any size and angle, into the central square that the trainer sees."""
    height, width, _ = scene.shape
    short = min(height, width)
    radius = short * rng.uniform(0.36, 0.47)
    side = 2 * int(radius) + 3
    top, left = np.array((height - short, width - short)) // 2 + rng.integers(short - side + 1, size=2)
    patch = scene[top : top + side, left : left + side]
    patch += _outline(rng, kind.shape, radius, side)[..., None] * (_surface(rng, kind, radius, side) - patch)


def _outline(rng: np.random.Generator, shape: str, radius: float, side: int) -> Pixels:
    """Return how much of each pixel a turned and squeezed shape of `radius` pixels covers, (side, side), 0..1."""
    corners = _CORNERS[shape]
    angles = np.arange(corners) * 2 * np.pi / corners - np.pi / (4 if shape == "square" else 2)
    reach = np.where(np.arange(corners) % 2 & (shape == "star"), 0.42, 1) * radius
    x, y = reach * np.cos(angles), reach * np.sin(angles) * rng.uniform(0.85, 1)
    turn = rng.uniform(-0.4, 0.4)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    mask = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(mask).polygon((np.stack((x, y), axis=1) * 2 + side).ravel().tolist(), fill=255)
    return np.asarray(mask.reduce(2), np.float32) / 255


def _surface(rng: np.random.Generator, kind: Kind, radius: float, side: int) -> Pixels:
    """Draw an object's surface, (side, side, 3): two colours in a turned texture, 3 to 4 periods across."""
    hue = _HUES[kind.colour] + rng.uniform(-0.03, 0.03) if kind.colour else rng.random()
    first = _rgb(hue, rng.uniform(0.75, 1), rng.uniform(0.75, 1))
    pale, dark = _rgb(rng.random(), rng.uniform(0, 0.3), 1), _rgb(rng.random(), rng.uniform(0, 1), 0.15)
    second = 0.4 * first if kind.texture == "plain" else (pale, dark)[rng.integers(2)]
    turn = rng.uniform(-0.4, 0.4)
    steps = (np.arange(side, dtype=np.float32) - side / 2) * np.float32(np.pi / radius * rng.uniform(3, 4))
    across, along = steps * np.float32(np.cos(turn)), steps * np.float32(np.sin(turn))
    share = _TEXTURES[kind.texture](across + along[:, None], across[:, None] - along)
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def _rgb(hue: float, saturation: float, value: float) -> Pixels:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _illuminate(scene: Pixels, rng: np.random.Generator) -> None:
    """Light the scene with random strength and tint, from a random side."""
    height, width, _ = scene.shape
    tint = rng.uniform(0.65, 1.15) * rng.uniform(0.92, 1.08, 3)
    down, right = rng.uniform(-0.25, 0.25, 2)
    scene *= (1 + down * np.linspace(-1, 1, height)[:, None, None]).astype(np.float32)  # (H, 1, 1)
    scene *= (tint * (1 + right * np.linspace(-1, 1, width)[:, None])).astype(np.float32)  # (W, 3)
