"""The texts, scored pairs and labeled texts that models are compared on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.file_errors import unreadable_text


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of texts with a human similarity score each, as in STS-B."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class LabeledTexts:
    """Texts with their correct labels."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


@cache
def bundled_texts() -> tuple[str, ...]:
    """Return the texts that come with the package; calibration uses others."""
    content = resources.files("mlx_hf_bridge.verification").joinpath("texts.txt").read_text(encoding="utf-8")
    return tuple(line for line in content.splitlines() if line)


def check_texts(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the user's texts, or the bundled ones for None; InputError if they are not a list of strings."""
    if texts is None:
        return bundled_texts()
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"texts is {texts!r:.80}, expected a list of at least one string.")
    return tuple(texts)


def read_pairs(path: str | Path) -> ScoredPairs:
    """Read a CSV or TSV with two texts and a score in each line; a first line without a number is a header.

    Args:
        path: The file; tab-separated if its name ends in .tsv.

    Returns:
        The pairs with their scores.

    Raises:
        InputError: If the file cannot be read, a line is malformed, or there are fewer than two pairs.
    """
    rows = _rows(path, 3, "two texts and a score")
    if not _is_number(rows[0][2]):
        rows = rows[1:]
    if bad := [row for row in rows if not _is_number(row[2])]:
        raise InputError(f"{path} has the score {bad[0][2]!r}, expected a number. Correct the line.")
    if len(rows) < 2:
        raise InputError(f"{path} has {len(rows)} scored pairs, expected two or more.")
    first, second, scores = zip(*rows, strict=True)
    return ScoredPairs(first, second, tuple(float(score) for score in scores))


def read_labeled(path: str | Path) -> LabeledTexts:
    """Read a CSV or TSV with a text and its label in each line; a first line of "text", "label" is a header.

    Args:
        path: The file; tab-separated if its name ends in .tsv.

    Returns:
        The texts with their labels.

    Raises:
        InputError: If the file cannot be read, a line is malformed, or there is none.
    """
    rows = _rows(path, 2, "a text and its label")
    if [cell.strip().lower() for cell in rows[0]] in (["text", "label"], ["sentence", "label"]):
        rows = rows[1:]
    if not rows:
        raise InputError(f"{path} has a header and no labeled text below it. Add lines of a text and its label.")
    texts, labels = zip(*rows, strict=True)
    return LabeledTexts(texts, labels)


def _rows(path: str | Path, columns: int, description: str) -> list[list[str]]:
    found = Path(path).expanduser()
    try:
        # utf-8-sig skips the mark that spreadsheets write at the start; csv wants newline="" for line breaks in cells.
        with found.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t" if found.suffix == ".tsv" else ",") if row]
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable_text(str(path), error) from error
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV ({error}). Give another file.") from error
    if not rows or (wrong := [row for row in rows if len(row) != columns]):
        shown = f"the line {wrong[0]!r:.80}" if rows else "no line"
        raise InputError(f"{path} has {shown}, expected {columns} columns: {description}.")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
