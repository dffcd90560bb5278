"""The texts, scored pairs and labelled texts that models are compared on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from mlx_hf_bridge.errors import InputError


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of texts with a score of how alike people find them (STS-B's form)."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class LabeledTexts:
    """Texts with the right label of each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]


@cache
def bundled_texts() -> tuple[str, ...]:
    """Texts that come with the package, none of them among those for calibration."""
    content = resources.files("mlx_hf_bridge.verification").joinpath("texts.txt").read_text(encoding="utf-8")
    return tuple(line for line in content.splitlines() if line)


def check_texts(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The user's texts, else the bundled ones; InputError for what is not a list of texts."""
    if texts is None:
        return bundled_texts()
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"texts is {texts!r:.80}, expected a list of at least one text.")
    return tuple(texts)


def read_pairs(path: str | Path) -> ScoredPairs:
    """A CSV or TSV of text, text, score a line; a first line whose score is no number is a heading."""
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
    """A CSV or TSV of text, label a line; a first line of "text", "label" is a heading."""
    rows = _rows(path, 2, "a text and its label")
    if [cell.strip().lower() for cell in rows[0]] in (["text", "label"], ["sentence", "label"]):
        rows = rows[1:]
    if not rows:
        raise InputError(f"{path} has a heading and no labelled text below it.")
    texts, labels = zip(*rows, strict=True)
    return LabeledTexts(texts, labels)


def _rows(path: str | Path, columns: int, what: str) -> list[list[str]]:
    found = Path(path).expanduser()
    try:
        with found.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter="\t" if found.suffix == ".tsv" else ",") if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as UTF-8 CSV ({error}). Give another file.") from error
    if not rows or (wrong := [row for row in rows if len(row) != columns]):
        shown = f"the line {wrong[0]!r:.80}" if rows else "no line"
        raise InputError(f"{path} has {shown}, expected {columns} columns: {what}.")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
