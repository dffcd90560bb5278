"""Multi-head self-attention with one linear layer for queries, keys and values.

Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762.

Axes: B texts, L tokens, D hidden size, H heads, K head width (D / H), C queries of a block.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.fast_math import LOG2_E, exp2_nonpositive
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.runtime.device import head_widening, uses_cpu_attention


class Attention(nn.Module):
    """Multi-head self-attention.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) with True for visible keys or None, and bias (1, H, L, L) that is added
    to the scores or None. A mask of floats is added to the scores too. Returns (B, L, D).

    Args:
        hidden_size: D.
        heads: Number of heads, H.
        head_dim: Head width K; None for D / H.
        bias: Whether the linear layers have a bias.
        scaled: Whether scores are divided by the square root of K. T5 folds that factor into its initialization.
    """

    def __init__(
        self, hidden_size: int, heads: int, head_dim: int | None = None, bias: bool = True, scaled: bool = True
    ) -> None:
        super().__init__()
        width = heads * (head_dim or hidden_size // heads)
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scaled else 1.0
        self._widening = head_widening(width // heads)
        self.qkv = Linear(hidden_size, 3 * width, bias)
        self.out = Linear(width, hidden_size, bias)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        queries, keys, values = self._widened_heads(x)
        return self._output(attend(queries, keys, values, self.scale, mask, bias))

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            bias: Added to the scores, (1, H, L, L), or None.

        Returns:
            The output (B, L, D) and the attention weights (B, H, L, L).
        """
        queries, keys, values = self._heads(x)
        attended, weights = attend_with_weights(queries, keys, values, self.scale, mask, bias)
        return self.out(merge_heads(attended)), weights

    def first_token(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        """Compute the output at position 0 only; keys and values are those of all positions.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            bias: Added to the scores, (1, H, L, L), or None.

        Returns:
            The output of shape (B, 1, D).
        """
        queries, keys, values = self._widened_heads(x)
        mask, bias = (None if term is None else term[:, :, :1] for term in (mask, bias))
        return self._output(attend(queries[:, :, :1], keys, values, self.scale, mask, bias))

    def _heads(self, x: mx.array) -> list[mx.array]:
        return [split_heads(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=-1)]  # (B, H, L, K) each

    def _widened_heads(self, x: mx.array) -> list[mx.array]:
        """Return heads in which zeros follow each number, if the device has a faster kernel for their width."""
        if self._widening == 1:
            return self._heads(x)
        joined = self.qkv(x)
        # One multiplication, which compilation joins with the bias of a quantized layer.
        pattern = mx.array([1.0] + [0.0] * (self._widening - 1), joined.dtype)
        widened = (joined[..., None] * pattern).reshape(*joined.shape[:-1], -1)
        return [split_heads(part, self.heads) for part in mx.split(widened, 3, axis=-1)]

    def _output(self, attended: mx.array) -> mx.array:
        """Return the output for attended heads, without the zeros between their numbers."""
        return self.out(merge_heads(attended if self._widening == 1 else attended[..., :: self._widening]))


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | None,
    bias: mx.array | None,
    all_see: bool = False,
) -> mx.array:
    """Compute scaled dot-product attention by whichever implementation is faster on this device.

    Args:
        queries: (B, H, L, K).
        keys: (B, H, L, K), or fewer heads if queries share them.
        values: Shape of `keys`.
        scale: Factor of the scores.
        mask: True for visible keys, (1 or B, 1 or H, 1 or L, L), or None. One row for all queries must see a key. A
            mask of floats is added to the scores; a query from which -inf hides all keys gets zeros.
        bias: Added to the scores, (1 or B, 1 or H, L, L), or None.
        all_see: Whether every query is known to see a key, which saves work.

    Returns:
        The attention output, (B, H, L, K); 0 for a query that sees no key, as in torch's scaled_dot_product_attention.
    """
    if mask is not None and mask.dtype != mx.bool_:
        shared = queries.shape[1] // keys.shape[1]
        keys, values = (mx.repeat(part, shared, axis=1) for part in (keys, values))
        return attend_with_weights(queries, keys, values, scale, mask, bias)[0]
    # A mask that all texts share hides no padding, and a row that all queries share sees a key.
    if all_see or mask is None or mask.shape[2] != queries.shape[2] or mask.shape[0] != queries.shape[0]:
        return _attend(queries, keys, values, scale, mask, bias)
    sees = mask.any(axis=-1, keepdims=True)
    # Softmax over no key would be NaN, so such a query sees all keys first.
    attended = _attend(queries, keys, values, scale, mx.logical_or(mask, mx.logical_not(sees)), bias)
    return mx.where(sees, attended, mx.array(0, attended.dtype))


