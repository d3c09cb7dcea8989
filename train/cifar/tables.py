"""Tables of results as Markdown, for the files beside the figure; the console prints the same tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def markdown(heading: str, text: str, tables: Sequence[Table]) -> str:
    """Return a page: a heading, a paragraph, and each table under its title."""
    parts = [f"# {heading}", text]
    for table in tables:
        lines = [table.header, ["---"] * len(table.header), *table.rows]
        parts += [f"## {table.title}", "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)]
    return "\n\n".join(parts) + "\n"
