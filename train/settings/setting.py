"""One setting of a run: how it is declared, checked and shown.

`config.py` is made of settings; `contradictions.py` checks them together.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import Field, field
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from ...pipeline.errors import UserError


def setting(default: Any, help: str, source: str, *, low: float = -math.inf, high: float = math.inf) -> Any:
    """Declare a field of `Config`: its default, help line, source and range, both ends included."""
    return field(default=default, metadata={"help": help, "source": source, "low": low, "high": high})


def as_text(value: Any, comma: str = ", ") -> str:
    """Return a setting's value for people to read."""
    if isinstance(value, tuple | list):
        return comma.join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def checked(spec: Field, value: Any) -> Any:
    """Return `value` in the field's type (lists become tuples, whole numbers floats), or raise UserError."""
    low, high = spec.metadata["low"], spec.metadata["high"]
    if get_origin(spec.type) is UnionType:  # of a type and None
        return None if value is None else _checked_item(spec.name, get_args(spec.type)[0], value, low, high)
    if get_origin(spec.type) is not tuple:
        return _checked_item(spec.name, spec.type, value, low, high)
    length = len(spec.default) if isinstance(spec.default, tuple) else 0
    if not isinstance(value, list | tuple) or (length and len(value) != length):
        raise UserError(f"{spec.name} = {value!r}: give {length or 'a list of'} values")
    return tuple(_checked_item(spec.name, get_args(spec.type)[0], item, low, high) for item in value)


def _checked_item(name: str, kind: Any, value: Any, low: float, high: float) -> Any:
    if get_origin(kind) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            raise UserError(f"{name} = {value!r}: choose one of {', '.join(map(str, get_args(kind)))}")
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{name} = {value!r}: expected {kind.__name__}, found {type(value).__name__}")
    if kind in (int, float) and not (low <= value <= high and math.isfinite(value)):
        raise UserError(f"{name} = {value!r}: choose a number from {low:g} to {high:g}")
    return value


def differing(theirs: Any, ours: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the named settings that differ, as "--option theirs, not ours"."""
    found = ((name, getattr(theirs, name), getattr(ours, name)) for name in names)
    return tuple(_unlike(name.replace("_", "-"), a, b) for name, a, b in found if a != b)


def _unlike(option: str, theirs: Any, ours: Any) -> str:
    if isinstance(theirs, bool):
        return f"--{option}, not --no-{option}" if theirs else f"--no-{option}, not --{option}"
    return f"--{option} {as_text(theirs, ',')}, not {as_text(ours, ',')}"


def check_names(names: Iterable[str], known: Sequence[str]) -> None:
    """Raise UserError for a name that no setting has."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1, 0)
            raise UserError(f"unknown setting {name!r}: the nearest known one is {near[0]!r}")


def parsed(text: str) -> dict[str, Any]:
    """Return the settings in a text of JSON, unchecked; UserError if it is no JSON object."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"configuration is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"configuration: expected a JSON object, found {type(values).__name__}")
    return values
