"""Files that are none of our images are called what they are."""

import gzip
import io
import re
import tarfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet.pipeline.decode.formats import what_it_is


def saved(form: str, **options: Any) -> bytes:
    Image.new("RGB", (20, 10)).save(file := io.BytesIO(), form, **options)
    return file.getvalue()


def tar() -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("n01440764_18.JPEG"))
    return file.getvalue()


FILES = {
    "the file is empty": b"",
    "filled with zeros": bytes(5000),
    "a GIF image, which is not supported; convert it to JPEG, PNG, BMP or WebP": saved("GIF"),
    "a TIFF image, which is not supported": saved("TIFF"),
    "a JPEG 2000 image, which is not supported": saved("JPEG2000"),
    "a PNM image": saved("PPM"),
    "an icon": saved("ICO"),
    "an AVIF image": b"\0\0\0\x20ftypavif\0\0\0\0",
    "a HEIC image": b"\0\0\0\x18ftypheic\0\0\0\0",
    "a JPEG XL image": b"\xff\x0a\xfa\x7f",
    "a Photoshop image": b"8BPS\0\1",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg">',
    "an HTML page, not an image": b"\n<!DOCTYPE html>\n<html><body>404 Not Found",
    "an XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>',
    "a JSON document": b'{"error": "rate limit"}',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a gzip archive": gzip.compress(b"something"),
    "a zip archive": b"PK\3\4\x14\0\0\0",
    "a tar archive": tar(),
    "a PDF document": b"%PDF-1.7\n",
    "a video": b"\0\0\0\x20ftypisom\0\0\2\0",
    "a numpy array": b"\x93NUMPY\1\0v\0",
    "text, not an image": b"Sorry, this photo is no longer available.\n",
    "not a known kind of image .it begins with the bytes 7f 45 4c 46 02 01 01 00": b"\x7fELF\2\1\1\0\0\0",
}


@pytest.mark.parametrize("says", FILES)
def test_a_file_is_called_what_it_is(says: str) -> None:
    said = what_it_is(np.frombuffer(FILES[says], np.uint8))
    assert re.match(says, said), said
    assert "\n" not in said
