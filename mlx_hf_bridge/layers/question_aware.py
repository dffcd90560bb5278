"""Splinter's head (Ram et al., arXiv 2101.00438, section 4): spans are scored against the question's own token.

B texts, L tokens, D hidden.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.feed_forward import gelu
from mlx_hf_bridge.layers.heads import Answers, WordTable
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.prepared_heads import Transform


class QuestionAwareEdge(nn.Module):
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
        self.start = QuestionAwareEdge(hidden_size)
        self.end = QuestionAwareEdge(hidden_size)
        self.question_token_id = question_token_id

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        question = batch.take(hidden, self._slots(batch))  # (B, D)
        answers = {"start_logits": self.start(question, hidden), "end_logits": self.end(question, hidden)}
        if batch.mask is None:
            return answers
        lowest = mx.array(mx.finfo(hidden.dtype).min, hidden.dtype)
        return {name: mx.where(batch.mask, scores, lowest) for name, scores in answers.items()}

    def _slots(self, batch: TokenBatch) -> mx.array:
        if batch.vectors is not None:
            return mx.zeros(batch.ids.shape[0], mx.int32)
        return mx.argmax((batch.ids == self.question_token_id).astype(mx.int32), axis=1)
