"""What stands on an encoder: poolers and classifiers.

B texts, L tokens, D hidden, C classes.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.feed_forward import Activation
from mlx_hf_bridge.layers.linear import Linear


class Pooler(nn.Module):
    """hidden (B, L, D) -> tanh of a product of the first token (B, D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return mx.tanh(self.dense(batch.first_tokens(hidden)))


class PooledClassifier(nn.Module):
    """pooled (B, D) -> logits (B, C)."""

    def __init__(self, hidden_size: int, classes: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, classes)

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch) -> mx.array:
        assert pooled is not None  # build() gives a head that reads the pooler one
        return self.out(pooled)


class FirstTokenClassifier(nn.Module):
    """hidden (B, L, D) -> a product of the first token, activation, logits (B, C)."""

    def __init__(self, hidden_size: int, classes: int, activation: Activation) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)
        self.out = Linear(hidden_size, classes)
        self.activation = activation

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch) -> mx.array:
        return self.out(self.activation(self.dense(batch.first_tokens(hidden))))
