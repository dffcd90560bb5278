"""What takes the token in which a text ends.

B texts, L tokens, D hidden, P projected width, C classes.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.heads import Answers, WordTable
from mlx_hf_bridge.layers.linear import Linear

# Before transformers' PR 24773 CLIP's config.json said 2, whatever the tokenizer's was.
_WRONG_END = 2


class EndPooler(nn.Module):
    """hidden (B, L, D) -> the first end-of-text token's (B, D), or the first slot's of a row without one.

    With the old files' id of 2, the end is the highest id of a row.
    """

    def __init__(self, eos_token_id: int) -> None:
        super().__init__()
        self.eos_token_id = eos_token_id

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        is_end = batch.ids if self.eos_token_id == _WRONG_END else (batch.ids == self.eos_token_id).astype(mx.int32)
        return batch.take(hidden, mx.argmax(is_end, axis=1))


class LastSlotPooler(nn.Module):
    """hidden (B, L, D) -> a product of the last slot, padding or not (B, P)."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.out = Linear(hidden_size, width)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return self.out(last_slot(hidden, batch))


def last_slot(hidden: mx.array, batch: TokenBatch) -> mx.array:
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

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, words: WordTable) -> Answers:
        is_token = batch.token_mask(mx.int32)[:, :, 0]
        if self.pad_token_id is not None:
            is_token = (batch.ids != self.pad_token_id).astype(mx.int32)
        last = mx.argmax(is_token * mx.arange(is_token.shape[1], dtype=mx.int32), axis=1)
        return {"logits": self.out(batch.take(hidden, last))}
