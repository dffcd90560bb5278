"""What CLIP's text encoders start from: words and places, not normalised.

B texts, L tokens, E embedding width.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.linear import Embedding


class PlacedEmbeddings(nn.Module):
    """batch -> words plus places (B, L, E)."""

    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)

    def __call__(self, batch: TokenBatch) -> mx.array:
        return batch.words(self.word) + self.position(batch.positions())
