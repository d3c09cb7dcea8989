"""Types of option values."""

from __future__ import annotations

import os
import re
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_origin

import click

from ..pipeline.files import can_write_into
from ..pipeline.sizes import parse_size


class NumberChoice(click.ParamType):
    """One of a few whole numbers."""

    name = "number"

    def __init__(self, choices: tuple[int, ...]) -> None:
        self.choices = choices

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(map(str, self.choices))}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if str(value) not in map(str, self.choices):
            self.fail(f"{value!r} is not one of {', '.join(map(str, self.choices))}.", param, ctx)
        return int(value)


class Multiple(click.IntRange):
    """A positive multiple of a number."""

    def __init__(self, of: int) -> None:
        super().__init__(of)
        self.of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if number % self.of:
            self.fail(f"{number} is not a multiple of {self.of}.", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """A number in a range; neither infinite nor "nan", which every range of click's lets through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Size(click.ParamType):
    """An amount of memory, in bytes; or "auto", where that is a choice."""

    name = "size"

    def __init__(self, *, auto: bool = True) -> None:
        self.auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or (self.auto and value == "auto"):
            return value
        if (size := parse_size(value)) is None:
            examples = "40GB, 500MB or auto" if self.auto else "40GB or 500MB"
            self.fail(f"{value!r} is not a size, such as {examples}.", param, ctx)
        return size


class Commas(click.ParamType):
    """Comma-separated values, as a tuple."""

    name = "a,b,..."

    def __init__(self, item: Any) -> None:
        self.item = str if get_origin(item) is Literal else item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.item(part) for part in value.split(",") if part)
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.item.__name__}, such as 1,2,3.", param, ctx)


class LocalPath(click.Path):
    """A path that is no URL: `s3://bucket/run` would become a folder `s3:` here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if re.match(r"[a-z][a-z0-9+.-]*://", os.fsdecode(value)):
            self.fail(f"{value!r} is a URL, which only DATA may be. Give a local path.", param, ctx)
        return super().convert(value, param, ctx)


class Output(LocalPath):
    """A file to write. It is refused before the work, not after it, if its folder is not writable."""

    def __init__(self, *endings: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if self.endings and path.suffix.lower() not in self.endings:
            self.fail(f"{value!r} must end in one of {', '.join(self.endings)}.", param, ctx)
        if not can_write_into(path.parent):
            self.fail(f"the folder of {value!r} is not writable.", param, ctx)
        return path
