"""Funnel-Transformer's parts: relative attention between pooled and unpooled tokens, pooling, and upsampling.

Source: Dai et al., arXiv 2006.03236, appendix A.2; reference: transformers/models/funnel/modeling_funnel.py. Both kinds
of attention there, "relative_shift" and "factorized", score a vector of sines and cosines of the distance between a
query and a key; they differ in how distances of pooled tokens are counted.

Axes: B texts, Q queries, L keys, D hidden size, H heads, K head width, T distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.single_batch import start_evaluation
from mlx_hf_bridge.layers.token_batch import TokenBatch

# Token type of [CLS], which belongs to both segments (cls_token_type_id).
_CLS_TYPE = 2
# What a hidden key's score is lowered by (INF).
_HIDDEN = 1e6
# The same for float16, which ends at 65504.
_HIDDEN_IN_HALF = 3e4


@dataclass(frozen=True)
class Pairs:
    """What attention needs to know of the pairs of queries and keys.

    Args:
        waves: Sines and cosines of the distances that occur, (T, D).
        distance: Index of each pair's distance, (Q, L), int32.
        same_segment: True where both have the same token type, (1 or B, Q, L).
        counted: False for pairs with [CLS], for which position and segment do not count, (Q, L); None if all do.
        padding: 1 for padding, 0 for real tokens, (B, 1, 1, L), or None.
    """

    waves: mx.array
    distance: mx.array
    same_segment: mx.array
    counted: mx.array | None
    padding: mx.array | None


class FunnelAttention(nn.Module):
    """Attention of pooled or unpooled queries to keys, with scores of content, distance and segment, then a norm.

    Takes queries (B, Q, D), keys (B, L, D), their Pairs and the recorder. Returns (B, Q, D).

    Args:
        hidden_size: D.
        heads: H.
        width: K.
        eps: Epsilon of the norm.
    """

    def __init__(self, hidden_size: int, heads: int, width: int, eps: float) -> None:
        super().__init__()
        self.query = Linear(hidden_size, heads * width, bias=False)
        self.kv = Linear(hidden_size, 2 * heads * width)
        self.out = Linear(heads * width, hidden_size)
        self.norm = LayerNorm(hidden_size, eps=eps)
        self.r_w_bias, self.r_r_bias, self.r_s_bias = (mx.zeros((heads, width)) for _ in range(3))
        self.r_kernel = mx.zeros((hidden_size, heads, width))
        self.seg_embed = mx.zeros((2, heads, width))
        self.heads, self.scale = heads, width**-0.5

    def __call__(self, x: mx.array, context: mx.array, pairs: Pairs, recorder: OutputRecorder) -> mx.array:
        queries = split_heads(self.query(x), self.heads)
        keys, values = (split_heads(part, self.heads) for part in mx.split(self.kv(context), 2, axis=-1))
        bias = self._position_scores(queries, pairs) + self._segment_scores(queries, pairs)
        if pairs.counted is not None:
            bias = bias * pairs.counted.astype(bias.dtype)
        if pairs.padding is not None:
            # -inf would give NaN where all keys are hidden.
            bias = bias - (pairs.padding * (_HIDDEN_IN_HALF if x.dtype == mx.float16 else _HIDDEN)).astype(x.dtype)
        content = queries + self.r_w_bias[:, None]
        if recorder.output_attentions:
            attended, weights = attend_with_weights(content, keys, values, self.scale, None, bias)
            recorder.record_attention(weights)
        else:
            attended = attend(content, keys, values, self.scale, None, bias)
        normed: mx.array = self.norm(x + self.out(merge_heads(attended)))
        return normed

    def _position_scores(self, queries: mx.array, pairs: Pairs) -> mx.array:
        """Return the scores of distances, (B, H, Q, L)."""
        waves = pairs.waves.astype(queries.dtype) @ self.r_kernel.reshape(self.r_kernel.shape[0], -1)  # (T, H x K)
        keys = waves.reshape(len(waves), self.heads, -1).transpose(1, 2, 0)  # (H, K, T)
        scores = ((queries + self.r_r_bias[:, None]) * self.scale) @ keys
        return mx.take_along_axis(scores, pairs.distance[None, None], axis=-1)

    def _segment_scores(self, queries: mx.array, pairs: Pairs) -> mx.array:
        """Return the scores of segments, (B, H, Q, L)."""
        scores = ((queries + self.r_s_bias[:, None]) * self.scale) @ self.seg_embed.transpose(1, 2, 0)  # (B, H, Q, 2)
        return mx.where(pairs.same_segment[:, None], scores[..., 1:], scores[..., :1])


class FunnelLayer(nn.Module):
    """A layer: attention, then a feed-forward block, a sum and a norm.

    Takes queries (B, Q, D), keys (B, L, D), their Pairs and the recorder. Returns (B, Q, D).

    Args:
        attention: The attention module.
        feed_forward: The feed-forward block.
        hidden_size: D.
        eps: Epsilon of the norm.
    """

    def __init__(self, attention: FunnelAttention, feed_forward: nn.Module, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.feed_forward_norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, x: mx.array, context: mx.array, pairs: Pairs, recorder: OutputRecorder) -> mx.array:
        x = self.attention(x, context, pairs, recorder)
        x = self.feed_forward_norm(x + self.feed_forward(x))
        start_evaluation(x)
        recorder.record_hidden_state(x)
        return x


class FunnelBlock(nn.Module):
    """The layers of a block, which work on tokens pooled as often.

    Args:
        layers: The layers.
    """

    def __init__(self, layers: Sequence[FunnelLayer]) -> None:
        super().__init__()
        self.layers = list(layers)


@dataclass(frozen=True)
class Pooling:
    """How tokens are pooled between blocks.

    Args:
        takes_maximum: Whether a pair of tokens becomes their maximum; otherwise their mean.
        separate_cls: Whether [CLS] is a pair of its own.
        truncates: Whether the last token then makes room for it.
        queries_only: Whether the first layer of a block attends to the unpooled tokens.
        is_factorized: Whether distances are counted between the first tokens of each pair; otherwise from the first
            pair on, in steps of a pair.
    """

    takes_maximum: bool
    separate_cls: bool
    truncates: bool
    queries_only: bool
    is_factorized: bool

    def shortest(self, blocks: int) -> int:
        """Return the fewest tokens that transformers can compute.

        Args:
            blocks: Number of blocks.

        Returns:
            A number of tokens.
        """
        if self.separate_cls and self.truncates and not self.is_factorized:
            return (1 << (blocks - 1)) + 1
        return 1

    def pool(self, x: mx.array, how: str) -> mx.array:
        """Pool pairs of neighbors.

        Args:
            x: (B, L) or (B, L, D).
            how: "mean", "max" or "min".

        Returns:
            (B, Q) or (B, Q, D).
        """
        if self.separate_cls:
            x = mx.concatenate([x[:, :1], x[:, :-1] if self.truncates else x], axis=1)
        if x.shape[1] % 2:
            # The last one has no neighbor.
            x = mx.concatenate([x, x[:, -1:]], axis=1)
        pairs = x.reshape(x.shape[0], -1, 2, *x.shape[2:])
        pooled: mx.array = getattr(pairs, how)(axis=2)
        return pooled

    def stride(self, x: np.ndarray) -> np.ndarray:
        """Take the first of each pair of tokens.

        Args:
            x: One value for each token, (L,).

        Returns:
            Array of shape (Q,).
        """
        if not self.separate_cls:
            return x[::2]
        return np.concatenate([x[:1], x])[: -1 if self.truncates else None : 2]

    def pool_hidden(self, x: mx.array) -> mx.array:
        """Pool hidden states as config.json says.

        Args:
            x: Hidden states, (B, L, D).

        Returns:
            Array of shape (B, Q, D).
        """
        return self.pool(x, "max" if self.takes_maximum else "mean")


class Tokens:
    """The tokens of a batch at one depth: where they come from, and which are padding.

    Args:
        batch: The batch.
        width: D.
        pooling: How tokens are pooled.
    """

    def __init__(self, batch: TokenBatch, width: int, pooling: Pooling) -> None:
        self.types, self.width, self.pooling = batch.token_type_ids, width, pooling
        self.places = np.arange(batch.ids.shape[1])
        self.real = None if batch.mask is None else batch.mask.astype(mx.float32)

    def pool(self, places: np.ndarray, real: mx.array | None) -> None:
        """Replace the tokens by pooled ones.

        Args:
            places: Where they come from, (Q,).
            real: 1 for real tokens, 0 for padding, (B, Q), or None if all are real.
        """
        self.places, self.real = places, real

    def pairs(self, queries: np.ndarray, block: int) -> Pairs:
        """Return what a block's attention needs.

        Args:
            queries: First token of each query, (Q,).
            block: Index of the block.

        Returns:
            The pairs of queries and the tokens.
        """
        index = self._distances(queries, block)
        found, inverse = np.unique(index, return_inverse=True)
        same = self._same_segment(queries)
        counted = None
        if self.pooling.separate_cls:
            counted = mx.array((np.arange(len(queries))[:, None] > 0) & (np.arange(len(self.places)) > 0))
        padding = None if self.real is None else (1 - self.real)[:, None, None]
        distance = mx.array(inverse.reshape(index.shape).astype(np.int32))
        return Pairs(_waves(found, self.width), distance, same, counted, padding)

    def _distances(self, queries: np.ndarray, block: int) -> np.ndarray:
        """Return the distance of each query to each token, (Q, L)."""
        if self.pooling.is_factorized:
            return queries[:, None] - self.places[None]
        rows, columns = np.arange(len(queries))[:, None], np.arange(len(self.places))[None]
        if len(queries) == len(self.places):
            return np.asarray((rows - columns) * 2**block)
        step = 2 ** (block - 1)
        # Under a separate [CLS], pairs start one token earlier.
        return np.asarray((2 * rows - columns - self.pooling.separate_cls) * step)

    def _same_segment(self, queries: np.ndarray) -> mx.array:
        if self.types is None:
            return mx.ones((1, len(queries), len(self.places)), mx.bool_)
        one, other = self.types[:, mx.array(queries)][:, :, None], self.types[:, mx.array(self.places)][:, None]
        return mx.logical_or(one == other, mx.logical_or(one == _CLS_TYPE, other == _CLS_TYPE))


def _waves(distances: np.ndarray, width: int) -> mx.array:
    """Return sines and cosines of distances (T,) at all frequencies, (T, D)."""
    frequencies = 1 / 10000 ** (np.arange(width // 2, dtype=np.float32) / np.float32(width // 2))
    angles = distances.astype(np.float32)[:, None] * frequencies.astype(np.float32)[None]
    return mx.array(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
