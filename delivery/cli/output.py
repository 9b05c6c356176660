"""Output of the commands: tables for people within 80 columns, JSON for programs.

Owns: the shape of output. Never does: fetch anything.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from delivery.telemetry import printable, printable_json

WIDTH = 80


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document; ``indent=None`` prints it in one line."""
    click.echo(printable_json(json.dumps(value, ensure_ascii=False, indent=indent, default=str)))


def say(text: str, *, err: bool = False) -> None:
    """Print plain text that may come from a user or another server: what acts on a terminal is
    shown as an escape, line ends stay."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def say_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """Print a table in 80 columns, or all that a wider terminal has; its first column never wraps,
    so that it can be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    Console(width=_width()).print(table)


def say_list(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, first: int) -> None:
    """Print a table where it fits without wrapping, else each row in lines: its first columns,
    then the others below them, indented.

    Args:
        first: number of the columns that stand in a row's first line.
    """
    from rich.cells import cell_len

    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    if _joined(widths) <= _width():
        say_table(columns, cells)
        return
    for row in cells:
        click.echo(_line(row[:first], widths[:first]))
        click.echo("  " + _line(row[first:], widths[first:]))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells below those of other rows, if all of them have room for it."""
    from rich.cells import set_cell_size

    if _joined(widths) <= WIDTH - 2:
        cells = [set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(cells).rstrip()


def _joined(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _width() -> int:
    if not sys.stdout.isatty():
        return WIDTH
    return max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def say_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Print names and values, one per line; long values wrap in their column."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, Text(printable(str(value))))
    Console(width=WIDTH).print(table)


def clock(instant: str | None) -> str:
    """``2026-11-24T05:45:49.123456Z`` as ``11-24 05:45:49``; empty for none."""
    return "" if not instant else f"{instant[5:10]} {instant[11:19]}"
