"""Which DATA is a URL, and the shards that a pattern such as `https://host/x-train-{00..63}.tar` stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DatasetError

URL = re.compile(r"(s3|gs|https?):/+(?=[^/])")
OTHER = re.compile(r"[a-z][a-z0-9+.-]+:/")
MAX_SHARDS = 100_000


def url_of(data: Path | str) -> str | None:
    """Return the URL that `data` is, or None for a path.

    A `Path` collapses the double slash of `s3://bucket`; this puts it back, so URLs travel as paths do.
    """
    text = str(data)
    if found := URL.match(text):
        return f"{found[1]}://{text[found.end() :].rstrip('/')}"
    if OTHER.match(text) and not Path(text).exists():
        text = text.replace(":/", "://", 1)
        raise DatasetError(f"{text} is not a URL that can be read: they begin with s3://, gs://, https:// or http://.")
    return None


def is_pattern(url: str) -> bool:
    """Return whether a URL names shards, one or many, and not the folder that holds them."""
    return "{" in url or url.endswith(".tar")


def expanded(pattern: str) -> list[str]:
    """Return what bash would make of braces: `{00..63}` counts, `{train,val}` lists, and they can be nested."""
    shards: list[str] = []
    for shard in _expand(pattern):
        shards.append(shard)
        if len(shards) > MAX_SHARDS:
            raise DatasetError(f"{pattern} stands for more than {MAX_SHARDS:,} shards.")
    return shards


def _expand(pattern: str) -> Iterator[str]:
    before, brace, rest = pattern.partition("{")
    if not brace:
        yield pattern
        return
    choices, rest = _split(pattern, rest)
    tails = list(_expand(rest))
    for choice in choices:
        for middle in _count(pattern, choice) if len(choices) == 1 else _expand(choice):
            yield from (before + middle + tail for tail in tails)


def _split(pattern: str, text: str) -> tuple[list[str], str]:
    """Split `a,{b,c}}d`, the text after a brace, into its choices `a` and `{b,c}` and what follows them."""
    choices, depth = [""], 0
    for i, character in enumerate(text):
        if character == "}" and not depth:
            return choices, text[i + 1 :]
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and not depth:
            choices.append("")
        else:
            choices[-1] += character
    raise DatasetError(f"{pattern} has a brace that is not closed.")


def _count(pattern: str, text: str) -> Iterator[str]:
    """Count from `000` to `146`, up or down, with as many digits."""
    if not (found := re.fullmatch(r"(\d+)\.\.(\d+)", text)):
        raise DatasetError(f"{pattern}: {{{text}}} is neither a range such as {{000..146}} nor a list such as {{a,b}}.")
    width = max(map(len, found.groups())) if any(re.match("0.", end) for end in found.groups()) else 0
    first, last = map(int, found.groups())
    step = 1 if first <= last else -1
    yield from (f"{i:0{width}}" for i in range(first, last + step, step))
