"""Layers that work at a narrower width than their hidden states (MobileBERT: Sun et al., arXiv 2004.02984).

B texts, L tokens, D hidden, N narrow width, H heads, E embedding width, V words.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.feed_forward import Activation
from mlx_hf_bridge.layers.heads import HeadOutputs, TokenTable
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch


class NoNorm(nn.Module):
    """x (..., D) -> x * weight + bias, in a norm's place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        self.bias = mx.zeros((width,))

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.weight + self.bias


class TrigramEmbeddings(nn.Module):
    """batch -> normalised sum (B, L, D); words, with `trigrams` beside their neighbours, are widened first."""

    def __init__(
        self, word: Embedding, position: Embedding, token_type: Embedding, widening: Linear | None, norm: nn.Module,
        trigrams: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.word, self.position, self.token_type = word, position, token_type
        if widening is not None:
            self.widening = widening
        self.norm = norm
        self._trigrams = trigrams

    def __call__(self, batch: TokenBatch) -> mx.array:
        words = batch.embed(self.word)  # (B, L, E)
        if self._trigrams:
            edges = mx.pad(words, [(0, 0), (1, 1), (0, 0)])  # (B, L + 2, E)
            words = mx.concatenate([edges[:, 2:], words, edges[:, :-2]], axis=-1)  # (B, L, 3 E): next, own, last
        if "widening" in self:
            words = self.widening(words)  # (B, L, D)
        segments = mx.zeros((1, 1), mx.int32) if batch.token_type_ids is None else batch.token_type_ids
        normed: mx.array = self.norm(words + self.position(batch.positions()) + self.token_type(segments))
        return normed


class LinearNorm(nn.Module):
    """x (B, L, I) -> norm(product of x, plus `rest` where it is given) (B, L, O)."""

    def __init__(self, dense: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.norm = norm

    def __call__(self, x: mx.array, rest: mx.array | None = None) -> mx.array:
        dense = self.dense(x)
        normed: mx.array = self.norm(dense if rest is None else dense + rest)
        return normed


class Bottleneck(nn.Module):
    """x (B, L, D) -> what attention scores, what it mixes, and what its sum starts from.

    `scored` narrows what is scored alone; `mixes_narrow`: all three are the sum's.
    """

    def __init__(self, rest: LinearNorm, scored: LinearNorm | None, mixes_narrow: bool) -> None:
        super().__init__()
        self.input = rest
        if scored is not None:
            self.attention = scored
        self._mixes_narrow = mixes_narrow

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        rest = self.input(x)  # (B, L, N)
        if self._mixes_narrow:
            return rest, rest, rest
        return self.attention(x) if "attention" in self else x, x, rest


class BottleneckAttention(nn.Module):
    """scored (B, L, N), mixed (B, L, D or N), mask (B, 1, 1, L) -> (B, L, N)."""

    def __init__(self, narrow: int, mixed_width: int, heads: int) -> None:
        super().__init__()
        self.query_key = Linear(narrow, 2 * narrow)
        self.value = Linear(mixed_width, narrow)
        self.heads = heads
        self.scale = (narrow // heads) ** -0.5

    def __call__(self, scored: mx.array, mixed: mx.array, mask: mx.array | None, recorder: OutputRecorder) -> mx.array:
        queries, keys = (split_heads(part, self.heads) for part in mx.split(self.query_key(scored), 2, axis=-1))
        values = split_heads(self.value(mixed), self.heads)  # (B, H, L, N / H)
        if not recorder.output_attentions:
            return merge_heads(attend(queries, keys, values, self.scale, mask, None))
        attended, weights = attend_with_weights(queries, keys, values, self.scale, mask, None)
        recorder.record_attention(weights)
        return merge_heads(attended)


class BottleneckLayer(nn.Module):
    """x (B, L, D) -> narrowed, attention, feed-forward blocks, widened and added to x; without bottleneck D = N."""

    def __init__(
        self,
        attention: BottleneckAttention,
        attention_out: LinearNorm,
        blocks: Sequence[LinearNorm],
        bottleneck: Bottleneck | None,
        widening: LinearNorm | None,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_out = attention_out
        self.blocks = list(blocks[:-1])
        self.last_block = blocks[-1]
        if bottleneck is not None:
            self.bottleneck = bottleneck
        if widening is not None:
            self.widening = widening

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        scored, mixed, rest = self.bottleneck(x) if "bottleneck" in self else (x, x, x)
        hidden = self.attention_out(self.attention(scored, mixed, mask, recorder), rest)  # (B, L, N)
        for block in (*self.blocks, self.last_block):
            hidden = block(hidden, hidden)
        return self.widening(hidden, x) if "widening" in self else hidden  # (B, L, D)


class SplitMaskedLMHead(nn.Module):
    """A product, activation and norm, scored by the word table as far as that is wide, by `rest` beyond: (B, L, V)."""

    def __init__(
        self, dense: Linear, norm: nn.Module, activation: Activation, width: int, vocabulary: int, tied: bool,
        output_name: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dense, self.norm, self.activation, self.output_name = dense, norm, activation, output_name
        hidden_size = dense.weight.shape[0]
        self.rest = Linear(vocabulary, hidden_size - width, bias=False)
        self._width = width
        if tied:
            self.bias = mx.zeros((vocabulary,))
        else:
            self.decoder = Linear(width, vocabulary)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        features = self.norm(self.activation(self.dense(hidden)))  # (B, L, D)
        narrow, beyond = features[..., : self._width], features[..., self._width :]
        scores = self.decoder(narrow) if "decoder" in self else table.scores(narrow) + self.bias
        return {self.output_name: scores + beyond @ self.rest.weight}


class FirstTokenPooler(nn.Module):
    """The pooler of a config without its product: hidden (B, L, D) -> the first token (B, D)."""

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return batch.first_tokens(hidden)
