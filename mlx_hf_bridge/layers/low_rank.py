"""Low-rank additions to linear layers and embedding tables (LoRA, Hu et al., arXiv 2106.09685), beside their weights.

They are computed in the activations' dtype, whatever the precision of the weights, so that quantizing these does not
round them. Axes: I inputs, O outputs, R rank, V rows of a table, D embedding width.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn


class LowRankLinear(nn.Module):
    """A linear layer with a low-rank addition: base(x) + s B A x. Takes x (..., I) and returns (..., O).

    Args:
        base: The linear layer, float or quantized.
        down: A, (R, I).
        up: B, (O, R).
        scale: s.
    """

    def __init__(self, base: Any, down: mx.array, up: mx.array, scale: float) -> None:
        super().__init__()
        self.base, self.down, self.up, self.scale = base, down, up, scale

    def __call__(self, x: mx.array) -> mx.array:
        added = (x @ self.down.T.astype(x.dtype)) @ self.up.T.astype(x.dtype)
        summed: mx.array = self.base(x) + self.scale * added
        return summed


class LowRankEmbedding(nn.Module):
    """An embedding table with a low-rank addition: base(ids) + s A[ids] B. Takes ids (B, L) and returns (B, L, D).

    Args:
        base: The table, float or quantized.
        down: A, (V, R).
        up: B, (R, D).
        scale: s.
    """

    def __init__(self, base: Any, down: mx.array, up: mx.array, scale: float) -> None:
        super().__init__()
        self.base, self.down, self.up, self.scale = base, down, up, scale

    def __call__(self, ids: mx.array) -> mx.array:
        rows: mx.array = self.base(ids)
        return rows + self.scale * (self.down[ids].astype(rows.dtype) @ self.up.astype(rows.dtype))
