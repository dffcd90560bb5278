"""The text, Markdown and PDF files of a folder, split into passages that know their lines."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_hf_bridge.errors import BackendError, InputError
from mlx_hf_bridge.runtime.file_errors import unreadable_text

SUFFIXES = (".txt", ".md", ".markdown", ".pdf")
_PDF = ".pdf"
# About 150 tokens of English prose: models that take 256 tokens then read code and tables whole, too.
_CHARACTERS = 500
# A character of Chinese, Japanese or Korean is about a token; four others are one.
_WIDE, _WIDTH = "\u2e80", 4
_HEADING = re.compile(r"#{1,6} ")
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002])\s+")


@dataclass(frozen=True)
class Passage:
    """A part of a file.

    Attributes:
        text: The text.
        first_line: Its first line, from 1; of a PDF the page.
        last_line: Its last line; of a PDF the page.
    """

    text: str
    first_line: int
    last_line: int


def find_files(folder: Path) -> list[Path]:
    """Return the files that can be searched, in the order of their names.

    Args:
        folder: The folder. Folders in it count, except those whose names begin with a dot.

    Returns:
        Paths of .txt, .md, .markdown and .pdf files.
    """
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def read_passages(path: Path) -> list[Passage]:
    """Read a file and split it into passages.

    Args:
        path: A file that `find_files` found.

    Returns:
        The passages in their order; none for a file without text.

    Raises:
        InputError: If the file cannot be read, or is not UTF-8 text.
        BackendError: If it is a PDF, and pypdf is not installed.
    """
    if path.suffix.lower() == _PDF:
        return [passage for page, text in _pages(path) for passage in _at_page(_split(text.split("\n")), page)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_text(str(path), error) from error
    return _split(text.split("\n"))


def _pages(path: Path) -> Iterator[tuple[int, str]]:
    try:
        import pypdf
    except ImportError as error:
        raise BackendError("PDF files need the package pypdf: pip install 'mlx-hf-bridge[pdf]'.") from error
    try:
        for number, page in enumerate(pypdf.PdfReader(path).pages, 1):
            yield number, page.extract_text()
    # pypdf raises errors of many types for damaged files.
    except Exception as error:
        raise InputError(f"{path} cannot be read as PDF ({error}). Give another file, or its text.") from error


def _at_page(passages: list[Passage], page: int) -> list[Passage]:
    return [Passage(passage.text, page, page) for passage in passages]


def _split(lines: list[str]) -> list[Passage]:
    """Join paragraphs up to the length of a passage; a heading begins a new one, and a long paragraph is divided."""
    passages: list[Passage] = []
    block: list[tuple[int, str]] = []

    def close() -> None:
        if block:
            passages.append(Passage("\n".join(text for _, text in block).strip(), block[0][0], block[-1][0]))
            block.clear()

    for number, line in enumerate(lines, 1):
        if _HEADING.match(line) or _length(block) + _width(line) > _CHARACTERS:
            close()
        if line.strip() or block:
            for part in _parts(line):
                if _length(block) + _width(part) > _CHARACTERS:
                    close()
                block.append((number, part))
        # A blank line ends a passage that is long enough to stand for itself.
        if not line.strip() and _length(block) > _CHARACTERS // 2:
            close()
    close()
    return [passage for passage in passages if passage.text]


def _parts(line: str) -> list[str]:
    """Return a line, in parts of whole sentences or words if it is longer than a passage."""
    if _width(line) <= _CHARACTERS:
        return [line]
    parts = [""]
    for piece in _SENTENCE_END.split(line):
        for word in [piece] if _width(piece) <= _CHARACTERS else _words(piece):
            if parts[-1] and _width(parts[-1]) + _width(word) > _CHARACTERS:
                parts.append("")
            parts[-1] = f"{parts[-1]} {word}".lstrip()
    return parts


def _words(text: str) -> list[str]:
    """Return the words of a text; those that are longer than a passage in pieces."""
    step = _CHARACTERS // _WIDTH
    return [word[at : at + step] for word in text.split() for at in range(0, len(word), step)]


def _length(block: list[tuple[int, str]]) -> int:
    return sum(_width(text) for _, text in block)


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(_WIDTH if letter >= _WIDE else 1 for letter in text)
