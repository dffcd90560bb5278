"""Texts for the benchmarks: titles and articles of a CSV file (class, title, article), or random common words."""

import csv
from pathlib import Path

import numpy as np

from benchmarks.agreement import WORDS

# Mean and standard deviation of the words in a title and in an article of AG News.
_TITLE, _ARTICLE = (7, 2), (31, 9)


def mixed(count: int, file: str | None = None, seed: int = 0) -> list[str]:
    """Return titles and articles, alternating."""
    if file is None:
        rng = np.random.default_rng(seed)
        return [_random_text(rng, *(_ARTICLE if number % 2 else _TITLE)) for number in range(count)]
    with Path(file).open(encoding="utf-8", newline="") as rows:
        found = [cell for row in csv.reader(rows) for cell in row[1:] if cell]
    if len(found) < count:
        raise SystemExit(f"{file} has {len(found)} texts, and {count} are needed. Pass a smaller --texts.")
    return found[:count]


def short(count: int, seed: int = 1) -> list[str]:
    """Return queries of three to ten words."""
    rng = np.random.default_rng(seed)
    return [_random_text(rng, 6, 2) for _ in range(count)]


def long(count: int, seed: int = 2) -> list[str]:
    """Return texts of about 300 words, more than MiniLM reads."""
    rng = np.random.default_rng(seed)
    return [_random_text(rng, 300, 30) for _ in range(count)]


def uniform(count: int, words: int, seed: int = 3) -> list[str]:
    """Return texts of the same number of words, each word one token."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(_ONE_TOKEN, words)) for _ in range(count)]


_ONE_TOKEN = [word for word in WORDS if word not in ("colour", "harbour")]


def _random_text(rng: np.random.Generator, mean: int, spread: int) -> str:
    words = max(1, round(float(rng.normal(mean, spread))))
    return " ".join(rng.choice(WORDS, words))
