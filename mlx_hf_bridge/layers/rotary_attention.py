"""Self-attention whose queries and keys are turned by their places, over all tokens or near ones.

B texts, L tokens, D hidden, H heads, K width of a head, G heads of keys and values.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.local_attention import attend_locally, local_mask
from mlx_hf_bridge.layers.rotary import Rotation


class RotaryAttention(nn.Module):
    """x (B, L, D), mask (B, 1, 1, L) True = visible, the batch's turns -> (B, L, D).

    key_heads: G, for keys and values that several queries share, with products of their own; None joins the three.
    window: how far a token sees, None = everywhere. turn: which of the turns is this layer's. scale: of the scores,
    None = one by the root of K. cap: of the scores, by tanh; such layers spell their weights out.
    query_norm, key_norm: of each head's (..., K), before they are turned.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        head_dim: int | None = None,
        key_heads: int | None = None,
        bias: bool = True,
        window: int | None = None,
        rotation_index: int = 0,
        rotates_values: bool = False,
        scale: float | None = None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        cap: float | None = None,
    ) -> None:
        super().__init__()
        width = head_dim or hidden_size // heads
        self.heads, self.key_heads, self.scale = heads, key_heads or heads, scale or width**-0.5
        self.window, self.rotation_index, self.rotates_values, self.cap = window, rotation_index, rotates_values, cap
        if key_heads is None:
            self.qkv = Linear(hidden_size, 3 * heads * width, bias)
        else:
            self.query = Linear(hidden_size, heads * width, bias)
            self.kv = Linear(hidden_size, 2 * key_heads * width, bias)
        self.out = Linear(heads * width, hidden_size, bias)
        if query_norm is not None:
            self.query_norm = query_norm
        if key_norm is not None:
            self.key_norm = key_norm

    def __call__(self, x: mx.array, mask: mx.array | None, turns: Sequence[Rotation]) -> mx.array:
        if self.cap is not None:
            return self.with_weights(x, mask, turns)[0]
        queries, keys, values = self._turned(x, turns)
        if self.window is None:
            mixed = attend(queries, keys, values, self.scale, mask, None)
        else:
            mixed = attend_locally(queries, keys, values, self.scale, mask, self.window)
        return self.out(merge_heads(mixed))

    def with_weights(self, x: mx.array, mask: mx.array | None, turns: Sequence[Rotation]) -> tuple[mx.array, mx.array]:
        """The same, with the attention weights (B, H, L, L) spelled out."""
        queries, keys, values = self._turned(x, turns)
        shared = self.heads // self.key_heads
        if shared > 1:
            keys, values = mx.repeat(keys, shared, axis=1), mx.repeat(values, shared, axis=1)
        if self.window is not None:
            mask = local_mask(x.shape[1], self.window, mask)
        mixed, weights = attend_with_weights(queries, keys, values, self.scale, mask, None, self.cap)
        return self.out(merge_heads(mixed)), weights

    def _turned(self, x: mx.array, turns: Sequence[Rotation]) -> tuple[mx.array, mx.array, mx.array]:
        rotation_index = turns[self.rotation_index]
        queries, keys, values = self._heads(x)
        queries = self.query_norm(queries) if "query_norm" in self else queries
        keys = self.key_norm(keys) if "key_norm" in self else keys
        return rotation_index(queries), rotation_index(keys), rotation_index(values) if self.rotates_values else values

    def _heads(self, x: mx.array) -> list[mx.array]:
        """x (B, L, D) -> queries (B, H, L, K), keys and values (B, G, L, K)."""
        if "qkv" in self:
            return [split_heads(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=-1)]
        keys, values = mx.split(self.kv(x), 2, axis=-1)
        return [split_heads(self.query(x), self.heads), *(split_heads(y, self.key_heads) for y in (keys, values))]
