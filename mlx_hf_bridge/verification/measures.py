"""What vectors, scores and labels of a model are worth beside its reference's. N texts, V width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def cosines(one: Floats, other: Floats) -> Floats:
    """(N, V) twice -> (N,); nan where a vector is not finite or has no length."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return found


def compare_embeddings(one: Floats, other: Floats) -> dict[str, float]:
    """How far (N, V) is from the reference (N, V): cosines, and errors of the vectors brought to unit length."""
    found = cosines(one, other)
    with np.errstate(invalid="ignore", divide="ignore"):
        units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, other)]
    difference = units[0] - units[1]
    return {
        "cosine_mean": float(found.mean()),
        "cosine_p1": float(np.percentile(found, 1)),
        "cosine_worst": float(found.min()),
        "mean_squared_error": float((difference**2).mean()),
        "largest_difference": float(np.abs(difference).max()),
    }


def ranks(values: Floats) -> Floats:
    """Places in ascending order, ties sharing their mean place."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Floats = (ends - (counts - 1) / 2)[inverse]
    return found


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation, in points of 100; nan where a side is constant or not finite."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (one, other))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 100 * float(a @ b) / lengths if lengths else float("nan")


def accuracy(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Share of equal labels, in points of 100."""
    return 100 * sum(one == other for one, other in zip(predicted, labels, strict=True)) / len(labels)


def macro_f1(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """The mean over the labels of the harmonic mean of precision and recall, in points of 100."""
    found = []
    for label in sorted(set(labels)):
        hits = sum(one == other == label for one, other in zip(predicted, labels, strict=True))
        named = sum(one == label for one in predicted) + sum(other == label for other in labels)
        found.append(2 * hits / named if named else 0.0)
    return 100 * sum(found) / len(found)
