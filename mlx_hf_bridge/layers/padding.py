"""The last sum of a layer, kept finite at padded positions, whose values no token may be changed by.

In float16 a layer's results can leave the range at padding, which no trained weights were made for. Attention gives
such positions a weight of 0, and 0 times infinity is NaN, which would then be in every token of the text.

Axes: B texts, L tokens, D hidden size.
"""

import mlx.core as mx

from mlx_hf_bridge.runtime.device import fused


def sum_finite_at_padding(x: mx.array, y: mx.array, mask: mx.array | None, dtype: mx.Dtype) -> mx.array:
    """Return x + y with 0 for what is infinite or NaN at positions that the attention mask hides from all queries.

    Values that are finite, and all values of tokens, are those of the plain sum: an overflow at a token stays visible.

    Args:
        x: (B, L, D).
        y: (B, L, D).
        mask: The attention mask of the layer, (1 or B, 1, 1 or L, L) with True for visible keys; None, and masks of
            other kinds, for a plain sum.
        dtype: The dtype of the model's weights; only float16 has a range that sums leave.

    Returns:
        Array of shape (B, L, D).
    """
    hides_keys = mask is not None and mask.dtype == mx.bool_ and mask.shape[1] == 1
    if mask is None or not hides_keys or dtype != mx.float16 or mask.shape[-1] != x.shape[1]:
        return x + y
    seen = mask[:, 0] if mask.shape[2] == 1 else mask[:, 0].any(axis=1, keepdims=True)
    return _sum_finite_where_hidden(x, y, seen.swapaxes(1, 2))


@fused
def _sum_finite_where_hidden(x: mx.array, y: mx.array, seen: mx.array) -> mx.array:
    """Return x + y (B, L, D), finite where `seen` (1 or B, L, 1) is False; one kernel on GPUs."""
    summed = x + y
    # Comparisons with NaN are False.
    return mx.where(mx.logical_or(seen, mx.abs(summed) < mx.inf), summed, mx.array(0, summed.dtype))
