"""Read the input texts of `encode` and `classify`: from arguments, a file, or stdin."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.file_errors import unreadable_text


def read_texts(args: argparse.Namespace) -> list[str]:
    """Return the texts of the arguments, or every line of a file or stdin; InputError if all of them are blank."""
    return list(stream_texts(args))


def stream_texts(args: argparse.Namespace) -> Iterator[str]:
    """Yield what read_texts returns, one text at a time.

    Blank lines are texts too, so that row i of the result is line i.
    """
    if args.text:
        yield from args.text
        return
    is_piped = args.file in (None, "-")
    origin = "stdin" if is_piped else str(args.file)
    # Blank lines so far; None after the first text.
    blank: list[str] | None = []
    try:
        with nullcontext(_stdin()) if is_piped else _open(args.file) as lines:
            for line in lines:
                text = line.removesuffix("\n").removesuffix("\r")
                # Held back until the first text, since a file of blank lines has none.
                if blank is not None:
                    if not text.strip():
                        blank.append(text)
                        continue
                    yield from blank
                    blank = None
                yield text
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_text(origin, error) from error
    if blank is not None:
        raise InputError(f"{origin} has no text, expected one per line. Give texts as arguments, with --file or piped.")


def _open(path: str) -> TextIO:
    # Only "\n" ends a line: a lone carriage return would otherwise too.
    return Path(path).expanduser().open(encoding="utf-8-sig", newline="\n")


def _stdin() -> TextIO:
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline="\n")
    return sys.stdin


def read_lines(path: str) -> list[str]:
    """Return the nonblank lines of a file; InputError if it is not UTF-8 text or has none."""
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_text(path, error) from error
    # splitlines() would also split at form feeds and at Unicode's line separators.
    texts = [line.strip() for line in content.split("\n") if line.strip()]
    if not texts:
        raise InputError(f"{path} has no text, expected one per line. Give another file.")
    return texts


def shorten(text: str, length: int = 60) -> str:
    """Return a text as one line of at most `length` characters, for a table."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."
