"""What the command line writes: tables and JSON to stdout, errors to stderr."""

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Where stdout is a file or a pipe there is no width to keep to; rich would assume 80 columns and cut the cells.
_WIDTH_OF_PIPES = 240


def console(error: bool = False) -> Console:
    """A console on stdout (stderr with `error`), as wide as the terminal, or wide enough for a pipe."""
    stream = sys.stderr if error else sys.stdout
    keep = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=error, width=None if keep else _WIDTH_OF_PIPES, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()) -> Table:
    """A table of cells as they are (texts may hold rich's [markup]); `numeric` columns are set to the right."""
    made = Table(
        title=Text(title) if title else None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False
    )
    for column in columns:
        right = column in numeric
        made.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, overflow="fold") if isinstance(cell, str) else cell for cell in row))
    return made


def plain_table(title: str, rows: Iterable[Sequence[Any]]) -> Table:
    """A title and lines under it, without heads or rules."""
    made = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 0, 0, 2)
    )
    for row in rows:
        made.add_row(*(Text(cell, overflow="fold") if isinstance(cell, str) else cell for cell in row))
    return made


def show(*parts: Any) -> None:
    """Tables and lines to stdout."""
    console().print(*parts, sep="\n", soft_wrap=all(isinstance(part, str) for part in parts))


def show_json(document: Any) -> None:
    """One JSON document to stdout."""
    sys.stdout.write(json.dumps(document) + "\n")


def print_error(error: BaseException, with_traceback: bool, what: str = "") -> None:
    """One line, "error: ...", to stderr; the traceback before it where it is asked for."""
    if with_traceback:
        sys.stderr.write("".join(traceback.format_exception(error)))
    words = " ".join(f"{what}{error}".split()) or type(error).__name__
    sys.stderr.write(f"error: {words}\n")