def _attend(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None, bias: mx.array | None
) -> mx.array:
    """Compute attention in which every query sees a key."""
    scores = queries.shape[0] * queries.shape[1] * queries.shape[2] * keys.shape[2]
    # The fast exponential works on the bits of float32, so other dtypes keep MLX's kernel.
    if uses_cpu_attention(scores) and queries.dtype == mx.float32:
        return cpu_attention(queries, keys, values, scale, mask, bias)
    # MLX's kernel takes one mask: boolean, or a term that is added to the scores.
    added = _combined_mask(mask, bias, queries.dtype)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=added)


def attend_with_weights(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | None,
    bias: mx.array | None,
    cap: float | None = None,
) -> tuple[mx.array, mx.array]:
    """Compute scaled dot-product attention and return its weights too, which takes memory of L x L.

    Args:
        queries: (B, H, L, K).
        keys: (B, H, L, K).
        values: (B, H, L, K).
        scale: Factor of the scores.
        mask: True for visible keys, (1 or B, 1 or H, 1 or L, L), or None; floats are added to the scores.
        bias: Added to the scores, (1 or B, 1 or H, L, L), or None.
        cap: Soft-caps the scores to (-cap, cap) by tanh, as in Gemma 2; None for no cap.

    Returns:
        The attention output (B, H, L, K) and the attention weights (B, H, L, L), which are equal for all keys where a
        query sees none, as in transformers' eager attention.
    """
    scores = (queries * scale) @ keys.swapaxes(-1, -2)
    if cap is not None:
        scores = mx.tanh(scores / cap) * cap
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if mask is not None:
        scores = mask_scores(scores, mask)
        if mask.dtype == mx.bool_:
            scores = mx.where(mask.any(axis=-1, keepdims=True), scores, mx.array(0, scores.dtype))
    # `precise` sums in float32, also for half-precision scores.
    weights = mx.softmax(scores, axis=-1, precise=True).astype(values.dtype)
    if mask is not None and mask.dtype != mx.bool_:
        # As torch's fused attention: softmax over no key would give NaN.
        weights = mx.where((mask == -mx.inf).all(axis=-1, keepdims=True), 0, weights)
    return weights @ values, weights


def mask_scores(scores: mx.array, mask: mx.array) -> mx.array:
    """Apply an attention mask to scores.

    Args:
        scores: (B, H, L, L).
        mask: True for visible keys, or floats that are added, (1 or B, 1 or H, 1 or L, L).

    Returns:
        The scores, -inf for hidden keys; float32 if floats were added.
    """
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, mx.array(-mx.inf, scores.dtype))
    return scores + mask


def split_heads(x: mx.array, heads: int) -> mx.array:
    """Split the last axis into heads.

    Args:
        x: (B, L, H x K).
        heads: Number of heads, H.

    Returns:
        Array of shape (B, H, L, K).
    """
    batch, length, _ = x.shape
    return x.reshape(batch, length, heads, -1).swapaxes(1, 2)


def merge_heads(attended: mx.array) -> mx.array:
    """Concatenate the heads of an attention output.

    Args:
        attended: (B, H, L, K).

    Returns:
        Array of shape (B, L, H x K).
    """
    batch, _, length, _ = attended.shape
    return attended.swapaxes(1, 2).reshape(batch, length, -1)


def relative_buckets(length: int, buckets: int, max_distance: int, causal: bool = False) -> mx.array:
    """Return T5's buckets of the distance from query to key.

    Source: Raffel et al., arXiv 1910.10683, section 2.1; T5Attention._relative_position_bucket in transformers.

    Args:
        length: Number of tokens, L.
        buckets: Number of buckets; half of them for keys after the query.
        max_distance: Distance from which on all keys share the last bucket of their side.
        causal: Whether all buckets are for keys up to the query, and later keys share the first one (a decoder).

    Returns:
        Bucket ids, (L, L), int32: row = query, column = key.
    """
    positions = mx.arange(length, dtype=mx.int32)
    return buckets_of(positions[:, None] - positions[None, :], buckets, max_distance, causal)


