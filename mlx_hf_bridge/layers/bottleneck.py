"""MobileBERT's parts: layers that work at a narrower width than the hidden states.

Source: Sun et al., "MobileBERT", arXiv 2004.02984.

Axes: B texts, L tokens, D hidden size, N narrow width, H heads, E embedding width, I inputs, O outputs, V vocabulary
size.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation
from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.heads import HeadOutputs, TokenTable
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch


class NoNorm(nn.Module):
    """A scale and a bias instead of a norm: x * weight + bias.

    Takes x (..., D) and returns (..., D).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        self.bias = mx.zeros((width,))

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.weight + self.bias


class TrigramEmbeddings(nn.Module):
    """MobileBERT's embeddings: tokens, joined with their neighbors and projected, plus positions and token types.

    Takes a TokenBatch and returns (B, L, D).

    Args:
        word: Token embedding table, width E.
        position: Position table, width D.
        token_type: Token type table, width D.
        widening: Linear layer to D, from E or, with trigrams, from 3 E; None if the widths agree.
        norm: Norm of the sum.
        trigrams: Whether each token's embedding is concatenated with those of the next and the previous token.
    """

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
        tokens = batch.embed(self.word)  # (B, L, E)
        if self._trigrams:
            padded = mx.pad(tokens, [(0, 0), (1, 1), (0, 0)])  # (B, L + 2, E)
            tokens = mx.concatenate([padded[:, 2:], tokens, padded[:, :-2]], axis=-1)  # (B, L, 3 E): next, own, last
        if "widening" in self:
            tokens = self.widening(tokens)  # (B, L, D)
        token_type_ids = mx.zeros((1, 1), mx.int32) if batch.token_type_ids is None else batch.token_type_ids
        normed: mx.array = self.norm(tokens + self.position(batch.positions()) + self.token_type(token_type_ids))
        return normed


class LinearNorm(nn.Module):
    """A linear layer or block, an optional residual, and a norm: norm(dense(x) + residual).

    Takes x (B, L, I) and an optional residual (B, L, O). Returns (B, L, O).

    Args:
        dense: Linear layer or feed-forward block, (B, L, I) -> (B, L, O).
        norm: Norm of the sum.
    """

    def __init__(self, dense: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.norm = norm

    def __call__(self, x: mx.array, residual: mx.array | None = None) -> mx.array:
        projected = self.dense(x)
        normed: mx.array = self.norm(projected if residual is None else projected + residual)
        return normed


class Bottleneck(nn.Module):
    """Narrows a layer's input for its attention.

    Takes x (B, L, D). Returns the input of queries and keys (B, L, N or D), the input of values (B, L, N or D), and the
    residual of the attention block (B, L, N).

    Args:
        input: Narrows the input to the residual, (B, L, D) -> (B, L, N).
        attention: Narrows the input of queries and keys separately; None to use the full input.
        shared_input: Whether queries, keys and values all read the residual (`use_bottleneck_attention`).
    """

    def __init__(self, input: LinearNorm, attention: LinearNorm | None, shared_input: bool) -> None:
        super().__init__()
        self.input = input
        if attention is not None:
            self.attention = attention
        self._shared_input = shared_input

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        residual = self.input(x)  # (B, L, N)
        if self._shared_input:
            return residual, residual, residual
        return self.attention(x) if "attention" in self else x, x, residual


class BottleneckAttention(nn.Module):
    """MobileBERT's self-attention, without an output projection.

    Takes the input of queries and keys (B, L, N), the input of values (B, L, D or N), mask (B, 1, 1, L) with True for
    visible keys or None, and the recorder. Returns (B, L, N).

    Args:
        narrow: N.
        value_width: Width of the input of values, D or N.
        heads: H.
    """

    def __init__(self, narrow: int, value_width: int, heads: int) -> None:
        super().__init__()
        # Fused, because both read the same input; values read another one.
        self.query_key = Linear(narrow, 2 * narrow)
        self.value = Linear(value_width, narrow)
        self.heads = heads
        self.scale = (narrow // heads) ** -0.5

    def __call__(
        self, query_input: mx.array, value_input: mx.array, mask: mx.array | None, recorder: OutputRecorder
    ) -> mx.array:
        queries, keys = (split_heads(part, self.heads) for part in mx.split(self.query_key(query_input), 2, axis=-1))
        values = split_heads(self.value(value_input), self.heads)  # (B, H, L, N / H)
        if not recorder.output_attentions:
            return merge_heads(attend(queries, keys, values, self.scale, mask, None))
        attended, weights = attend_with_weights(queries, keys, values, self.scale, mask, None)
        recorder.record_attention(weights)
        return merge_heads(attended)


class BottleneckLayer(nn.Module):
    """A MobileBERT layer: narrow, attend, run several feed-forward blocks, widen and add to the input.

    Takes x (B, L, D), mask (B, 1, 1, L) or None, a bias that is not used, and the recorder. Returns (B, L, D).

    Args:
        attention: The attention module.
        attention_out: Projection of the attention output, with its residual and norm.
        blocks: Feed-forward blocks with their residual and norm.
        bottleneck: Narrows the input; None if D = N.
        widening: Widens the output, with the layer's input as residual; None if D = N.
    """

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
        # Checkpoints name the last block (`intermediate`, `output`) apart from the others (`ffn.0`, ...).
        self.blocks = list(blocks[:-1])
        self.last_block = blocks[-1]
        if bottleneck is not None:
            self.bottleneck = bottleneck
        if widening is not None:
            self.widening = widening

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        query_input, value_input, residual = self.bottleneck(x) if "bottleneck" in self else (x, x, x)
        hidden = self.attention_out(self.attention(query_input, value_input, mask, recorder), residual)  # (B, L, N)
        for block in (*self.blocks, self.last_block):
            hidden = block(hidden, hidden)
        return self.widening(hidden, x) if "widening" in self else hidden  # (B, L, D)


class SplitMaskedLMHead(nn.Module):
    """MobileBERT's masked-LM head, whose scores come from the token table for the first E features and `rest` beyond.

    Returns one output of shape (B, L, V).

    Args:
        dense: Linear layer, (B, L, D) -> (B, L, D).
        norm: Norm after the activation.
        activation: Function after the linear layer.
        width: Width of the token embedding table, E.
        vocabulary: V.
        tied: Whether the first E features are scored by the token embedding table, plus a bias; otherwise the head has
            a decoder.
        output_name: Name of the output.
    """

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
        # The checkpoint stores `rest` transposed, (D - E, V), so it is multiplied as it is.
        return {self.output_name: scores + beyond @ self.rest.weight}


class FirstTokenPooler(nn.Module):
    """The pooler of a config without `classifier_activation`: the hidden state at position 0.

    Takes hidden states (B, L, D) and the batch. Returns (B, D).
    """

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return batch.first_tokens(hidden)
