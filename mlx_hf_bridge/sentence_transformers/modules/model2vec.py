"""The table of a model2vec file: rows that several tokens may share, and a weight for each token.

Reference: sentence_transformers/sentence_transformer/modules/static_embedding.py, _fold_model2vec_weights.
"""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ConfigError, TokenRangeError


def expand_embeddings(arrays: Mapping[str, mx.array], folder: Path) -> mx.array | None:
    """Return `embeddings` with one row for each token, times the token's weight.

    Args:
        arrays: The tensors of the file: embeddings (rows, D); mapping (V,) to rows and weights (V,), if it has them.
        folder: The module's folder, named in errors.

    Returns:
        The table (V, D); embeddings as they are if they are no table, None without them.

    Raises:
        ConfigError: If mapping or weights have another shape or dtype.
        TokenRangeError: If the mapping names rows that the table does not have.
    """
    weight = arrays.get("embeddings")
    if weight is None or weight.ndim != 2:
        return weight
    if "mapping" in arrays:
        # model2vec stores one row for several tokens; expanding it keeps the lookup a plain one.
        weight = weight[_check_rows(arrays["mapping"], weight.shape[0], folder)]
    if (factors := arrays.get("weights")) is not None:
        rows = weight.shape[0]
        # One weight for all tokens broadcasts, as in sentence-transformers.
        if factors.ndim != 1 or (factors.shape[0] != rows and 1 not in (rows, factors.shape[0])):
            raise ConfigError(
                f"{folder} has weights of shape {factors.shape}, expected one for each of {rows} tokens. "
                "Take the original files."
            )
        weight = weight * factors.astype(mx.float32)[:, None]
    return weight


def _check_rows(mapping: mx.array, rows: int, folder: Path) -> mx.array:
    """Return the row of each token as int32, checked against the table, since MLX reads beyond it; -1 is the last."""
    if mapping.ndim != 1 or mx.issubdtype(mapping.dtype, mx.floating):
        raise ConfigError(
            f"{folder} has a mapping of shape {mapping.shape} and dtype {mapping.dtype}, expected one row, an integer, "
            "for each token. Take the original files."
        )
    values = np.array(mapping)
    if values.size and (values.min() < -rows or values.max() >= rows):
        raise TokenRangeError(
            f"{folder} maps tokens to rows {values.min()} to {values.max()}, and its embeddings have rows 0 to "
            f"{rows - 1}. Take the original files."
        )
    return mx.array(values.astype(np.int32))
