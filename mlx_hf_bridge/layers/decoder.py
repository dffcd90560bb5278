"""A decoder behind an encoder, run once over given tokens: causal self-attention, cross-attention, feed-forward block.

Sources: Vaswani et al., arXiv 1706.03762; BART (Lewis et al., arXiv 1910.13461); T5 (Raffel et al., arXiv 1910.10683).

Axes: B texts, T decoder tokens, L encoder tokens, D hidden size, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import Attention, attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.embeddings import PositionsAndNorm
from mlx_hf_bridge.layers.encoder import Encoder, OutputRecorder
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.padding import sum_finite_at_padding
from mlx_hf_bridge.layers.pre_norm import residual
from mlx_hf_bridge.layers.single_batch import start_evaluation
from mlx_hf_bridge.layers.token_batch import TokenBatch

# Takes a block's input (B, T, D) and returns its output of the same shape.
_Block = Callable[[mx.array], mx.array]


class CrossAttention(nn.Module):
    """Multi-head attention of a decoder's tokens to the encoder's last hidden states.

    Takes x (B, T, D), the encoder's states (B, L, D) and the encoder's mask, (B, 1, 1 or T, L) or None. Returns
    (B, T, D).

    Args:
        hidden_size: D.
        heads: Number of heads, H.
        head_dim: Head width K; None for D / H.
        bias: Whether the linear layers have a bias.
        scaled: Whether scores are divided by the square root of K.
    """

    def __init__(
        self, hidden_size: int, heads: int, head_dim: int | None = None, bias: bool = True, scaled: bool = True
    ) -> None:
        super().__init__()
        width = heads * (head_dim or hidden_size // heads)
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scaled else 1.0
        self.query = Linear(hidden_size, width, bias)
        self.kv = Linear(hidden_size, 2 * width, bias)
        self.out = Linear(width, hidden_size, bias)

    def __call__(self, x: mx.array, encoded: mx.array, mask: mx.array | None) -> mx.array:
        return self.out(merge_heads(attend(*self._heads(x, encoded), self.scale, mask, None)))

    def with_weights(self, x: mx.array, encoded: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: The decoder's hidden states, (B, T, D).
            encoded: The encoder's last hidden states, (B, L, D).
            mask: The encoder's mask, (B, 1, 1 or T, L), or None.

        Returns:
            The output (B, T, D) and the attention weights (B, H, T, L).
        """
        attended, weights = attend_with_weights(*self._heads(x, encoded), self.scale, mask, None)
        return self.out(merge_heads(attended)), weights

    def _heads(self, x: mx.array, encoded: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        keys, values = mx.split(self.kv(encoded), 2, axis=-1)
        queries, keys, values = (split_heads(part, self.heads) for part in (self.query(x), keys, values))
        return queries, keys, values


class DecoderLayer(nn.Module):
    """A decoder layer: self-attention, cross-attention and a feed-forward block, each with a residual sum and a norm.

    Takes x (B, T, D), the causal mask, the self-attention's bias (1, H, T, T) or None, the encoder's states (B, L, D)
    and mask, and the recorder. Returns (B, T, D).

    Args:
        attention: The self-attention.
        cross_attention: The attention to the encoder's states.
        feed_forward: The feed-forward block, (B, T, D) -> (B, T, D).
        norm: Creates one norm; it is called three times.
        norm_first: Whether the norm comes before each block (mBART) instead of after its sum (BART).
        position_bias: Maps T to a bias that only this layer adds, instead of the decoder's (umT5).
    """

    def __init__(
        self,
        attention: Attention,
        cross_attention: CrossAttention,
        feed_forward: nn.Module,
        norm: Callable[[], nn.Module],
        norm_first: bool,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.attention, self.attention_norm = attention, norm()
        self.cross_attention, self.cross_attention_norm = cross_attention, norm()
        self.feed_forward, self.feed_forward_norm = feed_forward, norm()
        self.norm_first = norm_first
        if position_bias is not None:
            self.position_bias = position_bias

    def __call__(
        self,
        x: mx.array,
        mask: mx.array,
        bias: mx.array | None,
        encoded: mx.array,
        encoder_mask: mx.array | None,
        recorder: OutputRecorder,
    ) -> mx.array:
        own = self.position_bias(x.shape[1]) if "position_bias" in self else bias

        def attention(y: mx.array) -> mx.array:
            if not recorder.output_attentions:
                return self.attention(y, mask, own)
            attended, weights = self.attention.with_weights(y, mask, own)
            recorder.record_attention(weights)
            return attended

        def cross_attention(y: mx.array) -> mx.array:
            if not recorder.output_attentions:
                return self.cross_attention(y, encoded, encoder_mask)
            attended, weights = self.cross_attention.with_weights(y, encoded, encoder_mask)
            recorder.record_cross_attention(weights)
            return attended

        x = self._add(x, self.attention_norm, attention)
        x = self._add(x, self.cross_attention_norm, cross_attention)
        # The causal mask hides padding from the tokens before it, with weights of 0 as any other mask.
        return self._add(x, self.feed_forward_norm, self.feed_forward, encoder_mask)

    def _add(self, x: mx.array, norm: nn.Module, block: _Block, padding: mx.array | None = None) -> mx.array:
        dtype = norm.weight.dtype
        if self.norm_first:
            return sum_finite_at_padding(residual(x, dtype), block(norm(x).astype(dtype)), padding, dtype)
        summed: mx.array = norm(sum_finite_at_padding(x, block(x), padding, dtype))
        return summed


class Decoder(nn.Module):
    """A decoder without a token table of its own.

    Takes token embeddings (B, T, D), the encoder's states (B, L, D) and mask, and the recorder. Returns (B, T, D).

    Args:
        positions: Adds the positions, (B, T, D) -> (B, T, D); None where attention brings them in.
        layers: The layers.
        final_norm: Norm after the last layer, or None.
        position_bias: Maps T to a bias (1, H, T, T) that every self-attention adds (T5), or None.
    """

    def __init__(
        self,
        positions: PositionsAndNorm | None,
        layers: Sequence[DecoderLayer],
        final_norm: nn.Module | None,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if positions is not None:
            self.positions = positions
        if position_bias is not None:
            self.position_bias = position_bias
        self.layers = list(layers)
        if final_norm is not None:
            self.final_norm = final_norm

    def __call__(
        self, tokens: mx.array, encoded: mx.array, encoder_mask: mx.array | None, recorder: OutputRecorder
    ) -> mx.array:
        places = mx.arange(tokens.shape[1], dtype=mx.int32)
        # Padding is not masked: without a decoder_attention_mask transformers attends to every earlier token.
        mask = (places[:, None] >= places[None, :])[None, None]
        bias = self.position_bias(tokens.shape[1]) if "position_bias" in self else None
        hidden = self.positions(tokens) if "positions" in self else tokens
        recorder.record_hidden_state(hidden)
        dtype = hidden.dtype
        for layer in self.layers:
            hidden = layer(hidden, mask, bias, encoded, encoder_mask, recorder)
            start_evaluation(hidden)
            recorder.record_hidden_state(hidden.astype(dtype))
        if "final_norm" in self:
            hidden = self.final_norm(hidden).astype(dtype)
            recorder.replace_last_hidden_state(hidden)
        return hidden.astype(dtype)


class EncoderDecoder(Encoder):
    """An encoder, and a decoder that reads the same tokens shifted to the right, as BART's classifiers run it.

    Takes a TokenBatch, the recorder, and `first_token` as an Encoder does. Returns the decoder's last hidden states,
    (B, L, D); those of the encoder, and what it recorded, are in the recorder.

    Args:
        embeddings: Embeddings of the encoder, with the token table that both read and a factor for it.
        layers: The encoder's layers.
        decoder: The decoder.
        shift: Maps token ids (B, L) to those of the decoder, of the same shape.
        final_norm: Norm after the encoder's last layer, or None.
        layer_context: What the encoder's layers get besides hidden states and mask, as in an Encoder.
        position_bias: What every layer of the encoder adds to its scores, as in an Encoder.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        layers: Sequence[nn.Module],
        decoder: Decoder,
        shift: Callable[[mx.array], mx.array],
        final_norm: nn.Module | None = None,
        layer_context: Callable[[TokenBatch], Any] | None = None,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__(
            embeddings, layers, final_norm=final_norm, layer_context=layer_context, position_bias=position_bias
        )
        self.decoder = decoder
        self._shift = shift

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        encoder_recorder = OutputRecorder(recorder.output_hidden_states, recorder.output_attentions)
        encoded = super().__call__(batch, encoder_recorder)
        recorder.record_encoder(encoded, encoder_recorder)
        shifted = replace(batch, ids=self._shift(batch.ids))
        hidden = self.decoder(self.embeddings.tokens(shifted), encoded, batch.key_mask(), recorder)
        return hidden[:, :1] if first_token else hidden
