"""DeBERTa's disentangled attention: scores of contents plus scores of contents and relative positions.

Sources: He et al., "DeBERTa", arXiv 2006.03654, section 3.1; talking heads, Shazeer et al., arXiv 2003.02436.

Axes: B texts, L tokens, D hidden size, H heads, K head width (D / H), R rows of the relative position table that L
tokens reach.
"""

from collections.abc import Collection
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.relative_positions import RelativePositions

Heads = tuple[mx.array, mx.array, mx.array]


class QueryKeyValueProjection(nn.Module):
    """Linear layers for queries, keys and values (DeBERTa v2); queries and keys are fused.

    Takes x (B, L, D) and returns queries, keys and values, (B, H, L, K) each. Values have a layer of their own, because
    relative positions may share the layer of queries and keys (`share_att_key`).

    Args:
        hidden_size: D.
        heads: H.
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.query_key = Linear(hidden_size, 2 * hidden_size)
        self.value = Linear(hidden_size, hidden_size)
        self.heads = heads

    def __call__(self, x: mx.array) -> Heads:
        queries, keys = self.queries_keys(x)
        return queries, keys, split_heads(self.value(x), self.heads)

    def queries_keys(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Project to queries and keys only.

        Args:
            x: (B, L, D), or relative position embeddings (1, R, D).

        Returns:
            Queries and keys, (B, H, L, K) each.
        """
        queries, keys = mx.split(self.query_key(x), 2, axis=-1)
        return split_heads(queries, self.heads), split_heads(keys, self.heads)


class HeadwiseProjection(nn.Module):
    """DeBERTa v1's linear layer, with queries, keys and values of each head next to each other; keys have no bias.

    Takes x (B, L, D) and returns queries, keys and values, (B, H, L, K) each.

    Args:
        hidden_size: D.
        heads: H.
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.qkv = Linear(hidden_size, 3 * hidden_size, bias=False)
        self.q_bias = mx.zeros((hidden_size,))
        self.v_bias = mx.zeros((hidden_size,))
        self.heads = heads

    def __call__(self, x: mx.array) -> Heads:
        queries, keys, values = mx.split(split_heads(self.qkv(x), self.heads), 3, axis=-1)
        by_head = (self.heads, 1, -1)
        return queries + self.q_bias.reshape(by_head), keys, values + self.v_bias.reshape(by_head)


class PositionProjection(nn.Module):
    """Linear layers of relative positions.

    Takes relative position embeddings (1, R, D) and returns their queries and keys, (1, H, R, K) or None each.

    Args:
        heads: H.
        query: Linear layer of queries, for the "p2c" scores, or None.
        key: Linear layer of keys, for the "c2p" scores, or None.
    """

    def __init__(self, heads: int, query: Linear | None, key: Linear | None) -> None:
        super().__init__()
        if query is not None:
            self.query = query
        if key is not None:
            self.key = key
        self.heads = heads

    def __call__(self, embeddings: mx.array) -> tuple[mx.array | None, mx.array | None]:
        return (
            split_heads(self.query(embeddings), self.heads) if "query" in self else None,
            split_heads(self.key(embeddings), self.heads) if "key" in self else None,
        )


class TalkingHeads(nn.Module):
    """Linear layers across heads, before and after softmax.

    Takes scores (B, H, L, L) and mask (B, 1, 1, L) with True for visible keys or None. Returns attention weights
    (B, H, L, L). Source: Shazeer et al., arXiv 2003.02436.

    Args:
        heads: H.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        # mlx.nn.Linear and not the Linear of this package, so that no recipe quantizes these H x H numbers.
        self.scores = nn.Linear(heads, heads, bias=False)
        self.weights = nn.Linear(heads, heads, bias=False)

    def __call__(self, scores: mx.array, mask: mx.array | None) -> mx.array:
        scores = _across_heads(self.scores, scores)
        if mask is not None:
            # Masked after the first linear layer, which would spread -inf to all heads.
            # A text without tokens has nothing to mask, which softmax would turn into NaN.
            visible = mx.logical_or(mask, mx.logical_not(mask.any(axis=-1, keepdims=True)))
            scores = mx.where(visible, scores, mx.array(-mx.inf, scores.dtype))
        return _across_heads(self.weights, mx.softmax(scores, axis=-1, precise=True))


