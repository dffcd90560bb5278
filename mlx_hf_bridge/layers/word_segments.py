"""XLM's embeddings (Lample and Conneau, arXiv 1901.07291): segments are words too.

B texts, L tokens, E embedding width.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.embeddings import OwnTable
from mlx_hf_bridge.layers.linear import Embedding


class WordSegmentEmbeddings(nn.Module):
    """batch -> normalised sum (B, L, E) of words, places and, where segments are given, the words of their ids.

    languages: a table of what the caller says of each token's language.
    """

    def __init__(
        self, vocabulary: int, width: int, positions: int, norm: nn.Module, languages: OwnTable | None = None
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)
        self.norm = norm
        if languages is not None:
            self.languages = languages

    def __call__(self, batch: TokenBatch) -> mx.array:
        summed = batch.words(self.word) + self.position(batch.positions())
        languages = self.languages(batch) if "languages" in self else None
        summed = summed if languages is None else summed + languages
        if batch.segments is not None:
            summed = summed + self.word(batch.segments)
        normed: mx.array = self.norm(summed)
        return normed
