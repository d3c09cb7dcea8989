"""A person's list of some classes, in any of the forms in which people publish them.

`choose.py` compares it with the classes that are there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from ..errors import UserError
from .classes import text_of

BETWEEN_WORDS = re.compile(r"[\s,;:'\"\[\](){}]+")
AROUND = re.compile(r"^[\s'\"]+|[\s,;'\"]+$")  # a name that was copied from a program


def read_class_list(file: Path) -> tuple[str, ...]:
    """Return the lines of a list of classes: one name a line, whatever follows it, or the names as a JSON list.

    Of a JSON object the keys are taken. Empty lines do not count. Raise UserError if there are no names.
    """
    text = text_of(file.read_bytes()).strip()
    try:
        found = [str(name) for name in json.loads(text)] if text[:1] in ("[", "{") else text.splitlines()
    except ValueError:  # a list of Python's, for one
        found = text.splitlines()
    names = tuple(line.strip() for line in found if line.strip())
    if not names:
        raise UserError(f"{file} names no classes. Write the name of one on each line, as its folder is called.")
    return names


def names_in(line: str, known: Collection[str]) -> list[str]:
    """Return the classes that a line names: it is one name, only names, or begins with one; none if it names none."""
    whole, begin = AROUND.sub("", line), AROUND.sub("", re.split(r"[\t,;:]", line, maxsplit=1)[0])
    words = [word for word in BETWEEN_WORDS.split(line) if word]
    for name in (line, whole):
        if name in known:
            return [name]
    if words and all(word in known for word in words):
        return words
    return next(([name] for name in (begin, *words[:1]) if name in known), [])
