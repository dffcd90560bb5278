"""Measures that compare embeddings, scores and labels with a reference's. N texts, V embedding width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def cosines(a: Floats, b: Floats) -> Floats:
    """Return the cosine similarity of each row of (N, V) with the same row of another (N, V).

    Returns:
        Similarities of shape (N,); nan where an embedding is not finite or has length 0.
    """
    # A zero vector gives NaN, which fails the check; numpy's warning would only repeat it.
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def compare_embeddings(converted: Floats, reference: Floats) -> dict[str, float]:
    """Return cosine similarities and errors of embeddings (N, V) against the reference's (N, V).

    Returns:
        The mean, 1st percentile and worst cosine; the mean squared error and largest difference of the embeddings
        scaled to length 1.
    """
    found = cosines(converted, reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        units = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (converted, reference)]
    difference = units[0] - units[1]
    return {
        "cosine_mean": float(found.mean()),
        "cosine_p1": float(np.percentile(found, 1)),
        "cosine_worst": float(found.min()),
        "mean_squared_error": float((difference**2).mean()),
        "largest_difference": float(np.abs(difference).max()),
    }


def ranks(values: Floats) -> Floats:
    """Return the ranks of values in ascending order, from 1; ties get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Floats = (ends - (counts - 1) / 2)[inverse]
    return found


def spearman(a: Floats, b: Floats) -> float:
    """Return 100 times Spearman's rank correlation; nan if one side is constant or not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    centered_a, centered_b = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    norms = float(np.linalg.norm(centered_a) * np.linalg.norm(centered_b))
    return 100 * float(centered_a @ centered_b) / norms if norms else float("nan")


def accuracy(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return the percentage of labels that were predicted correctly."""
    return 100 * sum(one == other for one, other in zip(predicted, labels, strict=True)) / len(labels)


def macro_f1(predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Return 100 times the macro F1 score: the mean over the labels of the harmonic mean of precision and recall."""
    scores = []
    for label in sorted(set(labels)):
        hits = sum(one == other == label for one, other in zip(predicted, labels, strict=True))
        total = sum(one == label for one in predicted) + sum(other == label for other in labels)
        scores.append(2 * hits / total if total else 0.0)
    return 100 * sum(scores) / len(scores)
