"""XLM's head for a whole text: a product of its first token, and for choices another of that.

B texts, L tokens, D hidden, C classes.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.feed_forward import Activation
from mlx_hf_bridge.layers.heads import Answers, WordTable
from mlx_hf_bridge.layers.linear import Linear


class SummaryClassifier(nn.Module):
    """hidden (B, L, D) -> activation of a product of the first token (B, C), scored once more where it is a choice."""

    def __init__(self, hidden_size: int, classes: int, activation: Activation, is_choice: bool = False) -> None:
        super().__init__()
        self.summary = Linear(hidden_size, classes)
        self.activation = activation
        if is_choice:
            self.out = Linear(classes, 1)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        summary = self.activation(self.summary(batch.first_tokens(hidden)))
        return {"logits": self.out(summary) if "out" in self else summary}
