"""A decoder behind an encoder, run once over given tokens: causal self-attention, cross-attention, feed-forward block.

Sources: Vaswani et al., arXiv 1706.03762; BART (Lewis et al., arXiv 1910.13461).

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
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden_size // heads) ** -0.5
        self.query = Linear(hidden_size, hidden_size)
        self.kv = Linear(hidden_size, 2 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

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

    Takes x (B, T, D), the causal mask, the encoder's states (B, L, D) and mask, and the recorder. Returns (B, T, D).

    Args:
        attention: The self-attention.
        cross_attention: The attention to the encoder's states.
        feed_forward: The feed-forward block, (B, T, D) -> (B, T, D).
        norm: Creates one norm; it is called three times.
        norm_first: Whether the norm comes before each block (mBART) instead of after its sum (BART).
    """

    def __init__(
        self,
        attention: Attention,
        cross_attention: CrossAttention,
        feed_forward: nn.Module,
        norm: Callable[[], nn.Module],
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.attention, self.attention_norm = attention, norm()
        self.cross_attention, self.cross_attention_norm = cross_attention, norm()
        self.feed_forward, self.feed_forward_norm = feed_forward, norm()
        self.norm_first = norm_first

    def __call__(
        self, x: mx.array, mask: mx.array, encoded: mx.array, encoder_mask: mx.array | None, recorder: OutputRecorder
    ) -> mx.array:
        def attention(y: mx.array) -> mx.array:
            if not recorder.output_attentions:
                return self.attention(y, mask)
            attended, weights = self.attention.with_weights(y, mask)
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
        return self._add(x, self.feed_forward_norm, self.feed_forward)

    def _add(self, x: mx.array, norm: nn.Module, block: _Block) -> mx.array:
        if self.norm_first:
            dtype = norm.weight.dtype
            return residual(x, dtype) + block(norm(x).astype(dtype))
        summed: mx.array = norm(x + block(x))
        return summed


class Decoder(nn.Module):
    """A decoder without a token table of its own.

    Takes token embeddings (B, T, D), the encoder's states (B, L, D) and mask, and the recorder. Returns (B, T, D).

    Args:
        positions: Adds the positions, (B, T, D) -> (B, T, D).
        layers: The layers.
        final_norm: Norm after the last layer, or None.
    """

    def __init__(
        self, positions: PositionsAndNorm, layers: Sequence[DecoderLayer], final_norm: nn.Module | None
    ) -> None:
        super().__init__()
        self.positions = positions
        self.layers = list(layers)
        if final_norm is not None:
            self.final_norm = final_norm

    def __call__(
        self, tokens: mx.array, encoded: mx.array, encoder_mask: mx.array | None, recorder: OutputRecorder
    ) -> mx.array:
        places = mx.arange(tokens.shape[1], dtype=mx.int32)
        # Padding is not masked: without a decoder_attention_mask transformers attends to every earlier token.
        mask = (places[:, None] >= places[None, :])[None, None]
        hidden = self.positions(tokens)
        recorder.record_hidden_state(hidden)
        dtype = hidden.dtype
        for layer in self.layers:
            hidden = layer(hidden, mask, encoded, encoder_mask, recorder)
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
    """

    def __init__(
        self,
        embeddings: nn.Module,
        layers: Sequence[nn.Module],
        decoder: Decoder,
        shift: Callable[[mx.array], mx.array],
        final_norm: nn.Module | None = None,
        layer_context: Callable[[TokenBatch], Any] | None = None,
    ) -> None:
        super().__init__(embeddings, layers, final_norm=final_norm, layer_context=layer_context)
        self.decoder = decoder
        self._shift = shift

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        encoder_recorder = OutputRecorder(recorder.output_hidden_states, recorder.output_attentions)
        encoded = super().__call__(batch, encoder_recorder)
        recorder.record_encoder(encoded, encoder_recorder)
        shifted = replace(batch, ids=self._shift(batch.ids))
        hidden = self.decoder(self.embeddings.tokens(shifted), encoded, batch.key_mask(), recorder)
        return hidden[:, :1] if first_token else hidden
