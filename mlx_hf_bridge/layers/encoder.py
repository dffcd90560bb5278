"""A stack of attention and feed-forward layers, normalised after each sum, and what it returns.

B texts, L tokens, D hidden, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.single_batch import start_evaluation
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass
class OutputRecorder:
    """What a forward pass is asked to keep on its way: states (B, L, D) and weights (B, H, L, L), first layer first.

    global_weights (B, H, L, G): those of tokens that see everything, beside local ones (Longformer).
    """

    output_hidden_states: bool = False
    output_attentions: bool = False
    hidden_states: list[mx.array] = field(default_factory=list)
    attentions: list[mx.array] = field(default_factory=list)
    global_attentions: list[mx.array] = field(default_factory=list)

    def record_hidden_state(self, hidden: mx.array) -> None:
        if self.output_hidden_states:
            self.hidden_states.append(hidden)

    def record_attention(self, attention: mx.array, global_attention: mx.array | None = None) -> None:
        self.attentions.append(attention)
        if global_attention is not None:
            self.global_attentions.append(global_attention)

    def replace_last_hidden_state(self, hidden: mx.array) -> None:
        """The last state, put in the place of the one before a final norm."""
        if self.output_hidden_states:
            self.hidden_states[-1] = hidden


class SelfAttention(Protocol):
    """What a layer asks of its attention; `bias` is what the encoder's position term makes for that kind."""

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, /) -> mx.array: ...

    def with_weights(self, x: mx.array, mask: mx.array | None, bias: Any, /) -> tuple[mx.array, ...]:
        """The same, with the weights, and those of global tokens where there are any."""
        ...


class PostNormLayer(nn.Module):
    """x (B, L, D) -> norm(y + feed_forward(y)) with y = norm(x + attention(x))."""

    def __init__(self, attention: SelfAttention, feed_forward: nn.Module, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = LayerNorm(hidden_size, eps=eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        if recorder.output_attentions:
            attended, *weights = self.attention.with_weights(x, mask, bias)
            recorder.record_attention(*weights)
        else:
            attended = self.attention(x, mask, bias)
        return self._fed(x + attended)

    def first_token(self, x: mx.array, mask: mx.array | None, bias: Any) -> mx.array:
        """The same for the first slot of each text alone -> (B, 1, D)."""
        if not isinstance(self.attention, Attention):
            return self(x, mask, bias, OutputRecorder())[:, :1]
        return self._fed(x[:, :1] + self.attention.first_token(x, mask, bias))

    def _fed(self, summed: mx.array) -> mx.array:
        x = self.attention_norm(summed)
        normed: mx.array = self.feed_forward_norm(x + self.feed_forward(x))
        return normed


class LayerGroup(nn.Module):
    """Layers that one step runs through in turn."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = list(layers)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        for layer in self.layers[:-1]:
            x = layer(x, mask, bias, recorder)
            recorder.record_hidden_state(x)
        last: mx.array = self.layers[-1](x, mask, bias, recorder)
        return last


class Encoder(nn.Module):
    """batch -> hidden (B, L, D).

    `projection` widens embeddings of another width; `layer_order` names the layer of each step where layers are shared;
    `position_bias` makes a (1, H, L, L) term for the scores of every layer from L; `final_norm` follows the last layer,
    and the last state is taken after it or, as in CLIP, before (`norm_last_hidden_state` False);
    `attention_mask` makes of the batch what may be attended to: every token, or TokenBatch.causal_mask;
    `after_first_layer` makes the second layer's input of the embeddings and what the first layer gives;
    in the place of the term for the scores, every layer is handed what `rotary` makes of the batch, by which queries
    and keys are turned, or what `layer_context` makes of it, such as the tokens that see everything.
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
        self._norms_last_state = norm_last_hidden_state
        self._sees = attention_mask
        self._marked = layer_context
        self._order = tuple(range(len(self.layers)) if layer_order is None else layer_order)

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        """first_token: only the first slot of each text is read -> (B, 1, D)."""
        hidden: mx.array = self.embeddings(batch)  # (B, L, E)
        if "projection" in self:
            hidden = self.projection(hidden)  # (B, L, D)
        mask = self._sees(batch)
        bias = self.position_bias(hidden.shape[1]) if "position_bias" in self else None
        if "rotary" in self:
            bias = self.rotary(batch)
        if self._marked is not None:
            bias = self._marked(batch)
        recorder.record_hidden_state(hidden)
        embedded = hidden
        for count, step in enumerate(self._order, 1):
            layer = self.layers[step]
            if first_token and count == len(self._order) > 1 and isinstance(layer, PostNormLayer):
                hidden = layer.first_token(hidden, mask, bias)
            else:
                hidden = layer(hidden, mask, bias, recorder)
            if count == 1 and "after_first_layer" in self:
                hidden = self.after_first_layer(embedded, hidden)
            start_evaluation(hidden)
            recorder.record_hidden_state(hidden)
        if "final_norm" in self:
            hidden = self.final_norm(hidden)
            if self._norms_last_state:
                recorder.replace_last_hidden_state(hidden)
        return hidden[:, :1] if first_token else hidden
