"""Sliding-window attention: a token attends to tokens at most `window` positions away on each side.

Source: Beltagy et al., "Longformer", arXiv 2004.05150. Long texts are computed in blocks of queries, so memory grows
with L x window and not with L x L.

Axes: B texts, L tokens, H heads, K head width, N blocks, C queries of a block, S keys of a block (C + 2 x window),
G shared keys.
"""

from dataclasses import dataclass

import mlx.core as mx

from mlx_hf_bridge.layers.attention import attend

# Queries of a block, in windows. Each block computes scores for its queries and a window more on both sides: with 2
# windows of queries, half of the scores are masked. The value is not tuned.
_WINDOWS_PER_BLOCK = 2


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values that every query attends to in addition to its window (Longformer's global tokens).

    Args:
        keys: (B, H, G, K).
        values: (B, H, G, K).
        visible: True for keys that exist, (B, 1, 1, G): texts may have fewer than G.
    """

    keys: mx.array
    values: mx.array
    visible: mx.array


def local_mask(length: int, window: int, mask: mx.array | None) -> mx.array:
    """Return the attention mask of a sliding window, for scores that are computed in full.

    Args:
        length: L.
        window: Visible tokens on each side.
        mask: True for real tokens, (B, 1, 1, L), or None; floats to add, also (B, 1 or H, L, L).

    Returns:
        Bool array of shape (1 or B, 1, L, L), True for keys that are real and near; a padded query may see none. Floats
        if the mask is one; with a row for each query it says which are near, too.
    """
    if mask is not None and mask.dtype != mx.bool_ and mask.shape[2] > 1:
        return mask
    positions = mx.arange(length, dtype=mx.int32)
    near = (mx.abs(positions[:, None] - positions[None, :]) <= window)[None, None]
    if mask is not None and mask.dtype != mx.bool_:
        # What hides a key in this mask, -inf or the least number, hides one that is far away too.
        return mx.where(near, mask, mask.min())
    return near if mask is None else mx.logical_and(near, mask)


def attend_locally(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | None,
    window: int,
    shared: SharedKeys | None = None,
) -> mx.array:
    """Compute sliding-window attention, in blocks where the text is long enough.

    Args:
        queries: (B, H, L, K).
        keys: (B, H, L, K).
        values: (B, H, L, K).
        scale: Factor of the scores.
        mask: True for real tokens, (B, 1, 1, L), or None; floats as in `local_mask`.
        window: Visible tokens on each side.
        shared: Keys and values that every query sees too, or None.

    Returns:
        The attention output, (B, H, L, K).
    """
    length, size = queries.shape[2], max(_WINDOWS_PER_BLOCK * window, 1)
    if length <= size + window or (mask is not None and mask.dtype != mx.bool_):
        # One block would see almost every key anyway. A mask of floats is rare, and computed in full.
        near = prepend_shared(keys, values, local_mask(length, window, mask), shared)
        return attend(queries, near[0], near[1], scale, near[2], None, all_see=mask is None)
    blocks = -(-length // size)
    # Positions of each block's keys, (N, S), in keys that are padded by `window` in front.
    positions = mx.arange(blocks)[:, None] * size + mx.arange(size + 2 * window)
    padding = blocks * size - length
    padded = [mx.pad(x, [(0, 0), (0, 0), (window, window + padding), (0, 0)]) for x in (keys, values)]
    near_keys, near_values = (_blocks_to_batch(x[:, :, positions]) for x in padded)  # (B x N, H, S, K)
    # The last block is filled up with zeros, whose outputs are cut off at the end.
    rows = mx.pad(queries, [(0, 0), (0, 0), (0, padding), (0, 0)])
    rows = _blocks_to_batch(rows.reshape(*rows.shape[:2], blocks, size, -1))  # (B x N, H, C, K)
    visible = _block_mask(queries.shape[0], length, window, positions, mask)
    if shared is not None:
        shared = SharedKeys(*(mx.repeat(x, blocks, axis=0) for x in (shared.keys, shared.values, shared.visible)))
    near = prepend_shared(near_keys, near_values, visible, shared)
    # Rows that fill up the last block see nothing, and are cut off.
    attended = attend(rows, near[0], near[1], scale, near[2], None, all_see=mask is None and not padding)
    attended = attended.reshape(-1, blocks, *attended.shape[1:]).swapaxes(1, 2)  # (B, H, N, C, K)
    return attended.reshape(*attended.shape[:2], blocks * size, -1)[:, :, :length]


def prepend_shared(
    keys: mx.array, values: mx.array, visible: mx.array, shared: SharedKeys | None
) -> tuple[mx.array, mx.array, mx.array]:
    """Put shared keys and values in front of a block's own.

    Args:
        keys: (B, H, S, K).
        values: (B, H, S, K).
        visible: The block's attention mask, (1 or B, 1, C, S).
        shared: Keys and values to prepend, or None.

    Returns:
        Keys, values and mask with G + S keys; unchanged if `shared` is None.
    """
    if shared is None:
        return keys, values, visible
    batch, _, queries, near = *keys.shape[:2], *visible.shape[2:]
    shared_visible = mx.broadcast_to(shared.visible, (batch, 1, queries, shared.visible.shape[-1]))
    visible = mx.concatenate([shared_visible, mx.broadcast_to(visible, (batch, 1, queries, near))], axis=-1)
    return (
        mx.concatenate([shared.keys, keys], axis=2),
        mx.concatenate([shared.values, values], axis=2),
        visible,
    )


def _blocks_to_batch(x: mx.array) -> mx.array:
    """Reshape x (B, H, N, C, K) to (B x N, H, C, K)."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], *x.shape[3:])


def _block_mask(batch: int, length: int, window: int, positions: mx.array, mask: mx.array | None) -> mx.array:
    """Return the blocks' attention mask, (B x N, 1, C, S), from the mask of real tokens (B, 1, 1, L) or None."""
    blocks, size = positions.shape[0], positions.shape[1] - 2 * window
    visible = mx.ones((1, length), mx.bool_) if mask is None else mask[:, 0, 0]
    # Padded keys are False in the mask, so zeros beyond the ends take no part in the softmax.
    visible = mx.pad(visible, [(0, 0), (window, window + blocks * size - length)])[:, positions][:, :, None]
    ahead = mx.arange(positions.shape[1])[None, :] - mx.arange(size)[:, None]  # (C, S); `window` = the query's own key
    visible = mx.logical_and(mx.logical_and(ahead >= 0, ahead <= 2 * window), visible)  # (1 or B, N, C, S)
    visible = mx.broadcast_to(visible, (batch, *visible.shape[1:]))
    return visible.reshape(-1, 1, *visible.shape[2:])
