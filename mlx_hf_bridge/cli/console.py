"""Print tables, listings and JSON to stdout, and notes and errors to stderr; rich is imported for tables only."""

import argparse
import json
import logging
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mlx_hf_bridge.cli.texts import paragraph
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.runtime.progress_lines import set_style

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# A file or a pipe has no width; rich would assume 80 columns and truncate cells.
_WIDTH_OF_PIPES = 240
_NO_COLOR = "NO_COLOR"


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes messages of the log as "warning: ..." to what is sys.stderr at that time."""

    def __init__(self, debug: bool) -> None:
        super().__init__(sys.stderr)
        self.debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return "warning: message", with --debug after the time and the logger."""
        where = f"{record.relativeCreated / 1000:.3f} s {record.name} " if self.debug else ""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return _wrapped(f"{where}{level}{super().format(record)}")


def set_up(args: argparse.Namespace) -> None:
    """Apply the global options: log warnings to stderr, with --verbose this package's progress, with --debug all.

    Args:
        args: The parsed arguments.
    """
    if args.no_color:
        os.environ[_NO_COLOR] = "1"
    set_style("none" if args.quiet else "lines")
    root = logging.getLogger()
    if not root.handlers or isinstance(root.handlers[0], _StderrHandler):
        root.handlers = [_StderrHandler(args.debug)]
    root.setLevel(logging.ERROR if args.quiet else logging.WARNING)
    level = logging.DEBUG if args.debug else logging.INFO if args.verbose else logging.NOTSET
    logging.getLogger("mlx_hf_bridge").setLevel(level)


def console(error: bool = False) -> "Console":
    """Return a rich console on stdout (stderr with `error`), as wide as the terminal, or wide enough for a pipe."""
    from mlx_hf_bridge.cli.rich_console import BridgeConsole

    stream = sys.stderr if error else sys.stdout
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return BridgeConsole(stderr=error, width=None if has_width else _WIDTH_OF_PIPES, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()) -> "Table":
    """Return a table.

    Args:
        title: The line above it; "" for none.
        columns: The headers.
        rows: The cells of each row. Strings are shown literally, so they can contain rich's [markup].
        numeric: Names of columns to align right.

    Returns:
        A table for `show`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    result = Table(
        title=Text(title) if title else None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False
    )
    for column in columns:
        right = column in numeric
        result.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell, overflow="fold") if isinstance(cell, str) else cell for cell in row))
    return result


def plain_table(title: str, rows: Iterable[Sequence[Any]]) -> "Table":
    """Return a title with rows under it, without headers or lines."""
    from rich.table import Table
    from rich.text import Text

    result = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 0, 0, 2)
    )
    for row in rows:
        result.add_row(*(Text(cell, overflow="fold") if isinstance(cell, str) else cell for cell in row))
    return result


def listing(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """Return a title with one fact per line under it, for facts that must not be broken, such as paths.

    Args:
        title: The first line; "" for none.
        facts: A name and a value for each line; those with an empty value are left out.

    Returns:
        The lines, for `show`.
    """
    shown = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in shown), default=0)
    # A value with a slash may be a path, which must not be broken at its blanks.
    wide = {name for name, value in shown if "/" not in value}
    lines = [
        paragraph(f"  {name:<{width}}  ", value) if name in wide else f"  {name:<{width}}  {value}"
        for name, value in shown
    ]
    return "\n".join([title, *lines] if title else lines)


def show(*parts: Any) -> None:
    """Print tables and lines to stdout; a text is printed literally, so it can contain rich's [markup]."""
    if all(isinstance(part, str) for part in parts):
        sys.stdout.write("\n".join(parts) + "\n")
    else:
        console().print(*parts, sep="\n", markup=False)


def note(text: str) -> None:
    """Print a line about what was done to stderr, so that results can be piped; nothing with --quiet."""
    if logging.getLogger().getEffectiveLevel() <= logging.WARNING:
        sys.stderr.write(f"{text}\n")


def show_json(document: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(document) + "\n")


def print_error(error: BaseException, with_traceback: bool, prefix: str = "") -> None:
    """Print one line, "error: ...", to stderr, after the traceback if requested; `prefix` goes before the message."""
    if with_traceback:
        sys.stderr.write("".join(traceback.format_exception(error)))
    # Shortened, and without what a terminal would obey, as the errors of this package are.
    message = " ".join(str(BridgeError(f"{prefix}{error}")).split()) or type(error).__name__
    sys.stderr.write(f"{_wrapped(f'error: {message}')}\n")


def _wrapped(line: str) -> str:
    """Return a line as it is for a file or pipe, and broken between words for a terminal."""
    if "\n" in line or not sys.stderr.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