def _across_heads(linear: nn.Module, x: mx.array) -> mx.array:
    """Apply a linear layer to the head axis of x (B, H, L, L)."""
    mixed: mx.array = linear(x.transpose(0, 2, 3, 1))
    return mixed.transpose(0, 3, 1, 2)


class DisentangledAttention(nn.Module):
    """DeBERTa's self-attention.

    Takes x (B, L, D), mask (B, 1, 1, L) with True for visible keys or None, and the batch's RelativePositions or None.
    Returns (B, L, D).

    Args:
        hidden_size: D.
        heads: H.
        projection: Linear layers of queries, keys and values.
        sides: Scores to add to those of contents, as in config.json's `pos_att_type`: "c2p", content to position, and
            "p2c", position to content.
        scale_factor: Number of score terms, by which the scale is divided: scores are divided by
            sqrt(K x scale_factor).
        position_projection: Linear layers of relative positions; None to share those of contents (`share_att_key`).
        talking: Linear layers across heads, or None.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        projection: QueryKeyValueProjection | HeadwiseProjection,
        sides: Collection[str],
        scale_factor: int,
        position_projection: PositionProjection | None = None,
        talking: TalkingHeads | None = None,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.out = Linear(hidden_size, hidden_size)
        if position_projection is not None:
            self.position_projection = position_projection
        if talking is not None:
            self.talking = talking
        # scale_factor is 1 plus the number of position terms: the more terms are added, the larger the scores.
        self._scale = (hidden_size // heads * scale_factor) ** -0.5
        self._sides = frozenset(sides)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: RelativePositions | None) -> mx.array:
        # Fused attention cannot apply a linear layer between scores and softmax.
        if "talking" in self:
            return self.with_weights(x, mask, bias)[0]
        queries, keys, values = self.projection(x)
        added = self._position_scores(queries, keys, bias)
        return self.out(merge_heads(attend(queries, keys, values, self._scale, mask, added)))

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: RelativePositions | None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1, L), or None.
            bias: The batch's relative positions, or None.

        Returns:
            The output (B, L, D) and the attention weights (B, H, L, L).
        """
        queries, keys, values = self.projection(x)
        added = self._position_scores(queries, keys, bias)
        if "talking" in self:
            scores = (queries * self._scale) @ keys.swapaxes(-1, -2)
            weights = self.talking(scores if added is None else scores + added, mask)
            attended = weights @ values
        else:
            attended, weights = attend_with_weights(queries, keys, values, self._scale, mask, added)
        return self.out(merge_heads(attended)), weights

    def _position_scores(
        self, queries: mx.array, keys: mx.array, relative: RelativePositions | None
    ) -> mx.array | None:
        """Return the scores between contents and relative positions, (B, H, L, L)."""
        if relative is None or not self._sides:
            return None
        # (1, 1, L, L), broadcast over texts and heads.
        index = relative.index[None, None]
        position_queries, position_keys = self._project_positions(relative.embeddings[None])
        added = []
        if "c2p" in self._sides:
            scores = (queries * self._scale) @ position_keys.swapaxes(-1, -2)  # (B, H, L, R)
            # Every query is scored against the R distances once, then each key reads the score of its distance.
            added.append(mx.take_along_axis(scores, index, axis=-1))
        if "p2c" in self._sides:
            scores = (position_queries * self._scale) @ keys.swapaxes(-1, -2)  # (B, H, R, L)
            added.append(mx.take_along_axis(scores, index, axis=-2))
        return added[0] if len(added) == 1 else added[0] + added[1]

    def _project_positions(self, embeddings: mx.array) -> Any:
        if "position_projection" in self:
            return self.position_projection(embeddings)
        # DeBERTa v2 with `share_att_key` projects positions by the layer's own queries and keys.
        return self.projection.queries_keys(embeddings)
