"""Softmax attention spelled out for CPUs: powers of two by sums and products, long rows a block of queries at a time.

B texts, L tokens, H heads, G heads that share keys, K width of a head, C queries of a block.
"""

import mlx.core as mx

from mlx_hf_bridge.layers.exponential import LOG2_E, power_of_two_to_zero

# Scores (B, H, C, L) of one block: 32 MiB in float32, of which a few lie in memory at once.
_MOST_SCORES = 2**23


def attend_by_powers(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None, bias: mx.array | None
) -> mx.array:
    """queries (B, H, L, K), keys and values (B, H / G, L, K), all float32 -> values mixed (B, H, L, K).

    mask (B or 1, 1 or H, 1 or L, L) True = visible, or floats to be added; bias (1 or B, 1 or H, L, L) is added.
    Every query must see a key. Memory grows with L, not with its square.
    """
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = mx.repeat(keys, shared, axis=1), mx.repeat(values, shared, axis=1)
    queries, keys = queries * scale, keys.swapaxes(-1, -2)
    added = _added(mask, bias)
    length = queries.shape[2]
    rows = max(1, _MOST_SCORES // (queries.shape[0] * queries.shape[1] * keys.shape[-1]))
    if rows >= length:
        return _mixed(queries, keys, values, added)
    blocks = [
        _mixed(queries[:, :, start : start + rows], keys, values, [_rows(term, start, rows) for term in added])
        for start in range(0, length, rows)
    ]
    return mx.concatenate(blocks, axis=2)


def _added(mask: mx.array | None, bias: mx.array | None) -> list[mx.array]:
    """What is added to the scores. -inf is safe, since every query sees a key."""
    added = [] if bias is None else [bias.astype(mx.float32)]
    if mask is not None:
        added.append(mx.where(mask, 0.0, -mx.inf) if mask.dtype == mx.bool_ else mask.astype(mx.float32))
    return added


def _rows(term: mx.array, start: int, rows: int) -> mx.array:
    return term if term.shape[2] == 1 else term[:, :, start : start + rows]


def _mixed(queries: mx.array, keys: mx.array, values: mx.array, added: list[mx.array]) -> mx.array:
    scores = queries @ keys  # (B, H, C, L)
    for term in added:
        scores = scores + term
    # The factor comes last: before, it would round large scores, whose differences are what counts.
    powers = power_of_two_to_zero((scores - scores.max(axis=-1, keepdims=True)) * LOG2_E)
    return (powers @ values) / powers.sum(axis=-1, keepdims=True)
