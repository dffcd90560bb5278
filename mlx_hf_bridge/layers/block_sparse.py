"""BigBird's sparse attention: a band of three blocks, and the first and last block as global ones.

Source: Zaheer et al., arXiv 2007.14062, and BigBirdBlockSparseAttention in transformers/models/big_bird. The random
blocks of the paper are drawn in training only; at inference transformers takes the first block for each of them, so its
keys count several times.

Axes: B texts, L tokens, D hidden size, H heads, K head width, N blocks, S tokens of a block.
"""

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.layers.attention import Attention, attend, attend_with_weights, merge_heads


class BlockSparseAttention(Attention):
    """Self-attention that is full for short texts, and sparse for texts of more blocks than it would read.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) with True for real tokens or None, and no bias. Returns (B, L, D).

    Args:
        hidden_size: D.
        heads: Number of heads, H.
        block_size: S.
        random_blocks: How many random blocks each query has, for which the first block stands.
        longest_full: Longest text, in tokens, with full attention.
    """

    def __init__(self, hidden_size: int, heads: int, block_size: int, random_blocks: int, longest_full: int) -> None:
        super().__init__(hidden_size, heads)
        self.block_size, self.copies, self.longest_full = block_size, random_blocks + 1, longest_full

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        if x.shape[1] <= self.longest_full:
            return super().__call__(x, mask, bias)
        queries, keys, values = self._heads(x)
        real = _real_tokens(mask, len(x))
        attended = attend_by_blocks(queries, keys, values, self.scale, real, self.block_size, self.copies)
        return self.out(merge_heads(_zero_padding(attended, real)))

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights, with full L x L scores.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for real tokens, (B, 1, 1 or L, L), or None.
            bias: None.

        Returns:
            The output (B, L, D) and the attention weights (B, H, L, L); of the copies of the first block, transformers
            returns the weights of one.
        """
        if x.shape[1] <= self.longest_full:
            return super().with_weights(x, mask, bias)
        queries, keys, values = self._heads(x)
        real = _real_tokens(mask, len(x))
        visible, copies = _dense_pattern(x.shape[1], self.block_size, self.copies)
        if real is not None:
            visible = mx.logical_and(visible, real[:, None, None])
        attended, weights = attend_with_weights(queries, keys, values, self.scale, visible, mx.log(copies))
        return self.out(merge_heads(_zero_padding(attended, real))), weights / copies

    def first_token(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        """Compute the output at position 0 only, which sees all keys in sparse attention too.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for real tokens, (B, 1, 1 or L, L), or None.
            bias: None.

        Returns:
            The output of shape (B, 1, D).
        """
        if x.shape[1] <= self.longest_full:
            return super().first_token(x, mask, bias)
        queries, keys, values = self._heads(x)
        real = _real_tokens(mask, len(x))
        attended = attend(queries[:, :, :1], keys, values, self.scale, None if real is None else _key_mask(real), None)
        return self.out(merge_heads(_zero_padding(attended, None if real is None else real[:, :1])))


def attend_by_blocks(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, real: mx.array | None, size: int, copies: int
) -> mx.array:
    """Compute sparse attention: queries of the first and last block see all keys, others five blocks.

    Args:
        queries: (B, H, L, K).
        keys: (B, H, L, K).
        values: (B, H, L, K).
        scale: Factor of the scores.
        real: True for real tokens, (B, L), or None.
        size: S.
        copies: How often the first block counts for queries between the first and last block.

    Returns:
        The attention output, (B, H, L, K); of padded queries, any values.
    """
    batch, heads, length, width = queries.shape
    padding, blocks = -length % size, -(-length // size)
    real = mx.pad(mx.ones((batch, length), mx.bool_) if real is None else real, [(0, 0), (0, padding)])
    queries, keys, values = (mx.pad(x, [(0, 0), (0, 0), (0, padding), (0, 0)]) for x in (queries, keys, values))
    ends = mx.concatenate([queries[:, :, :size], queries[:, :, -size:]], axis=2)
    ends = attend(ends, keys, values, scale, _key_mask(real), None)
    # Blocks that the middle ones read: the first, itself with its neighbors, and the last, (N - 2, 5).
    middle = mx.arange(1, blocks - 1)
    first, last = mx.zeros_like(middle), mx.full(middle.shape, blocks - 1, middle.dtype)
    read = mx.stack([first, middle - 1, middle, middle + 1, last], axis=1)
    # A neighbor that is the first or last block is there already.
    new = mx.stack([first == 0, middle > 1, first == 0, middle < blocks - 2, first == 0], axis=1)
    visible = mx.logical_and(real.reshape(batch, blocks, size)[:, read], new[:, :, None])
    visible = _key_mask(visible.reshape(-1, 5 * size))  # (B x (N - 2), 1, 1, 5 x S)
    split = [x.reshape(batch, heads, blocks, size, width) for x in (queries, keys, values)]
    near = [x[:, :, read].reshape(batch, heads, blocks - 2, 5 * size, width) for x in split[1:]]
    rows, near_keys, near_values = (
        x.swapaxes(1, 2).reshape(-1, heads, *x.shape[3:]) for x in (split[0][:, :, 1:-1], *near)
    )
    counted = mx.log(mx.where(mx.arange(5 * size) < size, float(copies), 1.0))[None, None, None]
    attended = attend(rows, near_keys, near_values, scale, visible, counted)
    attended = attended.reshape(batch, blocks - 2, heads, size, width).swapaxes(1, 2).reshape(batch, heads, -1, width)
    return mx.concatenate([ends[:, :, :size], attended, ends[:, :, size:]], axis=2)[:, :, :length]


def _dense_pattern(length: int, size: int, copies: int) -> tuple[mx.array, mx.array]:
    """Return which keys each query sees, (1, 1, L, L), bool, and how often each counts, (1, 1, L, L)."""
    last = (length - 1) // size
    block = mx.arange(length) // size
    rows, columns = block[:, None], block[None]
    near = mx.abs(rows - columns) <= 1
    ends = [mx.logical_or(one == 0, one == last) for one in (rows, columns)]
    visible = mx.logical_or(near, mx.logical_or(*ends))
    counted = mx.logical_and(columns == 0, mx.logical_not(ends[0]))
    return visible[None, None], mx.where(counted, float(copies), 1.0)[None, None]


def _real_tokens(mask: mx.array | None, batch: int) -> mx.array | None:
    """Return which tokens are real, (B, L), from a mask of keys; InputError for a mask that says more than that."""
    if mask is None:
        return None
    if mask.dtype != mx.bool_:
        # A batch with a text of padding only has numbers to add, which are 0 or hide a key.
        values = np.array(mask)
        if mask.shape[1:3] != (1, 1) or not (values[values != 0] <= np.finfo(np.float32).min).all():
            raise InputError(
                "attention_mask has numbers for each pair of tokens; block_sparse attention takes one of shape (texts, "
                "tokens), as in transformers. Pass that, or attention_type='original_full' to from_pretrained."
            )
        mask = mask == 0
    real = mask[:, 0, 0]
    return mx.broadcast_to(real, (batch, real.shape[1]))


def _key_mask(real: mx.array) -> mx.array:
    """Return real (B, L) as a mask of keys, (B, 1, 1, L); a row without any sees all, and its outputs are not used."""
    return mx.logical_or(real, mx.logical_not(real.any(axis=-1, keepdims=True)))[:, None, None]


def _zero_padding(x: mx.array, real: mx.array | None) -> mx.array:
    """Return x (B, H, L, K) with 0 at padded positions."""
    return x if real is None else mx.where(real[:, None, :, None], x, mx.array(0, x.dtype))
