"""Rows of tokens go through the model in shared batches: equal rows once, sorted by length, in the order they came.

L tokens, C classes, D hidden.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.inference.batching import BatchPipeline, checked_batch, in_batches, padded
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading.load import LoadedModel

Compute = Callable[[TokenBatch], mx.array]


@dataclass(frozen=True)
class MaskedTokens(Tokens):
    """Tokens of which the mask (L,) leaves some out, as padding; None = all count."""

    mask: np.ndarray | None = None

    @property
    def key(self) -> tuple[bytes | None, ...]:
        return *super().key, None if self.mask is None else self.mask.tobytes()


def to_tokens(inputs: Mapping[str, Any], names: Sequence[str], trimmed: bool) -> MaskedTokens:
    """A tokenizer's answer for one text, arrays (1, L), read for the input `names` of its model.

    trimmed: padding on the right is dropped, since no answer is wanted there.
    """

    def read(name: str) -> np.ndarray | None:
        return np.asarray(inputs[name][0], np.int32) if name in names and name in inputs else None

    ids, segments, mask = np.asarray(inputs["input_ids"][0], np.int32), read("token_type_ids"), read("attention_mask")
    if mask is not None and mask.all():
        mask = None
    if mask is not None and trimmed and mask.any():
        length = int(mask.nonzero()[0][-1]) + 1
        ids, segments, mask = ids[:length], None if segments is None else segments[:length], mask[:length]
        mask = None if mask.all() else mask
    return MaskedTokens(ids, segments, mask=mask)


def forward_in_batches(
    loaded: LoadedModel,
    sequences: Sequence[MaskedTokens],
    compute: Compute,
    pad_token_id: int,
    batch_size: int,
    show_progress: bool,
) -> list[np.ndarray]:
    """Each row's part of what `compute` gives for its batch, float32.

    Rows with padding of their own go only with rows of their length, since places are counted over their padding.
    """
    answers: dict[int, np.ndarray] = {}
    for own in (False, True):
        chosen = [number for number, row in enumerate(sequences) if (row.mask is not None) == own]
        steps = BatchPipeline(
            _stacked(loaded) if own else _padded(loaded, pad_token_id),
            compute,
            even=own or loaded.family.length_dependent,
        )
        found = in_batches([sequences[number] for number in chosen], steps, batch_size, show_progress) if chosen else []
        answers.update(zip(chosen, found, strict=True))
    return [answers[number] for number in range(len(sequences))]


def check_lengths(loaded: LoadedModel, sequences: Sequence[MaskedTokens], length_remedy: str) -> None:
    """TokenRangeError for a row that is longer than the model takes."""
    longest, limit = max(len(row) for row in sequences), loaded.config.max_length
    if longest > limit:
        raise TokenRangeError(f"a text has {longest} tokens, and the model takes at most {limit}. {length_remedy}")


def _padded(loaded: LoadedModel, pad_token_id: int) -> Callable[[list[Tokens]], TokenBatch]:
    return lambda tokens: padded(loaded.config, tokens, pad_token_id)


def _stacked(loaded: LoadedModel) -> Callable[[list[Tokens]], TokenBatch]:
    """Rows of one length, each with its own mask."""

    def stack(tokens: list[Tokens]) -> TokenBatch:
        masks = [
            row.mask if isinstance(row, MaskedTokens) and row.mask is not None else np.ones(len(row)) for row in tokens
        ]
        token_type_ids = [
            np.zeros(len(row), np.int32) if row.token_type_ids is None else row.token_type_ids for row in tokens
        ]
        ids = np.stack([row.ids for row in tokens])
        return checked_batch(loaded.config, ids, np.stack(masks), np.stack(token_type_ids))

    return stack
