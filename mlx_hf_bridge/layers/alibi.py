"""Attention with linear biases (ALiBi): scores fall by a head's slope times the distance between query and key.

Sources: Press et al., arXiv 2108.12409; in both directions, as encoders need it: Günther et al., arXiv 2310.19923.

Axes: B texts, L tokens, D hidden size, H heads, K head width, C queries of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import Attention, attend, merge_heads, split_heads
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.padding import sum_finite_at_padding

# Biases of at most so many numbers (32 MiB in float32) are in memory at once; longer texts are computed in blocks of
# queries, so that memory grows with L and not with its square.
_MAX_BIASES = 2**23


def alibi_slopes(heads: int) -> list[float]:
    """Return the slope of each head: a geometric sequence from 2^(-8/H) to 2^-8 if H is a power of two.

    For another H, the slopes of the next lower power of two come first, then every second one of twice that number, as
    in the code of the paper (github.com/ofirpress/attention_with_linear_biases).

    Args:
        heads: Number of heads, H.

    Returns:
        H slopes, above 0.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes + [2.0 ** (-4 * (2 * head + 1) / power) for head in range(heads - power)]


@dataclass(frozen=True)
class DistanceBias:
    """What is added to the scores of texts of one length: minus the slope times the distance.

    Args:
        slopes: The slope of each head, (H,), float32.
        length: L.
        whole: The biases of all queries, (1, H, L, L), where they are few; None otherwise.
    """

    slopes: mx.array
    length: int
    whole: mx.array | None = None

    def rows(self, start: int, stop: int) -> mx.array:
        """Return the biases of some queries.

        Args:
            start: First query.
            stop: The query after the last one.

        Returns:
            Array of shape (1, H, stop - start, L).
        """
        if self.whole is not None:
            return self.whole[:, :, start:stop]
        keys = mx.arange(self.length, dtype=mx.float32)
        distances = mx.abs(keys[start:stop, None] - keys[None])
        return (-self.slopes[:, None, None] * distances)[None]


class LinearBias(nn.Module):
    """The biases of ALiBi. Takes the length L and returns a DistanceBias.

    Args:
        slopes: The slope of each head.
    """

    def __init__(self, slopes: Sequence[float]) -> None:
        super().__init__()
        # A tuple, since an array would be one of the module's parameters.
        self._slopes = tuple(slopes)

    def __call__(self, length: int) -> DistanceBias:
        bias = DistanceBias(mx.array(self._slopes), length)
        if len(self._slopes) * length**2 > _MAX_BIASES:
            return bias
        return DistanceBias(bias.slopes, length, bias.rows(0, length))


class AlibiAttention(Attention):
    """Multi-head self-attention with linear biases.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) with True for visible keys or None, and a DistanceBias. Returns (B, L, D).

    Args:
        hidden_size: D.
        heads: Number of heads, H.
        query_norm: Norm of the queries (B, L, D) before they are split into heads, or None.
        key_norm: Norm of the keys (B, L, D) before they are split into heads, or None.
    """

    def __init__(
        self, hidden_size: int, heads: int, query_norm: nn.Module | None = None, key_norm: nn.Module | None = None
    ) -> None:
        super().__init__(hidden_size, heads)
        if query_norm is not None:
            self.query_norm = query_norm
        if key_norm is not None:
            self.key_norm = key_norm

    def __call__(self, x: mx.array, mask: mx.array | None, bias: DistanceBias) -> mx.array:  # type: ignore[override]
        queries, keys, values = self._heads(x)
        batch, heads, length, _ = queries.shape
        count = length if bias.whole is not None else max(1, _MAX_BIASES // (batch * heads * length))
        blocks = [
            attend(
                queries[:, :, start : start + count],
                keys,
                values,
                self.scale,
                mask if mask is None or mask.shape[2] == 1 else mask[:, :, start : start + count],
                bias.rows(start, min(start + count, length)),
            )
            for start in range(0, length, count)
        ]
        return self.out(merge_heads(blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)))

    def with_weights(  # type: ignore[override]
        self, x: mx.array, mask: mx.array | None, bias: DistanceBias
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            bias: The biases of this length.

        Returns:
            The output (B, L, D) and the attention weights (B, H, L, L).
        """
        return super().with_weights(x, mask, bias.rows(0, bias.length))

    def first_token(  # type: ignore[override]
        self, x: mx.array, mask: mx.array | None, bias: DistanceBias
    ) -> mx.array:
        """Compute the output at position 0 only; keys and values are those of all positions.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            bias: The biases of this length.

        Returns:
            The output of shape (B, 1, D).
        """
        return super().first_token(x, mask, bias.rows(0, 1))

    def _heads(self, x: mx.array) -> list[mx.array]:
        queries, keys, values = mx.split(self.qkv(x), 3, axis=-1)
        # Over all heads together, unlike the norms of single heads in Gemma 3 and Qwen3.
        queries = self.query_norm(queries) if "query_norm" in self else queries
        keys = self.key_norm(keys) if "key_norm" in self else keys
        return [split_heads(part, self.heads) for part in (queries, keys, values)]


class DoubleResidualLayer(nn.Module):
    """A layer whose input is added twice around attention: norm(x + norm(x + attention(x))), then a feed-forward block.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) or None, the attention's bias, and the recorder. Returns (B, L, D).
    JinaBERT with query and key norms has it (jinaai/jina-bert-v2-qk-post-norm).

    Args:
        attention: The attention module.
        feed_forward: The feed-forward block, (B, L, D) -> (B, L, D).
        hidden_size: D.
        eps: Epsilon of the three layer norms.
    """

    def __init__(self, attention: AlibiAttention, feed_forward: nn.Module, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = LayerNorm(hidden_size, eps=eps)
        self.residual_norm = LayerNorm(hidden_size, eps=eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: DistanceBias, recorder: OutputRecorder) -> mx.array:
        if recorder.output_attentions:
            attended, weights = self.attention.with_weights(x, mask, bias)
            recorder.record_attention(weights)
        else:
            attended = self.attention(x, mask, bias)
        x = self.residual_norm(x + self.attention_norm(x + attended))
        normed: mx.array = self.feed_forward_norm(sum_finite_at_padding(x, self.feed_forward(x), mask, x.dtype))
        return normed
