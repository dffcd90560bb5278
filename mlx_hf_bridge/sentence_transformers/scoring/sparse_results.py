"""Sparse vectors on their way out of a batch, and what is asked of them afterwards: words, shares, common dimensions.

B texts, V vector width.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.sentence_transformers.scoring.coordinates import (
    Coordinates,
    SparseRow,
    as_dense,
    as_sparse,
    coordinates,
    from_rows,
    installed_torch,
)

# A text's dimensions that are not 0, their values, and V.
_Row = tuple[np.ndarray, np.ndarray, int]


def sparse_rows(result: tuple[mx.array]) -> list[_Row]:
    """(B, V) -> each text's row."""
    dense = np.array(result[0])
    return [((places := np.flatnonzero(row)), row[places], len(row)) for row in dense]


def as_vectors(rows: Sequence[_Row], single: bool, whole: bool, sparse: bool) -> Any:
    """Rows -> one vector, a list, or with `whole` a matrix; sparse or dense, in torch where it is installed."""
    torch = installed_torch()
    make = as_sparse if sparse else as_dense
    if single or not whole:
        listed = [make(_vector(columns, values, width), torch) for columns, values, width in rows]
        return listed[0] if single else listed
    if not rows:
        return make(_vector(np.zeros(0, np.int64), np.zeros(0, np.float32), 0), torch)
    return make(from_rows([(columns, values) for columns, values, _ in rows], rows[0][2]), torch)


def _vector(columns: np.ndarray, values: np.ndarray, width: int) -> Coordinates:
    return Coordinates(np.zeros_like(columns), columns, values, (1, width), single=True)


def sparsity(embeddings: Any) -> dict[str, float]:
    """The mean number of dimensions that are not 0, and the share that are 0."""
    found = coordinates(embeddings)
    if 0 in found.shape:
        return {"active_dims": 0.0, "sparsity_ratio": 1.0}
    active = len(found.values) / found.shape[0]
    return {"active_dims": active, "sparsity_ratio": 1.0 - active / found.shape[1]}


def intersection(first: Any, second: Any) -> Any:
    """One vector, and one or several -> their products where these are positive, sparse, in the kind of the vectors."""
    one, others = coordinates(first), coordinates(second)
    if not one.single or one.shape[1] != others.shape[1]:
        raise InputError(
            f"got {one.shape} and {others.shape}, expected one vector first, and vectors of its width second."
        )
    factors = np.zeros(one.shape[1], np.float32)
    factors[one.columns] = one.values
    products = factors[others.columns] * others.values
    kept = products > 0
    shared = Coordinates(others.rows[kept], others.columns[kept], products[kept], others.shape, others.single)
    return as_sparse(shared, installed_torch() if one.as_torch or others.as_torch else None)


def decoded(embeddings: Any, tokenizer: Tokenizer, top_k: int | None) -> Any:
    """A vector -> its words with their weights, largest first; several -> a list of such lists."""
    found = coordinates(embeddings)
    words = [_words(found.row(index), tokenizer, top_k) for index in range(found.shape[0])]
    return words[0] if found.single else words


def _words(row: SparseRow, tokenizer: Tokenizer, top_k: int | None) -> list[tuple[str, float]]:
    columns, values = row
    order = np.argsort(-values, kind="stable")[:top_k]
    tokens = tokenizer.convert_ids_to_tokens(columns[order].tolist())
    return list(zip(tokens, values[order].tolist(), strict=True))
