"""A table that prints itself as Markdown, aligned so that a terminal shows it well too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """
    :param rows: a cell is shown as its ``str``.
    :param notes: a line each, under the table.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [[str(cell) for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        head, *body = (
            "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        parts = [f"**{self.title}**", "\n".join([head, rule, *body])]
        return "\n\n".join(parts + (["\n".join(f"- {note}" for note in self.notes)] if self.notes else []))
