"""One vector a text from its tokens, in the ways of sentence-transformers' Pooling module, always in float32.

Reference: sentence_transformers/sentence_transformer/modules/pooling.py. B texts, L tokens, D hidden.
"""

from collections.abc import Callable

import mlx.core as mx

from mlx_hf_bridge.layers.token_batch import TokenBatch

# torch.clamp(..., min=1e-9) and F.normalize's eps in the reference.
_SMALLEST_COUNT = 1e-9
_SMALLEST_NORM = 1e-12


def _first(hidden: mx.array, batch: TokenBatch) -> mx.array:
    return batch.take(hidden, mx.argmax(batch.token_mask(mx.int32)[:, :, 0], axis=1))


def _last(hidden: mx.array, batch: TokenBatch) -> mx.array:
    mask = batch.token_mask(mx.int32)[:, :, 0]
    places = mx.arange(mask.shape[1])[None]
    return batch.take(hidden, mx.max(mx.where(mask > 0, places, 0), axis=1))


def _largest(hidden: mx.array, batch: TokenBatch) -> mx.array:
    return mx.where(batch.token_mask(mx.bool_), hidden, -mx.inf).max(axis=1)


def _sum_and_count(hidden: mx.array, batch: TokenBatch) -> tuple[mx.array, mx.array]:
    mask = batch.token_mask(mx.float32)
    return (hidden * mask).sum(axis=1), mx.maximum(mask.sum(axis=1), _SMALLEST_COUNT)


def _mean(hidden: mx.array, batch: TokenBatch) -> mx.array:
    total, count = _sum_and_count(hidden, batch)
    return total / count


def _mean_sqrt(hidden: mx.array, batch: TokenBatch) -> mx.array:
    total, count = _sum_and_count(hidden, batch)
    return total / mx.sqrt(count)


def _weighted(hidden: mx.array, batch: TokenBatch, skipped: int = 0) -> mx.array:
    """Token n counts n times, counted from the first real token, a prompt that is left out included."""
    mask = batch.token_mask(mx.float32)
    weights = mask * (mx.cumsum(mask, axis=1) + skipped)
    return (hidden * weights).sum(axis=1) / mx.maximum(weights.sum(axis=1), _SMALLEST_COUNT)


# sentence-transformers' names, in the order in which it concatenates several.
POOLING_MODES: dict[str, Callable[[mx.array, TokenBatch], mx.array]] = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted,
    "lasttoken": _last,
}


def pool(hidden: mx.array, batch: TokenBatch, modes: tuple[str, ...], skipped: int = 0) -> mx.array:
    """hidden (B, L, D) -> (B, D x modes); the first `skipped` tokens (a prompt) are left out."""
    hidden = hidden.astype(mx.float32)
    kept = batch.without_first(skipped) if skipped else batch
    pooled = [
        _weighted(hidden, kept, skipped) if mode == "weightedmean" else POOLING_MODES[mode](hidden, kept)
        for mode in modes
    ]
    return pooled[0] if len(pooled) == 1 else mx.concatenate(pooled, axis=-1)


def normalize(vectors: mx.array) -> mx.array:
    """vectors (B, D) -> unit length each."""
    norms = mx.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / mx.maximum(norms, _SMALLEST_NORM)
