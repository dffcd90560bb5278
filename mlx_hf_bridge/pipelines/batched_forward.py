"""Run token sequences through a model in shared batches: duplicates once, sorted by length, results in input order.

L tokens, C classes, D hidden.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.inference.batching import BatchPipeline, make_batch, pad_tokens, run_batches
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading.load import LoadedModel

Compute = Callable[[TokenBatch], mx.array]


@dataclass(frozen=True)
class MaskedTokens(Tokens):
    """One token sequence with its own attention mask (L,), 0 at padding; None if every token counts."""

    mask: np.ndarray | None = None

    @property
    def key(self) -> tuple[bytes | None, ...]:
        """Return what equal sequences have in common, so that each is computed once."""
        return *super().key, None if self.mask is None else self.mask.tobytes()


def to_tokens(inputs: Mapping[str, Any], names: Sequence[str], trim_padding: bool) -> MaskedTokens:
    """Read one sequence from a tokenizer's output.

    Args:
        inputs: The tokenizer's output for one text, arrays of shape (1, L).
        names: The inputs that the model takes (the tokenizer's model_input_names).
        trim_padding: Whether padding on the right is dropped, because no output is wanted there.

    Returns:
        The token ids (L,), with token type ids and mask where there are any.
    """

    def read(name: str) -> np.ndarray | None:
        return np.asarray(inputs[name][0], np.int32) if name in names and name in inputs else None

    ids, token_type_ids, mask = (
        np.asarray(inputs["input_ids"][0], np.int32),
        read("token_type_ids"),
        read("attention_mask"),
    )
    if mask is not None and mask.all():
        mask = None
    if mask is not None and trim_padding and mask.any():
        # Padding that the caller asked for costs time and changes nothing, so it is cut off on the right.
        length = int(mask.nonzero()[0][-1]) + 1
        ids, token_type_ids, mask = (
            ids[:length],
            None if token_type_ids is None else token_type_ids[:length],
            mask[:length],
        )
        mask = None if mask.all() else mask
    return MaskedTokens(ids, token_type_ids, mask=mask)


def forward_in_batches(
    loaded: LoadedModel,
    sequences: Sequence[MaskedTokens],
    compute: Compute,
    pad_token_id: int,
    batch_size: int,
    show_progress: bool,
) -> list[np.ndarray]:
    """Run sequences through the model in batches.

    Sequences with padding of their own are batched only with sequences of the same length, because their positions
    count the padding too.

    Args:
        loaded: The model with its config.
        sequences: The token sequences, in any order.
        compute: Takes a batch of B sequences and returns an array of shape (B, ...).
        pad_token_id: The id that pads shorter sequences.
        batch_size: Bounds a batch to 12 * batch_size padded tokens on a CPU, 128 * batch_size on a GPU.
        show_progress: Whether to show a progress bar.

    Returns:
        Each sequence's row of what `compute` returned, float32, in the order of `sequences`.
    """
    outputs: dict[int, np.ndarray] = {}
    # Sequences with masks of their own cannot be cut or padded, so they are batched by equal length.
    for has_padding in (False, True):
        chosen = [index for index, tokens in enumerate(sequences) if (tokens.mask is not None) == has_padding]
        steps = batch_pipeline(loaded, compute, pad_token_id, has_padding)
        found = run_batches([sequences[index] for index in chosen], steps, batch_size, show_progress) if chosen else []
        outputs.update(zip(chosen, found, strict=True))
    return [outputs[index] for index in range(len(sequences))]


def batch_pipeline(
    loaded: LoadedModel, compute: Compute, pad_token_id: int, has_padding: bool = False
) -> BatchPipeline:
    """Return what is computed of batches of sequences.

    Args:
        loaded: The model with its config.
        compute: Takes a batch of B sequences and returns an array of shape (B, ...).
        pad_token_id: The id that pads shorter sequences.
        has_padding: Whether the sequences have padding of their own. Default: False.

    Returns:
        The steps, from tokens to one row for each sequence.
    """
    prepare = _stacked(loaded) if has_padding else _padded(loaded, pad_token_id)
    return BatchPipeline(prepare, compute, independent_length=0 if has_padding else loaded.independent_length)


def check_lengths(loaded: LoadedModel, sequences: Sequence[MaskedTokens], length_remedy: str) -> None:
    """Check that no sequence is longer than the model allows.

    Args:
        loaded: The model with its config.
        sequences: The token sequences.
        length_remedy: The advice at the end of the error message.

    Raises:
        TokenRangeError: If a sequence is too long.
    """
    longest, limit = max(len(tokens) for tokens in sequences), loaded.config.max_length
    if longest > limit:
        raise TokenRangeError(f"a text has {longest} tokens, and the model takes at most {limit}. {length_remedy}")


def _padded(loaded: LoadedModel, pad_token_id: int) -> Callable[[list[Tokens]], TokenBatch]:
    """Return a function that pads sequences to their longest."""
    return lambda tokens: pad_tokens(loaded.config, tokens, pad_token_id)


def _stacked(loaded: LoadedModel) -> Callable[[list[Tokens]], TokenBatch]:
    """Return a function that stacks sequences of one length, each with its own mask."""

    def stack(sequences: list[Tokens]) -> TokenBatch:
        masks = [
            tokens.mask if isinstance(tokens, MaskedTokens) and tokens.mask is not None else np.ones(len(tokens))
            for tokens in sequences
        ]
        token_type_ids = [
            np.zeros(len(tokens), np.int32) if tokens.token_type_ids is None else tokens.token_type_ids
            for tokens in sequences
        ]
        ids = np.stack([tokens.ids for tokens in sequences])
        return make_batch(loaded.config, ids, np.stack(masks), np.stack(token_type_ids))

    return stack
