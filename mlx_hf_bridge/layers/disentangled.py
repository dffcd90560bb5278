"""Disentangled attention (He et al., arXiv 2006.03654, section 3.1): scores of contents and of relative places.

B texts, L tokens, D hidden, H heads, K = D / H, R rows of the table of relative places that L tokens reach.
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
    """x (B, L, D) -> queries, keys, values (B, H, L, K); queries and keys apart from values, for sharing."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.query_key = Linear(hidden_size, 2 * hidden_size)
        self.value = Linear(hidden_size, hidden_size)
        self.heads = heads

    def __call__(self, x: mx.array) -> Heads:
        queries, keys = self.queries_keys(x)
        return queries, keys, split_heads(self.value(x), self.heads)

    def queries_keys(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """x (B, L, D) -> (B, H, L, K) each."""
        queries, keys = mx.split(self.query_key(x), 2, axis=-1)
        return split_heads(queries, self.heads), split_heads(keys, self.heads)


class HeadwiseProjection(nn.Module):
    """DeBERTa's first form: each head's three parts lie together, and only queries and values have a bias."""

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
    """vectors of places (1, R, D) -> their queries and keys (1, H, R, K), each where it has a product."""

    def __init__(self, heads: int, query: Linear | None, key: Linear | None) -> None:
        super().__init__()
        if query is not None:
            self.query = query
        if key is not None:
            self.key = key
        self.heads = heads

    def __call__(self, vectors: mx.array) -> tuple[mx.array | None, mx.array | None]:
        return (
            split_heads(self.query(vectors), self.heads) if "query" in self else None,
            split_heads(self.key(vectors), self.heads) if "key" in self else None,
        )


class TalkingHeads(nn.Module):
    """A product over heads of scores, and one of weights (Shazeer et al., arXiv 2003.02436)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        # Not our Linear, so that no recipe packs them: H x H numbers.
        self.scores = nn.Linear(heads, heads, bias=False)
        self.weights = nn.Linear(heads, heads, bias=False)

    def __call__(self, scores: mx.array, mask: mx.array | None) -> mx.array:
        """scores (B, H, L, L) -> weights (B, H, L, L)."""
        scores = _over_heads(self.scores, scores)
        if mask is not None:
            scores = mx.where(mask, scores, mx.array(-mx.inf, scores.dtype))
        return _over_heads(self.weights, mx.softmax(scores, axis=-1, precise=True))


def _over_heads(product: nn.Module, x: mx.array) -> mx.array:
    mixed: mx.array = product(x.transpose(0, 2, 3, 1))
    return mixed.transpose(0, 3, 1, 2)


class DisentangledAttention(nn.Module):
    """x (B, L, D), mask (B, 1, 1, L), the relative places -> (B, L, D).

    `sides` names what is added to the scores of contents: "c2p", contents to places, and "p2c", places to contents;
    `scale_factor` is the number of scores that their scale counts.
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
        self._scale = (hidden_size // heads * scale_factor) ** -0.5
        self._sides = frozenset(sides)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: RelativePositions | None) -> mx.array:
        if "talking" in self:
            return self.with_weights(x, mask, bias)[0]
        queries, keys, values = self.projection(x)
        added = self._added(queries, keys, bias)
        return self.out(merge_heads(attend(queries, keys, values, self._scale, mask, added)))

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: RelativePositions | None
    ) -> tuple[mx.array, mx.array]:
        """The same, with the attention weights (B, H, L, L) spelled out."""
        queries, keys, values = self.projection(x)
        added = self._added(queries, keys, bias)
        if "talking" in self:
            scores = (queries * self._scale) @ keys.swapaxes(-1, -2)
            weights = self.talking(scores if added is None else scores + added, mask)
            mixed = weights @ values
        else:
            mixed, weights = attend_with_weights(queries, keys, values, self._scale, mask, added)
        return self.out(merge_heads(mixed)), weights

    def _added(self, queries: mx.array, keys: mx.array, relative: RelativePositions | None) -> mx.array | None:
        """The scores that places have a part in (B, H, L, L)."""
        if relative is None or not self._sides:
            return None
        index = relative.index[None, None]
        place_queries, place_keys = self._placed(relative.vectors[None])
        added = []
        if "c2p" in self._sides:
            scores = (queries * self._scale) @ place_keys.swapaxes(-1, -2)  # (B, H, L, R)
            added.append(mx.take_along_axis(scores, index, axis=-1))
        if "p2c" in self._sides:
            scores = (place_queries * self._scale) @ keys.swapaxes(-1, -2)  # (B, H, R, L)
            added.append(mx.take_along_axis(scores, index, axis=-2))
        return added[0] if len(added) == 1 else added[0] + added[1]

    def _placed(self, vectors: mx.array) -> Any:
        return (
            self.position_projection(vectors)
            if "position_projection" in self
            else self.projection.queries_keys(vectors)
        )
