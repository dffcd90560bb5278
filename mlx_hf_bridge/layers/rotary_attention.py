"""Self-attention with rotary positions, over all tokens or within a window.

Sources: rotary positions, Su et al., arXiv 2104.09864; grouped-query attention, Ainslie et al., arXiv 2305.13245;
query and key norms and soft-capped scores, Gemma 2 and 3, arXiv 2408.00118 and 2503.19786.

Axes: B texts, L tokens, D hidden size, H query heads, G heads of keys and values, K head width.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.local_attention import attend_locally, local_mask
from mlx_hf_bridge.layers.rotary import Rotation


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) with True for visible keys or None, and the batch's rotations. Returns
    (B, L, D).

    Args:
        hidden_size: D.
        heads: Query heads, H.
        head_dim: Head width K; None for D / H.
        key_heads: Heads of keys and values, G, if several query heads share one (grouped-query attention); the layer
            then has separate linear layers for queries and for keys and values. None for one fused layer and G = H.
        bias: Whether the linear layers have a bias.
        out_bias: Whether the output's linear layer has one; None for `bias`.
        window: Tokens on each side that a token attends to; None for all.
        rotation_index: Which of the batch's rotations this layer uses.
        rotates_values: Whether values are rotated too (RoFormer's `rotary_value`).
        scale: Factor of the scores; None for 1 / sqrt(K).
        query_norm: Norm of each head's queries (..., K) before the rotation, or None.
        key_norm: Norm of each head's keys (..., K) before the rotation, or None.
        cap: Soft cap of the scores by tanh, which needs the attention weights in memory; None for no cap.
        fused_by_head: Whether the rows of the fused layer are sorted by head, and within a head by query, key and value
            (NeoBERT), instead of the other way round.
    """

    def __init__(
        self,
        hidden_size: int,
        heads: int,
        head_dim: int | None = None,
        key_heads: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        window: int | None = None,
        rotation_index: int = 0,
        rotates_values: bool = False,
        scale: float | None = None,
        query_norm: nn.Module | None = None,
        key_norm: nn.Module | None = None,
        cap: float | None = None,
        fused_by_head: bool = False,
    ) -> None:
        super().__init__()
        width = head_dim or hidden_size // heads
        self.heads, self.key_heads, self.scale = heads, key_heads or heads, scale or width**-0.5
        self.window, self.rotation_index, self.rotates_values = window, rotation_index, rotates_values
        self.cap, self.fused_by_head = cap, fused_by_head
        if key_heads is None:
            self.qkv = Linear(hidden_size, 3 * heads * width, bias)
        else:
            # With fewer key heads, queries are wider than keys, so only keys and values are fused.
            self.query = Linear(hidden_size, heads * width, bias)
            self.kv = Linear(hidden_size, 2 * key_heads * width, bias)
        self.out = Linear(heads * width, hidden_size, bias if out_bias is None else out_bias)
        if query_norm is not None:
            self.query_norm = query_norm
        if key_norm is not None:
            self.key_norm = key_norm

    def __call__(self, x: mx.array, mask: mx.array | None, rotations: Sequence[Rotation]) -> mx.array:
        # A cap is a tanh of the scores, for which MLX's fused attention has no option.
        if self.cap is not None:
            return self.with_weights(x, mask, rotations)[0]
        queries, keys, values = self._rotated_heads(x, rotations)
        if self.window is None:
            attended = attend(queries, keys, values, self.scale, mask, None)
        else:
            attended = attend_locally(queries, keys, values, self.scale, mask, self.window)
        return self.out(merge_heads(attended))

    def with_weights(
        self, x: mx.array, mask: mx.array | None, rotations: Sequence[Rotation]
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            rotations: The batch's rotations.

        Returns:
            The output (B, L, D) and the attention weights (B, H, L, L), 0 outside the window.
        """
        queries, keys, values = self._rotated_heads(x, rotations)
        shared = self.heads // self.key_heads
        if shared > 1:
            keys, values = mx.repeat(keys, shared, axis=1), mx.repeat(values, shared, axis=1)
        if self.window is not None:
            mask = local_mask(x.shape[1], self.window, mask)
        attended, weights = attend_with_weights(queries, keys, values, self.scale, mask, None, self.cap)
        return self.out(merge_heads(attended)), weights

    def _rotated_heads(self, x: mx.array, rotations: Sequence[Rotation]) -> tuple[mx.array, mx.array, mx.array]:
        rotate = rotations[self.rotation_index]
        queries, keys, values = self._heads(x)
        # Heads are normalized before they are rotated: the norm's weights make the order matter.
        queries = self.query_norm(queries) if "query_norm" in self else queries
        keys = self.key_norm(keys) if "key_norm" in self else keys
        return rotate(queries), rotate(keys), rotate(values) if self.rotates_values else values

    def _heads(self, x: mx.array) -> list[mx.array]:
        """Return queries (B, H, L, K), keys and values (B, G, L, K)."""
        if self.fused_by_head:
            return list(mx.split(split_heads(self.qkv(x), self.heads), 3, axis=-1))
        if "qkv" in self:
            return [split_heads(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=-1)]
        keys, values = mx.split(self.kv(x), 2, axis=-1)
        return [split_heads(self.query(x), self.heads), *(split_heads(y, self.key_heads) for y in (keys, values))]
