"""Heads in parts: hidden states are pooled and transformed, then answered from by a head of layers/heads.py.

B texts, L tokens, D hidden, C classes, V words.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.feed_forward import Activation, gelu
from mlx_hf_bridge.layers.heads import HeadOutputs, TokenTable
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch

Pool = Callable[[mx.array, TokenBatch], mx.array]


def take_first_position(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """hidden (B, L, D) -> the first slot's (B, D), padding or not."""
    return batch.first_tokens(hidden)


def take_first_unmasked(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """hidden (B, L, D) -> the first token's that is not padding (B, D)."""
    if batch.mask is None:
        return batch.first_tokens(hidden)
    return batch.take(hidden, mx.argmax(batch.mask.astype(mx.int32), axis=1))


def mean_pool(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """hidden (B, L, D) -> the mean over tokens (B, D), summed in float32; 0 for a row of padding."""
    mask = batch.token_mask(mx.float32)
    mean = (hidden * mask).sum(axis=1) / mx.maximum(mask.sum(axis=1), 1)
    return mean.astype(hidden.dtype)


class Transform(nn.Module):
    """x (..., D) -> a product, activation and, where there is one, a norm (..., D)."""

    def __init__(
        self, hidden_size: int, activation: Activation, norm: nn.Module | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size, bias)
        self.activation = activation
        if norm is not None:
            self.norm = norm

    def __call__(self, x: mx.array) -> mx.array:
        x = self.activation(self.dense(x))
        return self.norm(x) if "norm" in self else x


class TransformedHead(nn.Module):
    """A head that is handed hidden states pooled and transformed; `pool_outputs` pools what it says of each token."""

    def __init__(
        self, transform: Activation, head: nn.Module, pool: Pool | None = None, pool_outputs: Pool | None = None
    ) -> None:
        super().__init__()
        self.transform = transform
        self.head = head
        self.pool = pool
        self.pool_outputs = pool_outputs

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        x = hidden if self.pool is None else self.pool(hidden, batch)
        answers: HeadOutputs = self.head(self.transform(x), pooled, batch, table)
        if self.pool_outputs is None:
            return answers
        return {name: self.pool_outputs(answer, batch) for name, answer in answers.items()}


class LMHead(nn.Module):
    """hidden (B, L, D) -> the score of every word (B, L, V), by the word table or, not tied, a table of the head's own.

    The bias, where there is one, is the head's when tied or `separate_bias` the head's own table, else that table's.
    """

    def __init__(self, width: int, vocabulary: int, tied: bool, bias: bool = True, separate_bias: bool = False) -> None:
        super().__init__()
        if not tied:
            self.decoder = Linear(width, vocabulary, bias and not separate_bias)
        if bias and (tied or separate_bias):
            self.bias = mx.zeros((vocabulary,))

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        scores = self.decoder(hidden) if "decoder" in self else table.scores(hidden)
        return {"logits": scores + self.bias if "bias" in self else scores}


class QuestionAwareBoundary(nn.Module):
    """question (B, D), hidden (B, L, D) -> how well each token begins, or ends, its answer (B, L)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.question = Transform(hidden_size, gelu, LayerNorm(hidden_size))
        self.tokens = Transform(hidden_size, gelu, LayerNorm(hidden_size))
        self.out = Linear(hidden_size, hidden_size, bias=False)

    def __call__(self, question: mx.array, hidden: mx.array) -> mx.array:
        return (self.tokens(hidden) @ self.out(self.question(question))[:, :, None])[:, :, 0]


class QuestionAwareSpans(nn.Module):
    """The first [QUESTION] token's spans -> start_logits and end_logits (B, L); a text without one uses its first slot.

    Padding has the dtype's lowest number, as in transformers.
    """

    def __init__(self, hidden_size: int, question_token_id: int) -> None:
        super().__init__()
        self.start = QuestionAwareBoundary(hidden_size)
        self.end = QuestionAwareBoundary(hidden_size)
        self.question_token_id = question_token_id

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        question = batch.take(hidden, self._slots(batch))  # (B, D)
        answers = {"start_logits": self.start(question, hidden), "end_logits": self.end(question, hidden)}
        if batch.mask is None:
            return answers
        lowest = mx.array(mx.finfo(hidden.dtype).min, hidden.dtype)
        return {name: mx.where(batch.mask, scores, lowest) for name, scores in answers.items()}

    def _slots(self, batch: TokenBatch) -> mx.array:
        if batch.inputs_embeds is not None:
            return mx.zeros(batch.ids.shape[0], mx.int32)
        return mx.argmax((batch.ids == self.question_token_id).astype(mx.int32), axis=1)
