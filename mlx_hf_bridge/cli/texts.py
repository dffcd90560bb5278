"""Read the input texts of commands, from arguments, a file or stdin; check where output goes; and shape texts."""

import argparse
import sys
import textwrap
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


def read_whole(args: argparse.Namespace) -> str:
    """Return the words of the arguments, or all of a file or stdin, as one text; InputError if it is blank."""
    text = " ".join(args.text) if args.text else "\n".join(stream_texts(args))
    if not text.strip():
        raise InputError("the text is blank. Give one as an argument, with --file or piped.")
    return text


def count_lines(path: str) -> int | None:
    """Return the number of lines of a file, as `stream_texts` reads it; None for stdin and what is no regular file."""
    file = Path(path).expanduser()
    if path == "-" or not file.is_file():
        return None
    with file.open("rb") as opened:
        ends, last = 0, b"\n"
        while block := opened.read(2**20):
            ends, last = ends + block.count(b"\n"), block[-1:]
    return ends + (last != b"\n")


class Lines:
    """Texts that are read once, with their number if it is known, which a progress bar shows.

    Args:
        texts: The texts.
        count: How many they are, or None.
    """

    def __init__(self, texts: Iterator[str], count: int | None) -> None:
        self.texts = texts
        self.count = count

    def __iter__(self) -> Iterator[str]:
        return self.texts

    def __length_hint__(self) -> int:
        return self.count or 0


def check_output(option: str, path: str) -> None:
    """Raise InputError if the folder of an output file does not exist.

    Args:
        option: The option that names the file, for the message.
        path: The file.

    Raises:
        InputError: If its folder does not exist.
    """
    if not Path(path).expanduser().absolute().parent.is_dir():
        raise InputError(f"{option} {path} is in a folder that does not exist. Create it, or give another path.")


def split_labels(given: str) -> list[str]:
    """Return labels that were given as "a,b,c"; InputError if there are none."""
    labels = [label.strip() for label in given.split(",") if label.strip()]
    if not labels:
        raise InputError(f"--labels is {given!r}, expected labels separated by commas: sport,politics.")
    return labels


def paragraph(start: str, text: str, width: int = 80) -> str:
    """Return a text wrapped to lines, all behind the width of what the first begins with.

    Args:
        start: The beginning of the first line.
        text: The text.
        width: The width of the lines. Default: 80.

    Returns:
        The lines.
    """
    indent = " " * len(start)
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
    return start + "\n".join(lines).removeprefix(indent)


def shorten(text: str, length: int = 60) -> str:
    """Return a text as one line of at most `length` characters, for a table."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."
