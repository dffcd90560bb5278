"""Attention in which a token sees those that stand at most `window` places away (Beltagy et al., arXiv 2004.05150).

Long rows go in blocks, so that memory grows with L x window and not with L x L.
B texts, L tokens, H heads, K width of a head, N blocks of C queries, S = C + 2 x window keys of a block, G shared keys.
"""

from dataclasses import dataclass

import mlx.core as mx

from mlx_hf_bridge.layers.attention import attend

# Queries of a block, in windows: at 2, half of the scores are computed in vain. Not tuned.
_WINDOWS_A_BLOCK = 2


def local_mask(length: int, window: int, mask: mx.array | None) -> mx.array:
    """mask (B, 1, 1, L) -> (1 or B, 1, L, L), True = near and visible; a query always sees itself."""
    places = mx.arange(length, dtype=mx.int32)
    apart = mx.abs(places[:, None] - places[None, :])
    near = (apart <= window)[None, None]
    return near if mask is None else mx.logical_or(mx.logical_and(near, mask), apart == 0)


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values (B, H, G, K) that every query has beside the near ones; visible (B, 1, 1, G)."""

    keys: mx.array
    values: mx.array
    visible: mx.array


def attend_locally(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | None,
    window: int,
    shared: SharedKeys | None = None,
) -> mx.array:
    """queries, keys, values (B, H, L, K), mask (B, 1, 1, L) True = visible -> values mixed (B, H, L, K)."""
    length, size = queries.shape[2], max(_WINDOWS_A_BLOCK * window, 1)
    if length <= size + window:
        near = prepend_shared(keys, values, local_mask(length, window, mask), shared)
        return attend(queries, near[0], near[1], scale, near[2], None)
    blocks = -(-length // size)
    slots = mx.arange(blocks)[:, None] * size + mx.arange(size + 2 * window)  # (N, S) into keys padded by `window`
    behind = blocks * size - length
    padded = [mx.pad(x, [(0, 0), (0, 0), (window, window + behind), (0, 0)]) for x in (keys, values)]
    near_keys, near_values = (_blocks_first(x[:, :, slots]) for x in padded)  # (B x N, H, S, K)
    rows = mx.pad(queries, [(0, 0), (0, 0), (0, behind), (0, 0)])
    rows = _blocks_first(rows.reshape(*rows.shape[:2], blocks, size, -1))  # (B x N, H, C, K)
    seen = _seen(queries.shape[0], length, window, slots, mask)
    if shared is not None:
        shared = SharedKeys(*(mx.repeat(x, blocks, axis=0) for x in (shared.keys, shared.values, shared.visible)))
    near = prepend_shared(near_keys, near_values, seen, shared)
    mixed = attend(rows, near[0], near[1], scale, near[2], None)
    mixed = mixed.reshape(-1, blocks, *mixed.shape[1:]).swapaxes(1, 2)  # (B, H, N, C, K)
    return mixed.reshape(*mixed.shape[:2], blocks * size, -1)[:, :, :length]


def prepend_shared(
    keys: mx.array, values: mx.array, seen: mx.array, shared: SharedKeys | None
) -> tuple[mx.array, mx.array, mx.array]:
    """keys, values (B, H, S, K), seen (1 or B, 1, C, S) -> all three with the shared ones in front (G + S)."""
    if shared is None:
        return keys, values, seen
    batch, _, queries, near = *keys.shape[:2], *seen.shape[2:]
    visible = mx.broadcast_to(shared.visible, (batch, 1, queries, shared.visible.shape[-1]))
    seen = mx.concatenate([visible, mx.broadcast_to(seen, (batch, 1, queries, near))], axis=-1)
    return (
        mx.concatenate([shared.keys, keys], axis=2),
        mx.concatenate([shared.values, values], axis=2),
        seen,
    )


def _blocks_first(x: mx.array) -> mx.array:
    """x (B, H, N, C, K) -> (B x N, H, C, K)."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], *x.shape[3:])


def _seen(batch: int, length: int, window: int, slots: mx.array, mask: mx.array | None) -> mx.array:
    """mask (B, 1, 1, L) -> (B x N, 1, C, S), True = near and visible; a query always sees itself."""
    blocks, size = slots.shape[0], slots.shape[1] - 2 * window
    visible = mx.ones((1, length), mx.bool_) if mask is None else mask[:, 0, 0]
    visible = mx.pad(visible, [(0, 0), (window, window + blocks * size - length)])[:, slots][:, :, None]
    ahead = mx.arange(slots.shape[1])[None, :] - mx.arange(size)[:, None]  # (C, S); `window` = the query's own key
    seen = mx.logical_or(
        mx.logical_and(mx.logical_and(ahead >= 0, ahead <= 2 * window), visible), ahead == window
    )  # (1 or B, N, C, S)
    seen = mx.broadcast_to(seen, (batch, *seen.shape[1:]))
    return seen.reshape(-1, 1, *seen.shape[2:])
