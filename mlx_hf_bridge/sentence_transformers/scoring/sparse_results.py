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
    CooMatrix,
    SparseRow,
    from_rows,
    to_coo,
    to_dense_array,
    to_sparse_array,
    torch_if_installed,
)

# A text's dimensions that are not 0, their values, and V.
_Row = tuple[np.ndarray, np.ndarray, int]


def split_sparse_rows(result: tuple[mx.array]) -> list[_Row]:
    """(B, V) -> each text's row."""
    dense = np.array(result[0])
    return [((places := np.flatnonzero(row)), row[places], len(row)) for row in dense]


def collect_sparse_vectors(rows: Sequence[_Row], is_vector: bool, whole: bool, sparse: bool) -> Any:
    """Rows -> one vector, a list, or with `whole` a matrix; sparse or dense, in torch where it is installed."""
    torch = torch_if_installed()
    make = to_sparse_array if sparse else to_dense_array
    if is_vector or not whole:
        listed = [make(_vector(columns, values, width), torch) for columns, values, width in rows]
        return listed[0] if is_vector else listed
    if not rows:
        return make(_vector(np.zeros(0, np.int64), np.zeros(0, np.float32), 0), torch)
    return make(from_rows([(columns, values) for columns, values, _ in rows], rows[0][2]), torch)


def _vector(columns: np.ndarray, values: np.ndarray, width: int) -> CooMatrix:
    return CooMatrix(np.zeros_like(columns), columns, values, (1, width), is_vector=True)


def sparsity(embeddings: Any) -> dict[str, float]:
    """The mean number of dimensions that are not 0, and the share that are 0."""
    found = to_coo(embeddings)
    if 0 in found.shape:
        return {"active_dims": 0.0, "sparsity_ratio": 1.0}
    active = len(found.values) / found.shape[0]
    return {"active_dims": active, "sparsity_ratio": 1.0 - active / found.shape[1]}


def intersection(first: Any, second: Any) -> Any:
    """One vector, and one or several -> their products where these are positive, sparse, in the kind of the vectors."""
    one, others = to_coo(first), to_coo(second)
    if not one.is_vector or one.shape[1] != others.shape[1]:
        raise InputError(
            f"got {one.shape} and {others.shape}, expected one vector first, and vectors of its width second."
        )
    factors = np.zeros(one.shape[1], np.float32)
    factors[one.columns] = one.values
    products = factors[others.columns] * others.values
    kept = products > 0
    shared = CooMatrix(others.rows[kept], others.columns[kept], products[kept], others.shape, others.is_vector)
    return to_sparse_array(shared, torch_if_installed() if one.from_torch or others.from_torch else None)


def decode_tokens(embeddings: Any, tokenizer: Tokenizer, top_k: int | None) -> Any:
    """A vector -> its words with their weights, largest first; several -> a list of such lists."""
    found = to_coo(embeddings)
    words = [_words(found.row(index), tokenizer, top_k) for index in range(found.shape[0])]
    return words[0] if found.is_vector else words


def _words(row: SparseRow, tokenizer: Tokenizer, top_k: int | None) -> list[tuple[str, float]]:
    columns, values = row
    order = np.argsort(-values, kind="stable")[:top_k]
    tokens = tokenizer.convert_ids_to_tokens(columns[order].tolist())
    return list(zip(tokens, values[order].tolist(), strict=True))
