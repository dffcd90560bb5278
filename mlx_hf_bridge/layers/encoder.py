"""The encoder stack: embeddings, layers and an optional final norm, and a recorder of what callers ask for besides.

Source: Devlin et al., arXiv 1810.04805, for the post-norm layer; its parts are those of arXiv 1706.03762.

Axes: B texts, L tokens, D hidden size, E embedding width, H heads, G tokens with global attention.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.padding import sum_finite_at_padding
from mlx_hf_bridge.layers.single_batch import start_evaluation
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass
class OutputRecorder:
    """Collects hidden states and attention weights during a forward pass, as transformers returns them.

    Args:
        output_hidden_states: Whether to keep hidden states.
        output_attentions: Whether layers compute attention weights and keep them.
        hidden_states: Kept so far, (B, L, D) each: the embeddings, then every layer's output.
        attentions: Kept so far, (B, H, L, L) each, first layer first.
        global_attentions: Kept so far, (B, H, L, G) each: weights of tokens with global attention (Longformer).
        cross_attentions: Kept so far, (B, H, T, L) each: a decoder's weights of the encoder's tokens (BART).
        encoded: The encoder's last hidden states, (B, L, D), where the model ends with a decoder.
        encoder: What the encoder before a decoder recorded; None for a model without a decoder.
        pooler_input: What the pooler reads where it is not the last hidden states, (B, M, D) (CANINE).
    """

    output_hidden_states: bool = False
    output_attentions: bool = False
    hidden_states: list[mx.array] = field(default_factory=list)
    attentions: list[mx.array] = field(default_factory=list)
    global_attentions: list[mx.array] = field(default_factory=list)
    cross_attentions: list[mx.array] = field(default_factory=list)
    encoded: mx.array | None = None
    encoder: "OutputRecorder | None" = None
    pooler_input: mx.array | None = None

    def record_hidden_state(self, hidden: mx.array) -> None:
        """Keep a hidden state if hidden states are asked for.

        Args:
            hidden: (B, L, D).
        """
        if self.output_hidden_states:
            self.hidden_states.append(hidden)

    def record_attention(self, attention: mx.array, global_attention: mx.array | None = None) -> None:
        """Keep a layer's attention weights; layers call it only if `output_attentions` is set.

        Args:
            attention: (B, H, L, L).
            global_attention: Weights of tokens with global attention, (B, H, L, G), or None.
        """
        self.attentions.append(attention)
        if global_attention is not None:
            self.global_attentions.append(global_attention)

    def record_cross_attention(self, attention: mx.array) -> None:
        """Keep a decoder layer's weights of the encoder's tokens; only called if `output_attentions` is set.

        Args:
            attention: (B, H, T, L).
        """
        self.cross_attentions.append(attention)

    def record_encoder(self, encoded: mx.array, encoder: "OutputRecorder") -> None:
        """Keep what the encoder before a decoder computed.

        Args:
            encoded: Its last hidden states, (B, L, D).
            encoder: What it recorded.
        """
        self.encoded, self.encoder = encoded, encoder

    def replace_last_hidden_state(self, hidden: mx.array) -> None:
        """Replace the last layer's hidden state by the output of the final norm, if hidden states are asked for.

        Args:
            hidden: (B, L, D).
        """
        if self.output_hidden_states:
            self.hidden_states[-1] = hidden


class SelfAttention(Protocol):
    """The interface of an attention module inside a layer.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) or None, and the bias or context that the encoder computes for this kind
    of attention. Returns (B, L, D).
    """

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, /) -> mx.array: ...

    def with_weights(self, x: mx.array, mask: mx.array | None, bias: Any, /) -> tuple[mx.array, ...]:
        """Compute the module together with its attention weights.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            bias: What the encoder computes for this kind of attention.

        Returns:
            The output (B, L, D), the weights (B, H, L, L), and those of global tokens (B, H, L, G) if there are any.
        """
        ...


class PostNormLayer(nn.Module):
    """A BERT layer, normalized after each sum: norm(y + feed_forward(y)) with y = norm(x + attention(x)).

    Takes x (B, L, D), mask (B, 1, 1 or L, L) or None, the attention's bias, and the recorder. Returns (B, L, D).

    Args:
        attention: The attention module.
        feed_forward: The feed-forward block, (B, L, D) -> (B, L, D).
        hidden_size: D.
        eps: Epsilon of both norms.
        norm: Creates a norm from D and the epsilon; it is called twice.
    """

    def __init__(
        self,
        attention: SelfAttention,
        feed_forward: nn.Module,
        hidden_size: int,
        eps: float,
        norm: Callable[[int, float], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = norm(hidden_size, eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = norm(hidden_size, eps)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        if recorder.output_attentions:
            attended, *weights = self.attention.with_weights(x, mask, bias)
            recorder.record_attention(*weights)
        else:
            attended = self.attention(x, mask, bias)
        return self._feed_forward(x + attended, mask)

    def first_token(self, x: mx.array, mask: mx.array | None, bias: Any) -> mx.array:
        """Compute the output at position 0 only; plain attention then saves the work of all other queries.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1 or L, L), or None.
            bias: The attention's bias.

        Returns:
            The output of shape (B, 1, D).
        """
        # Other kinds of attention have no path for one query, so all positions are computed and one is kept.
        if not isinstance(self.attention, Attention):
            return self(x, mask, bias, OutputRecorder())[:, :1]
        return self._feed_forward(x[:, :1] + self.attention.first_token(x, mask, bias), None)

    def _feed_forward(self, summed: mx.array, mask: mx.array | None) -> mx.array:
        x = self.attention_norm(summed)
        normed: mx.array = self.feed_forward_norm(sum_finite_at_padding(x, self.feed_forward(x), mask, x.dtype))
        return normed


class LayerGroup(nn.Module):
    """Several layers that the encoder runs as one step (ALBERT's groups).

    Takes what a layer takes and returns (B, L, D).

    Args:
        layers: The layers, run in this order.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = list(layers)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        for layer in self.layers[:-1]:
            x = layer(x, mask, bias, recorder)
            # transformers lists every layer inside a group; the Encoder records the last one itself.
            recorder.record_hidden_state(x)
        last: mx.array = self.layers[-1](x, mask, bias, recorder)
        return last


class Encoder(nn.Module):
    """An encoder: embeddings, then layers, then an optional final norm.

    Takes a TokenBatch, the recorder, and `first_token`: True if only position 0 of each text is read, so that the last
    layer computes no other. Returns hidden states (B, L, D), or (B, 1, D) for `first_token`.

    Args:
        embeddings: TokenBatch -> (B, L, E).
        layers: The layers; each takes hidden states, the attention mask, the bias or context, and the recorder.
        projection: Linear layer from E to D, if embeddings have another width.
        position_bias: Maps the length L to what every layer's attention gets as bias, such as (1, H, L, L).
        layer_order: Index of the layer of each step, if layers are shared between steps (ALBERT); None to run each
            layer once.
        final_norm: Norm after the last layer.
        norm_last_hidden_state: Whether the last recorded hidden state is taken after the final norm; in CLIP before.
        attention_mask: Maps the batch to its attention mask: TokenBatch.key_mask or TokenBatch.causal_mask.
        after_first_layer: Maps the embeddings and the first layer's output to the second layer's input (DeBERTa v2).
        rotary: Maps the batch to rotations of queries and keys, which layers get instead of a bias.
        layer_context: Maps the batch to what layers get instead of a bias, such as the global attention mask.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        layers: Sequence[nn.Module],
        projection: nn.Module | None = None,
        position_bias: nn.Module | None = None,
        layer_order: Sequence[int] | None = None,
        final_norm: nn.Module | None = None,
        norm_last_hidden_state: bool = True,
        attention_mask: Callable[[TokenBatch], mx.array | None] = TokenBatch.key_mask,
        after_first_layer: nn.Module | None = None,
        rotary: nn.Module | None = None,
        layer_context: Callable[[TokenBatch], Any] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = list(layers)
        if projection is not None:
            self.projection = projection
        if position_bias is not None:
            self.position_bias = position_bias
        if final_norm is not None:
            self.final_norm = final_norm
        if after_first_layer is not None:
            self.after_first_layer = after_first_layer
        if rotary is not None:
            self.rotary = rotary
        self._norm_last_hidden_state = norm_last_hidden_state
        self._attention_mask = attention_mask
        self._layer_context = layer_context
        # ALBERT runs the same weights several times, so the order may name an index more than once.
        self._layer_order = tuple(range(len(self.layers)) if layer_order is None else layer_order)

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        hidden: mx.array = self.embeddings(batch)  # (B, L, E)
        if "projection" in self:
            hidden = self.projection(hidden)  # (B, L, D)
        mask = self._attention_mask(batch)
        bias = self._bias(batch, hidden.shape[1])
        recorder.record_hidden_state(hidden)
        # Layers may return sums in float32 to each other (layers/pre_norm.py); everything else has the model's dtype.
        dtype = hidden.dtype
        embedded = hidden
        for count, index in enumerate(self._layer_order, 1):
            layer = self.layers[index]
            # Only the last layer: all others feed the keys and values of the next.
            if first_token and count == len(self._layer_order) > 1 and isinstance(layer, PostNormLayer):
                hidden = layer.first_token(hidden, mask, bias)
            else:
                hidden = layer(hidden, mask, bias, recorder)
            if count == 1 and "after_first_layer" in self:
                hidden = self.after_first_layer(embedded, hidden)
            # Lets MLX compute this layer while Python builds the graph of the next one.
            start_evaluation(hidden)
            recorder.record_hidden_state(hidden.astype(dtype))
        hidden = (self.final_norm(hidden) if "final_norm" in self else hidden).astype(dtype)
        # transformers' models differ in whether the last hidden state is the one before or after the final norm.
        if "final_norm" in self and self._norm_last_hidden_state:
            recorder.replace_last_hidden_state(hidden)
        return hidden[:, :1] if first_token else hidden

    def _bias(self, batch: TokenBatch, length: int) -> Any:
        """Return what the layers' attention gets as bias or context."""
        if self._layer_context is not None:
            return self._layer_context(batch)
        if "rotary" in self:
            return self.rotary(batch)
        return self.position_bias(length) if "position_bias" in self else None
