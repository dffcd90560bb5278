"""The texts that `encode` and `classify` work on: arguments, a file, or stdin."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from mlx_hf_bridge.errors import InputError


def read_texts(args: argparse.Namespace) -> list[str]:
    """Texts as given; of a file or stdin every line that is not blank. InputError where there is none."""
    return list(stream_texts(args))


def stream_texts(args: argparse.Namespace) -> Iterator[str]:
    """read_texts, a line at a time."""
    if args.text:
        yield from args.text
        return
    is_piped = args.file in (None, "-")
    origin = "stdin" if is_piped else str(args.file)
    found = False
    try:
        with nullcontext(sys.stdin) if is_piped else Path(args.file).expanduser().open(encoding="utf-8-sig") as lines:
            for line in lines:
                if text := line.strip():
                    found = True
                    yield text
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{origin} cannot be read as UTF-8 text ({error}). Give another file.") from error
    if not found:
        raise InputError(f"{origin} has no text, expected one a line. Give texts as arguments, with --file or piped.")


def read_lines(path: str) -> list[str]:
    """Every line of a file that is not blank; InputError for one that is not UTF-8 text, or has none."""
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error}). Give another file.") from error
    # Not splitlines(), which also splits at form feeds and at Unicode's line separators.
    texts = [line.strip() for line in content.split("\n") if line.strip()]
    if not texts:
        raise InputError(f"{path} has no text, expected one a line. Give another file.")
    return texts


def shorten(text: str, length: int = 60) -> str:
    """One line of at most `length` characters, for a table."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."
