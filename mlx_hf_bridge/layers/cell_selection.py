"""TAPAS' question answering head: which cells of one column of a table answer a question, and how they are aggregated.

Source: Herzig et al., arXiv 2004.02349; reference: transformers/models/tapas/modeling_tapas.py.

Axes: B texts, L tokens, D hidden size, C columns of the largest table, A aggregations.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.heads import HeadOutputs, TokenTable
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch

# What is added to the scores of cells and columns that cannot be chosen.
_EXCLUDED = -10000.0
# Keeps the division by the number of cells of an empty column from being 0 / 0.
_EPSILON = 1e-10
# The columns of token_type_ids that say where in the table a token is.
TYPES, COLUMN, ROW = "token_type_ids", 1, 2


class Values(nn.Module):
    """A parameter that files have by its own name, without ".weight".

    Args:
        shape: Its shape.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = mx.zeros(shape)


class CellSelection(nn.Module):
    """Chooses a column by the mean score of its cells, and scores every cell in it; other cells are excluded.

    Returns "logits" (B, L), each token's being that of its cell, and "logits_aggregation" (B, A) if there are
    aggregations.

    Args:
        hidden_size: D.
        table: The most rows and columns of a table; tokens beyond count as those of the last ones.
        temperature: What the scores of cells are divided by.
        aggregations: A, or 0.
        allow_empty: Whether no column may be chosen.
    """

    def __init__(
        self, hidden_size: int, table: tuple[int, int], temperature: float, aggregations: int, allow_empty: bool
    ) -> None:
        super().__init__()
        self.cells, self.cells_bias = Values(hidden_size), Values()
        self.columns, self.columns_bias = Values(hidden_size), Values()
        if aggregations:
            self.aggregation = Linear(hidden_size, aggregations)
        self._last_row, self._last_column = (size - 1 for size in table)
        self._temperature, self._allow_empty = temperature, allow_empty

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        hidden = hidden.astype(mx.float32)
        columns, same = self._cells_of(batch)
        counts = same.sum(axis=-1)
        real = mx.ones(batch.ids.shape) if batch.mask is None else batch.mask.astype(mx.float32)
        # One value for each token, that of its cell.
        seen, scores, column_scores = (
            (same @ values[..., None])[..., 0] / counts
            for values in (
                real,
                (hidden @ self.cells.weight + self.cells_bias.weight) / self._temperature,
                hidden @ self.columns.weight + self.columns_bias.weight,
            )
        )
        chosen = self._choose(columns, column_scores, seen, counts)
        allowed = seen * mx.logical_and(columns == chosen[:, None], columns != 0)
        outputs = {"logits": scores + _EXCLUDED * (1 - allowed)}
        if "aggregation" in self:
            assert pooled is not None  # build_model() adds a pooler to every head that reads one
            outputs["logits_aggregation"] = self.aggregation(pooled)
        return outputs

    def _cells_of(self, batch: TokenBatch) -> tuple[mx.array, mx.array]:
        """Return each token's column (B, L), and which tokens share a cell, (B, L, L); the question is a cell too."""
        types = batch.extra_inputs.get(TYPES)
        if types is None:
            types = mx.zeros((*batch.ids.shape, ROW + 1), mx.int32)
        columns = mx.minimum(types[..., COLUMN], self._last_column)
        rows = mx.minimum(types[..., ROW], self._last_row)
        same = mx.logical_and(*(part[:, :, None] == part[:, None] for part in (columns, rows)))
        return columns, same.astype(mx.float32)

    def _choose(self, columns: mx.array, scores: mx.array, seen: mx.array, counts: mx.array) -> mx.array:
        """Return the column with the highest mean score of its cells, (B,)."""
        numbers = mx.arange(self._last_column + 1)
        # A cell's tokens add up to one cell.
        inside = (columns[..., None] == numbers) * (seen / counts)[..., None]  # (B, L, C)
        cells = inside.sum(axis=1)
        means = (inside * scores[..., None]).sum(axis=1) / (cells + _EPSILON)
        means = means + _EXCLUDED * mx.logical_and(cells < 0.5, numbers != 0)
        return mx.argmax(means if self._allow_empty else means + _EXCLUDED * (numbers == 0), axis=-1)
