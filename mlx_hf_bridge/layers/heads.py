"""What stands on an encoder: poolers, and heads that give named answers.

B texts, L tokens, D hidden, C classes, E embedding width, V words.
A head: hidden (B, L, D), pooled (B, D) or None, the batch, the word table -> answers by transformers' names.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.feed_forward import Activation
from mlx_hf_bridge.layers.linear import Embedding, Linear, QuantizedEmbedding
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch

HeadOutputs = dict[str, mx.array]
TokenTable = Embedding | QuantizedEmbedding


class Pooler(nn.Module):
    """hidden (B, L, D) -> tanh of a product of the first token (B, D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return mx.tanh(self.dense(batch.first_tokens(hidden)))


class PooledClassifier(nn.Module):
    """A product of the pooler's output -> one answer (B, C)."""

    def __init__(self, hidden_size: int, classes: int, output_name: str = "logits") -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes)
        self.output_name = output_name

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        assert pooled is not None  # build() gives a head that reads the pooler one
        return {self.output_name: self.out(pooled)}


class FirstTokenClassifier(nn.Module):
    """A product of the first token, activation, another product -> logits (B, C)."""

    def __init__(self, hidden_size: int, classes: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, classes)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {"logits": self.out(self.activation(self.dense(batch.first_tokens(hidden))))}


def reads_first_token(head: nn.Module, pooler: nn.Module | None) -> bool:
    """Whether a head's answers, and the pooler's that it reads, follow from the first slot of each text alone."""
    if isinstance(head, PooledClassifier):
        return isinstance(pooler, Pooler)
    return isinstance(head, FirstTokenClassifier)


class TokenClassifier(nn.Module):
    """A product of every token -> logits (B, L, C)."""

    def __init__(self, hidden_size: int, classes: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {"logits": self.out(hidden)}


class SpanClassifier(nn.Module):
    """A product of every token -> start_logits and end_logits (B, L)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, 2)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        spans = self.out(hidden)  # (B, L, 2)
        return {"start_logits": spans[..., 0], "end_logits": spans[..., 1]}


class TokenDiscriminator(nn.Module):
    """ELECTRA's: a product of every token, activation, a product to one number -> logits (B, L)."""

    def __init__(self, hidden_size: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, 1)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {"logits": self.out(self.activation(self.dense(hidden)))[..., 0]}


class MaskedLMHead(nn.Module):
    """A product to the embeddings' width, activation, norm, and the score of every word -> one answer (B, L, V).

    Tied, words are scored by the word table and a bias; else by a table of the head's own.
    """

    def __init__(
        self,
        hidden_size: int,
        width: int,
        vocabulary: int,
        activation: Activation,
        eps: float,
        tied: bool = True,
        output_name: str = "logits",
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, width)
        self.norm = LayerNorm(width, eps=eps)
        self.activation = activation
        self.output_name = output_name
        if tied:
            self.bias = mx.zeros((vocabulary,))
        else:
            self.decoder = Linear(width, vocabulary)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        features = self.norm(self.activation(self.dense(hidden)))  # (B, L, E)
        scores = self.decoder(features) if "decoder" in self else table.scores(features) + self.bias
        return {self.output_name: scores}


class PreTrainingHeads(nn.Module):
    """Two heads of one encoder, as in pre-training; their answers together."""

    def __init__(self, words: nn.Module, sentence: nn.Module) -> None:
        super().__init__()
        self.words = words
        self.sentence = sentence

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        return {**self.words(hidden, pooled, batch, table), **self.sentence(hidden, pooled, batch, table)}


# Before transformers' PR 24773 CLIP's config.json said 2, whatever the tokenizer's was.
_WRONG_END = 2


class EOSPooler(nn.Module):
    """hidden (B, L, D) -> the first end-of-text token's (B, D), or the first slot's of a row without one.

    With the old files' id of 2, the end is the highest id of a row.
    """

    def __init__(self, eos_token_id: int) -> None:
        super().__init__()
        self.eos_token_id = eos_token_id

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        is_end = batch.ids if self.eos_token_id == _WRONG_END else (batch.ids == self.eos_token_id).astype(mx.int32)
        return batch.take(hidden, mx.argmax(is_end, axis=1))


class LastPositionPooler(nn.Module):
    """hidden (B, L, D) -> a product of the last slot, padding or not (B, P)."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, width)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return self.out(take_last_position(hidden, batch))


def take_last_position(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """hidden (B, L, D) -> the last slot's (B, D), padding or not."""
    return hidden[:, -1]


class LastTokenClassifier(nn.Module):
    """The last token that is not padding, times a product -> logits (B, C).

    Padding is told by its id, as transformers does, or, where there is none, by the mask; vectors in the place of ids
    count as tokens.
    """

    def __init__(self, hidden_size: int, classes: int, pad_token_id: int | None, bias: bool = False) -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes, bias)
        self.pad_token_id = pad_token_id

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        is_token = batch.token_mask(mx.int32)[:, :, 0]
        if self.pad_token_id is not None:
            is_token = (batch.ids != self.pad_token_id).astype(mx.int32)
        last = mx.argmax(is_token * mx.arange(is_token.shape[1], dtype=mx.int32), axis=1)
        return {"logits": self.out(batch.take(hidden, last))}


class SummaryClassifier(nn.Module):
    """hidden (B, L, D) -> activation of a product of the first token (B, C), scored once more where it is a choice."""

    def __init__(self, hidden_size: int, classes: int, activation: Activation, is_choice: bool = False) -> None:
        super().__init__()
        self.summary = Linear(hidden_size, classes)
        self.activation = activation
        if is_choice:
            self.out = Linear(classes, 1)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        summary = self.activation(self.summary(batch.first_tokens(hidden)))
        return {"logits": self.out(summary) if "out" in self else summary}
