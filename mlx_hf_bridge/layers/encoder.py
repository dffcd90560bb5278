"""A stack of attention and feed-forward layers, normalised after each sum, and what it returns.

B texts, L tokens, D hidden, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.feed_forward import FeedForward


@dataclass
class Trace:
    """What a forward pass is asked to keep on its way: states (B, L, D) and weights (B, H, L, L), first layer first."""

    wants_states: bool = False
    wants_weights: bool = False
    states: list[mx.array] = field(default_factory=list)
    weights: list[mx.array] = field(default_factory=list)

    def saw(self, hidden: mx.array) -> None:
        if self.wants_states:
            self.states.append(hidden)


class PostNormLayer(nn.Module):
    """x (B, L, D) -> norm(y + feed_forward(y)) with y = norm(x + attention(x))."""

    def __init__(self, attention: Attention, feed_forward: FeedForward, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None, trace: Trace) -> mx.array:
        if trace.wants_weights:
            attended, weights = self.attention.with_weights(x, mask, bias)
            trace.weights.append(weights)
        else:
            attended = self.attention(x, mask, bias)
        x = self.attention_norm(x + attended)
        normed: mx.array = self.feed_forward_norm(x + self.feed_forward(x))
        return normed


class LayerGroup(nn.Module):
    """Layers that one step runs through in turn."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = list(layers)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None, trace: Trace) -> mx.array:
        for layer in self.layers[:-1]:
            x = layer(x, mask, bias, trace)
            trace.saw(x)
        last: mx.array = self.layers[-1](x, mask, bias, trace)
        return last


class Encoder(nn.Module):
    """batch -> hidden (B, L, D).

    `projection` widens embeddings of another width; `order` names the layer of each step where layers are shared;
    `position_bias` makes a (1, H, L, L) term for the scores of every layer from L.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        layers: Sequence[nn.Module],
        projection: nn.Module | None = None,
        position_bias: nn.Module | None = None,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = list(layers)
        if projection is not None:
            self.projection = projection
        if position_bias is not None:
            self.position_bias = position_bias
        self._order = tuple(range(len(self.layers)) if order is None else order)

    def __call__(self, batch: TokenBatch, trace: Trace) -> mx.array:
        hidden: mx.array = self.embeddings(batch)  # (B, L, E)
        if "projection" in self:
            hidden = self.projection(hidden)  # (B, L, D)
        mask = batch.key_mask()
        bias = self.position_bias(hidden.shape[1]) if "position_bias" in self else None
        trace.saw(hidden)
        for step in self._order:
            hidden = self.layers[step](hidden, mask, bias, trace)
            trace.saw(hidden)
        return hidden
