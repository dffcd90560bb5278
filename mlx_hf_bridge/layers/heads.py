"""What stands on an encoder: poolers, and heads that give named answers.

B texts, L tokens, D hidden, C classes, E embedding width, V words.
A head: hidden (B, L, D), pooled (B, D) or None, the batch, the word table -> answers by transformers' names.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.feed_forward import Activation
from mlx_hf_bridge.layers.linear import Embedding, Linear, PackedEmbedding
from mlx_hf_bridge.layers.norm import LayerNorm

Answers = dict[str, mx.array]
WordTable = Embedding | PackedEmbedding


class Pooler(nn.Module):
    """hidden (B, L, D) -> tanh of a product of the first token (B, D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return mx.tanh(self.dense(batch.first_tokens(hidden)))


class PooledClassifier(nn.Module):
    """A product of the pooler's output -> one answer (B, C)."""

    def __init__(self, hidden_size: int, classes: int, answer: str = "logits") -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes)
        self.answer = answer

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        assert pooled is not None  # build() gives a head that reads the pooler one
        return {self.answer: self.out(pooled)}


class FirstTokenClassifier(nn.Module):
    """A product of the first token, activation, another product -> logits (B, C)."""

    def __init__(self, hidden_size: int, classes: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, classes)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
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

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        return {"logits": self.out(hidden)}


class SpanClassifier(nn.Module):
    """A product of every token -> start_logits and end_logits (B, L)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, 2)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        spans = self.out(hidden)  # (B, L, 2)
        return {"start_logits": spans[..., 0], "end_logits": spans[..., 1]}


class TokenDiscriminator(nn.Module):
    """ELECTRA's: a product of every token, activation, a product to one number -> logits (B, L)."""

    def __init__(self, hidden_size: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, 1)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        return {"logits": self.out(self.activation(self.dense(hidden)))[..., 0]}


class WordScorer(nn.Module):
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
        answer: str = "logits",
    ) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, width)
        self.norm = LayerNorm(width, eps=eps)
        self.activation = activation
        self.answer = answer
        if tied:
            self.bias = mx.zeros((vocabulary,))
        else:
            self.decoder = Linear(width, vocabulary)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        features = self.norm(self.activation(self.dense(hidden)))  # (B, L, E)
        scores = self.decoder(features) if "decoder" in self else words.scores(features) + self.bias
        return {self.answer: scores}


class TwoHeads(nn.Module):
    """Two heads of one encoder, as in pre-training; their answers together."""

    def __init__(self, words: nn.Module, sentence: nn.Module) -> None:
        super().__init__()
        self.words = words
        self.sentence = sentence

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        return {**self.words(hidden, pooled, batch, words), **self.sentence(hidden, pooled, batch, words)}
