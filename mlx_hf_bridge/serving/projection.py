"""Embeddings in two dimensions, for a map of texts: by UMAP if it is installed, else by principal components."""

from importlib.util import find_spec
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import BackendError

UMAP, PCA = "umap", "pca"
# UMAP looks at this many neighbors of each text; fewer texts than a few times that say nothing about neighborhoods.
_NEIGHBORS, _FEWEST = 15, 50


def choose_method(method: str | None, count: int) -> str:
    """Return how embeddings are projected.

    Args:
        method: "umap" or "pca"; None for UMAP where it is installed and there are enough texts.
        count: How many texts there are.

    Returns:
        "umap" or "pca".

    Raises:
        BackendError: If UMAP is asked for and not installed.
    """
    installed = find_spec("umap") is not None
    if method == UMAP and not installed:
        raise BackendError("UMAP needs umap-learn, which is missing. pip install 'mlx-hf-bridge[map]', or use pca.")
    return method or (UMAP if installed and count >= _FEWEST else PCA)


def project(rows: np.ndarray, method: str) -> np.ndarray:
    """Project embeddings.

    Args:
        rows: float32 (N, D).
        method: "umap" or "pca".

    Returns:
        float32 (N, 2); equal for equal embeddings in the same order.
    """
    return _by_umap(rows) if method == UMAP and len(rows) >= 4 else _by_pca(rows)


def _by_pca(rows: np.ndarray) -> np.ndarray:
    """Return the first two principal components, by the eigenvectors of the smaller of the two product matrices."""
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    left, singular, _ = _thin_svd(centered)
    found = np.zeros((len(rows), 2))
    found[:, : left.shape[1]] = left * singular
    # Of the two directions of each axis, the one in which the largest value is positive, so that maps stay as they are.
    signs = np.sign(found[np.abs(found).argmax(axis=0), range(2)])
    return np.asarray(found * np.where(signs == 0, 1, signs), np.float32)


def _thin_svd(centered: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the two largest singular values with their vectors."""
    count, width = centered.shape
    if count <= width:
        left, singular, right = np.linalg.svd(centered, full_matrices=False)
        return left[:, :2], singular[:2], right[:2]
    # The width is a few hundred, and there may be thousands of rows.
    values, vectors = np.linalg.eigh(centered.T @ centered)
    best = np.argsort(-values)[:2]
    singular = np.sqrt(np.maximum(values[best], 0))
    projected = centered @ vectors[:, best]
    return projected / np.where(singular > 0, singular, 1), singular, vectors[:, best].T


def _by_umap(rows: np.ndarray) -> np.ndarray:
    import umap

    neighbors = min(_NEIGHBORS, len(rows) - 1)
    # One thread and a seed, so that a map is the same each time.
    mapper = umap.UMAP(n_components=2, n_neighbors=neighbors, metric="cosine", random_state=0, n_jobs=1, init="pca")
    return np.asarray(mapper.fit_transform(rows), np.float32)
