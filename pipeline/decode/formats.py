"""What a file is, judged by its first bytes: for messages about those that are not supported, for names of copies."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

NOT_SUPPORTED = "which is not supported; convert it to JPEG, PNG, BMP or WebP"
HEAD = 512  # bytes looked at

_IMAGES = {
    rb"GIF8[79]a": "a GIF image",
    rb"....ftypavi[fs]": "an AVIF image",
    rb"....ftyp(hei[cxms]|hev[cmsx]|mif1|msf1)": "a HEIC image",
    rb"II\*\0|MM\0\*|II\+\0|MM\0\+": "a TIFF image",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 image",
    rb"\0\0\0\x0cJXL |\xff\x0a": "a JPEG XL image",
    rb"P[1-7][\s#]": "a PNM image",
    rb"\0\0[\x01\x02]\0[^\0]\0": "an icon",
    rb"8BPS": "a Photoshop image",
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!DOCTYPE svg.*?>\s*)*<svg": "an SVG drawing",
}
_OTHERS = {
    rb"version https://git-lfs": "a Git LFS pointer to an image; `git lfs pull` fetches it",
    rb"(?i)(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)": "an HTML page, not an image",
    rb"(\xef\xbb\xbf)?\s*<\?xml": "an XML document, not an image",
    rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*[\[{\"\]])": "a JSON document, not an image",
    rb"\x1f\x8b": "a gzip archive, not an image; unpack it",
    rb"PK\x03\x04": "a zip archive, not an image; unpack it",
    rb".{257}ustar": "a tar archive, not an image; unpack it",
    rb"%PDF-": "a PDF document, not an image",
    rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ": "a video, not an image",
    rb"\x93NUMPY": "a numpy array, not an image",
    rb"[\t\n\r -~\x80-\xff]+$": "text, not an image",
}
_DESCRIPTIONS = {pattern: f"{name}, {NOT_SUPPORTED}" for pattern, name in _IMAGES.items()} | _OTHERS
_EXTENSIONS = {b"\x89PNG": "png", b"RIFF": "webp", b"BM": "bmp"}
_KINDS = [(re.compile(pattern, re.DOTALL), description) for pattern, description in _DESCRIPTIONS.items()]


def extension_of(data: bytes) -> str:
    """Return the usual extension of an image that can be decoded, whatever its file is called."""
    return next((extension for start, extension in _EXTENSIONS.items() if data.startswith(start)), "jpg")


def what_it_is(data: NDArray[np.uint8]) -> str:
    """Describe a file that is not a supported image, in a few words."""
    if len(data) == 0:
        return "the file is empty"
    if not data.any():
        return "filled with zeros, not an image; copy it again"
    head = data[:HEAD].tobytes()
    for pattern, description in _KINDS:
        if pattern.match(head):
            return description
    return f"not a known kind of image (it begins with the bytes {head[:8].hex(' ')})"
