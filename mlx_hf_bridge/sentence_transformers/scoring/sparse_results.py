"""Results of sparse encoders: batches split into rows, and sparsity, common dimensions and tokens of embeddings.

Shapes: B texts, V embedding width.
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

# The nonzero dimensions of one embedding, their values, and V.
_Row = tuple[np.ndarray, np.ndarray, int]


def split_sparse_rows(result: tuple[mx.array]) -> list[_Row]:
    """Split a batch of sparse embeddings into the nonzero dimensions of each text.

    Args:
        result: A tuple with the embeddings (B, V).

    Returns:
        For each text (columns, values, V).
    """
    dense = np.array(result[0])
    # One batch is dense at a time; what is kept has the nonzero dimensions only.
    return [((columns := np.flatnonzero(row)), row[columns], len(row)) for row in dense]


def collect_sparse_vectors(rows: Sequence[_Row], single: bool, stacked: bool, sparse: bool) -> Any:
    """Build the result of `encode` from the rows of its batches.

    Args:
        rows: (columns, values, V) of each text, in order.
        single: Whether one text was given, so that one embedding (V,) is returned.
        stacked: Whether the embeddings are stacked into a matrix (N, V), else listed.
        sparse: Whether the arrays are sparse.

    Returns:
        Arrays of torch where it is installed; without it, scipy's for sparse ones and numpy's for dense ones.
    """
    torch = torch_if_installed()
    convert = to_sparse_array if sparse else to_dense_array
    if single or not stacked:
        listed = [convert(_vector(columns, values, width), torch) for columns, values, width in rows]
        return listed[0] if single else listed
    if not rows:
        return convert(_vector(np.zeros(0, np.int64), np.zeros(0, np.float32), 0), torch)
    return convert(from_rows([(columns, values) for columns, values, _ in rows], rows[0][2]), torch)


def _vector(columns: np.ndarray, values: np.ndarray, width: int) -> CooMatrix:
    return CooMatrix(np.zeros_like(columns), columns, values, (1, width), is_vector=True)


def sparsity(embeddings: Any) -> dict[str, float]:
    """Return how sparse embeddings are.

    Args:
        embeddings: Embeddings (N, V) or (V,) of torch, scipy or numpy, or a list of embeddings (V,).

    Returns:
        "active_dims", the mean number of nonzero dimensions, and "sparsity_ratio", the share of zeros.

    Raises:
        InputError: If a list holds anything but single embeddings.
        ArgumentTypeError: If it is of another type.
    """
    found = to_coo(embeddings)
    if 0 in found.shape:
        return {"active_dims": 0.0, "sparsity_ratio": 1.0}
    active = len(found.values) / found.shape[0]
    return {"active_dims": active, "sparsity_ratio": 1.0 - active / found.shape[1]}


def intersection(first: Any, second: Any) -> Any:
    """Return the element-wise product of one embedding with others, where it is positive.

    Args:
        first: One sparse embedding (V,).
        second: One or several of the same width.

    Returns:
        A sparse array of the shape of `second`, of torch if either input was a torch tensor, else of scipy.

    Raises:
        InputError: If the first is not a single embedding, or the widths differ.
    """
    one, others = to_coo(first), to_coo(second)
    if not one.is_vector or one.shape[1] != others.shape[1]:
        raise InputError(
            f"got {one.shape} and {others.shape}, expected one embedding first, and embeddings of its width second."
        )
    # The first embedding is scattered into a dense row, so that one lookup per nonzero of the others is enough.
    factors = np.zeros(one.shape[1], np.float32)
    factors[one.columns] = one.values
    products = factors[others.columns] * others.values
    kept = products > 0
    shared = CooMatrix(others.rows[kept], others.columns[kept], products[kept], others.shape, others.is_vector)
    return to_sparse_array(shared, torch_if_installed() if one.from_torch or others.from_torch else None)


def decode_tokens(embeddings: Any, tokenizer: Tokenizer, top_k: int | None) -> Any:
    """Return the tokens that stand for the nonzero dimensions of embeddings, with their weights.

    Args:
        embeddings: Embeddings (V,) or (N, V), where V is the vocabulary size.
        tokenizer: The tokenizer of the model.
        top_k: The most tokens for each embedding; None for all.

    Returns:
        A list of (token, weight), largest weight first, or a list of such lists for several embeddings.
    """
    found = to_coo(embeddings)
    tokens = [_tokens_of(found.row(index), tokenizer, top_k) for index in range(found.shape[0])]
    return tokens[0] if found.is_vector else tokens


def _tokens_of(row: SparseRow, tokenizer: Tokenizer, top_k: int | None) -> list[tuple[str, float]]:
    columns, values = row
    order = np.argsort(-values, kind="stable")[:top_k]
    tokens = tokenizer.convert_ids_to_tokens(columns[order].tolist())
    return list(zip(tokens, values[order].tolist(), strict=True))
