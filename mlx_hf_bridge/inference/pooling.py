"""Pooling: one embedding per text from its tokens, in the modes of sentence-transformers' Pooling module.

Everything is computed in float32. Reference: sentence_transformers/sentence_transformer/modules/pooling.py.

Axes: B texts, L tokens, D hidden size.
"""

from collections.abc import Callable

import mlx.core as mx

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.device import fused

# torch.clamp(..., min=1e-9) in the reference: a text without tokens gets 0 instead of NaN.
_MIN_COUNT = 1e-9
# The eps of torch.nn.functional.normalize in the reference: an embedding of 0 stays 0.
_MIN_NORM = 1e-12


def pool(
    hidden: mx.array,
    batch: TokenBatch,
    modes: tuple[str, ...],
    skipped: int = 0,
    weights_sum: mx.array | None = None,
) -> mx.array:
    """Pool token embeddings to one embedding per text.

    Args:
        hidden: Token embeddings, (B, L, D).
        batch: The batch, whose mask is read.
        modes: Names in POOLING_MODES; several are concatenated.
        skipped: Number of first tokens to exclude, i.e. those of a prompt.
        weights_sum: What means divide by instead of the number of tokens, (B,), or None.

    Returns:
        Embeddings of shape (B, D x number of modes), float32.

    Raises:
        InputError: If the model has fewer states than tokens, of which only the first can be chosen (Funnel).
    """
    states, tokens = hidden.shape[1], batch.ids.shape[1]
    if states != tokens and set(modes) != {"cls"}:
        raise InputError(
            f"the model gives {states} states for {tokens} tokens, since it pools them itself, and the pooling modes "
            f"{modes} need one for each token. Use the pooling mode 'cls', or a checkpoint with a decoder."
        )
    kept = batch.without_first(skipped) if skipped else batch
    pooled = []
    for mode in modes:
        one = _weighted_mean(hidden, kept, skipped) if mode == "weightedmean" else POOLING_MODES[mode](hidden, kept)
        one = one.astype(mx.float32)
        pooled.append(one if weights_sum is None else _rescaled(one, kept, mode, skipped, weights_sum))
    return pooled[0] if len(pooled) == 1 else mx.concatenate(pooled, axis=-1)


@fused
def normalize(vectors: mx.array) -> mx.array:
    """Scale vectors to unit length; vectors of 0 stay 0.

    Args:
        vectors: (B, D).

    Returns:
        Array of shape (B, D).
    """
    norms = mx.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / mx.maximum(norms, _MIN_NORM)


def _first(hidden: mx.array, batch: TokenBatch) -> mx.array:
    # The first real token and not position 0, since rows may be padded on the left.
    return batch.take(hidden, mx.argmax(batch.token_mask(mx.int32)[:, :, 0], axis=1))


def _last(hidden: mx.array, batch: TokenBatch) -> mx.array:
    mask = batch.token_mask(mx.int32)[:, :, 0]
    positions = mx.arange(mask.shape[1])[None]
    # Without a token it is 0, as in the reference, where the mean is 0 too.
    return batch.take(hidden, mx.max(mx.where(mask > 0, positions, 0), axis=1)) * mask.max(axis=1, keepdims=True)


def _max(hidden: mx.array, batch: TokenBatch) -> mx.array:
    # -inf never wins while there is a real token.
    return mx.where(batch.token_mask(mx.bool_), hidden, -mx.inf).max(axis=1)


def _sum_and_count(hidden: mx.array, mask: mx.array) -> tuple[mx.array, mx.array]:
    """Return the sum of the tokens (B, D) and their number (B, 1), at least _MIN_COUNT, for a bool mask (B, L, 1)."""
    # Sums over a long text can exceed what half precision holds. Chosen and not multiplied: padding may be infinite.
    total = mx.where(mask, hidden.astype(mx.float32), 0).sum(axis=1)
    return total, mx.maximum(mask.sum(axis=1).astype(mx.float32), _MIN_COUNT)


@fused
def _masked_mean(hidden: mx.array, mask: mx.array) -> mx.array:
    total, count = _sum_and_count(hidden, mask)
    return total / count


@fused
def _masked_mean_sqrt(hidden: mx.array, mask: mx.array) -> mx.array:
    total, count = _sum_and_count(hidden, mask)
    return total / mx.sqrt(count)


def _mean(hidden: mx.array, batch: TokenBatch) -> mx.array:
    return _masked_mean(hidden, batch.token_mask(mx.bool_))


def _mean_sqrt(hidden: mx.array, batch: TokenBatch) -> mx.array:
    return _masked_mean_sqrt(hidden, batch.token_mask(mx.bool_))


def _weighted_mean(hidden: mx.array, batch: TokenBatch, skipped: int = 0) -> mx.array:
    """Return the mean with weight n for token n, counted from the first real token and including an excluded prompt."""
    mask = batch.token_mask(mx.float32)
    hidden = mx.where(mask > 0, hidden.astype(mx.float32), 0)
    weights = mask * (mx.cumsum(mask, axis=1) + skipped)
    return (hidden * weights).sum(axis=1) / mx.maximum(weights.sum(axis=1), _MIN_COUNT)


def _rescaled(pooled: mx.array, batch: TokenBatch, mode: str, skipped: int, weights_sum: mx.array) -> mx.array:
    """Return a mean divided by the sum of its tokens' weights instead of their number; other modes as they are."""
    mask = batch.token_mask(mx.float32)[:, :, 0]
    given, counts = (mx.maximum(one, _MIN_COUNT)[:, None] for one in (weights_sum, mask.sum(axis=1)))
    if mode == "weightedmean":
        return (
            pooled * mx.maximum((mask * (mx.cumsum(mask, axis=1) + skipped)).sum(axis=1), _MIN_COUNT)[:, None] / given
        )
    if mode not in ("mean", "mean_sqrt_len_tokens"):
        return pooled
    return pooled * (counts / given if mode == "mean" else mx.sqrt(counts) / mx.sqrt(given))


# Names in sentence-transformers, in the order in which it concatenates several.
POOLING_MODES: dict[str, Callable[[mx.array, TokenBatch], mx.array]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