def buckets_of(behind: mx.array, buckets: int, max_distance: int, causal: bool = False) -> mx.array:
    """Return T5's buckets of distances.

    Args:
        behind: How far keys are behind their query, of any shape; negative for later keys.
        buckets: As for `relative_buckets`.
        max_distance: As for `relative_buckets`.
        causal: As for `relative_buckets`.

    Returns:
        Bucket ids, of the shape of `behind`, int32.
    """
    half = buckets if causal else buckets // 2
    exact = half // 2
    distance = mx.maximum(behind, 0) if causal else mx.abs(behind)
    # maximum(..., 1) only keeps log(0) away; distances that small take the exact bucket below. The operations are those
    # of T5 in transformers, in its order, so that rounding puts no distance into the next bucket.
    far = mx.log(mx.maximum(distance, 1).astype(mx.float32) / exact) / math.log(max_distance / exact) * (half - exact)
    # All distances from max_distance on share the last bucket.
    coarse = mx.minimum(exact + far.astype(mx.int32), half - 1)
    chosen = mx.where(distance < exact, distance, coarse)
    return chosen if causal else mx.where(behind < 0, half, 0) + chosen


def _combined_mask(mask: mx.array | None, bias: mx.array | None, dtype: mx.Dtype) -> mx.array | None:
    """Return mask and bias as one array for MLX. -inf is safe, since every query sees a key."""
    if bias is None:
        return mask
    bias = bias.astype(dtype)
    return bias if mask is None else mx.where(mask, bias, mx.array(-mx.inf, dtype))


# Scores (B, H, C, L) of one block of queries: 2^23 float32 numbers are 32 MiB, and a few such arrays are in memory at
# once. Smaller blocks would save memory and cost more primitives; the results are the same.
_MAX_BLOCK_SCORES = 2**23


def cpu_attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None, bias: mx.array | None
) -> mx.array:
    """Compute scaled dot-product attention for CPUs: matmuls of the BLAS, and a softmax without MLX's slow `exp`.

    Queries are processed in blocks, so memory grows with L and not with its square.

    Args:
        queries: (B, H, L, K), float32.
        keys: (B, H / n, L, K), float32; n consecutive query heads share a head of keys and values.
        values: Shape of `keys`, float32.
        scale: Factor of the scores.
        mask: (B or 1, 1 or H, 1 or L, L): bool, True for visible keys, or floats to be added; None for no mask. Every
            query must see at least one key.
        bias: Added to the scores, (1 or B, 1 or H, L, L), or None.

    Returns:
        The attention output, (B, H, L, K), float32.
    """
    # MLX's kernel broadcasts grouped keys itself; a plain matmul needs one for each query head.
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = mx.repeat(keys, shared, axis=1), mx.repeat(values, shared, axis=1)
    queries, keys = queries * scale, keys.swapaxes(-1, -2)
    terms = _score_terms(mask, bias)
    length = queries.shape[2]
    rows = max(1, _MAX_BLOCK_SCORES // (queries.shape[0] * queries.shape[1] * keys.shape[-1]))
    if rows >= length:
        return _attend_block(queries, keys, values, terms)
    blocks = [
        _attend_block(queries[:, :, start : start + rows], keys, values, [_rows(term, start, rows) for term in terms])
        for start in range(0, length, rows)
    ]
    return mx.concatenate(blocks, axis=2)


def _score_terms(mask: mx.array | None, bias: mx.array | None) -> list[mx.array]:
    """Return what is added to the scores. -inf is safe, since every query sees a key."""
    terms = [] if bias is None else [bias.astype(mx.float32)]
    if mask is not None:
        terms.append(mx.where(mask, 0.0, -mx.inf) if mask.dtype == mx.bool_ else mask.astype(mx.float32))
    return terms


def _rows(term: mx.array, start: int, rows: int) -> mx.array:
    """Return a block's rows of a term, which may be broadcast over queries."""
    # A key mask is (B, 1, 1, L): the same for every query.
    return term if term.shape[2] == 1 else term[:, :, start : start + rows]


def _attend_block(queries: mx.array, keys: mx.array, values: mx.array, terms: list[mx.array]) -> mx.array:
    """Compute softmax(queries @ keys + terms) @ values; `keys` is (B, H, K, L)."""
    scores = queries @ keys  # (B, H, C, L)
    for term in terms:
        scores = scores + term
    # log2(e) is multiplied in last: before, it would round large scores, and only their differences matter.
    powers = exp2_nonpositive((scores - scores.max(axis=-1, keepdims=True)) * LOG2_E)
    # Dividing the output (K wide) instead of the weights (L wide) saves work; the result is the same.
    return (powers @ values) / powers.sum(axis=-1, keepdims=True)
