"""Batching: token sequences are sorted by length, grouped up to a token budget, padded and run through the model.

Axes: B texts, L tokens, E embedding width.
"""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import neg
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.model_inputs import check_range, check_values
from mlx_hf_bridge.errors import InputError, OverlongTextError, TokenRangeError
from mlx_hf_bridge.inference.parallel import run_in_parallel
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.device import STREAMS, TOKENS_PER_TEXT, release_memory
from mlx_hf_bridge.runtime.progress import ProgressBar

logger = logging.getLogger(__name__)

# Calls with fewer padded tokens than this are not split among streams, because matmuls with few rows are slow.
_MIN_TOKENS = 128
# What a batch costs besides its tokens, expressed in tokens: starting its primitives and reading all weights.
_BATCH_COST = 24
# Rounds of parallel batches from which on freed memory goes back to the system. A short call would have to ask for it
# again: 4 to 9 percent of a call of 100 texts.
_ROUNDS_BEFORE_RELEASE = 16
# How many batch sizes are compared for a call. The one with the shortest sum of rounds needs 1.13 padded tokens per
# token on the longest path for 100 titles and articles, where the largest size alone needs 1.22.
_SIZES = 16


def make_batch(
    config: EncoderConfig,
    ids: np.ndarray,
    mask: np.ndarray | None = None,
    token_type_ids: np.ndarray | None = None,
    position_ids: np.ndarray | None = None,
    inputs_embeds: mx.array | None = None,
    extra_inputs: Mapping[str, np.ndarray] | None = None,
    attention_bias: mx.array | None = None,
) -> TokenBatch:
    """Check model inputs against the model's tables and return them as a batch.

    MLX does not check indices: an id outside a table would silently read other memory.

    Args:
        config: The model's config.
        ids: Token ids, (B, L); placeholders if `inputs_embeds` are given.
        mask: Attention mask, (B, L), 1 for real tokens; None for the model's default.
        token_type_ids: Token type ids, (B, L), or None.
        position_ids: Positions, (B, L), or None.
        inputs_embeds: Embeddings to use instead of the ids', (B, L, E), or None.
        extra_inputs: Model-specific inputs by name, (B, L) or (B, L, ...), or None.
        attention_bias: What is added to the attention scores instead of the mask, or None; see TokenBatch.

    Returns:
        The batch. A mask that hides nothing is dropped, since layers are faster without one.

    Raises:
        InputError: If the ids are not a matrix, or are empty.
        TokenRangeError: If an id, position or token type is outside the model's tables, or the texts are too long.
    """
    if ids.ndim != 2 or 0 in ids.shape:
        raise InputError(f"input_ids has the shape {ids.shape}, expected (texts, tokens), neither of them 0.")
    # Checked here because MLX does not check bounds: an id beyond a table would read other memory.
    check_range("input_ids", ids, config.vocab_size, "vocab_size")
    _check_positions(config, ids, position_ids)
    if not config.reads_token_type_ids:
        token_type_ids = None
    if token_type_ids is not None:
        check_range("token_type_ids", token_type_ids, config.type_vocab_size, "type_vocab_size")
    extra = dict(extra_inputs or {})
    for name, values in extra.items():
        check_values(name, values, config.extra_inputs[name])
    mask = config.default_attention_mask(ids) if mask is None else mask
    # A mask without zeros is dropped: layers then skip its work.
    full = mask is None or bool(mask.all())
    found = None if full or mask is None else mx.array(mask.astype(bool))
    has_empty_rows = mask is not None and not bool(mask.any(axis=1).all())
    if has_empty_rows and found is not None and attention_bias is None and config.has_eager_attention:
        attention_bias = mx.where(found, 0, mx.finfo(mx.float32).min)[:, None, None]
    return TokenBatch(
        mx.array(ids.astype(np.int32)),
        found,
        None if token_type_ids is None else mx.array(token_type_ids.astype(np.int32)),
        None if position_ids is None else mx.array(position_ids.astype(np.int32)),
        inputs_embeds,
        attention_bias,
        has_empty_rows,
        {name: mx.array(_to_32_bits(values)) for name, values in extra.items()},
    )


def _check_positions(config: EncoderConfig, ids: np.ndarray, position_ids: np.ndarray | None) -> None:
    last = config.last_position(ids) if position_ids is None else int(position_ids.max())
    first = 0 if position_ids is None else int(position_ids.min())
    rows = config.position_rows
    if rows != NO_POSITIONS and (last >= rows or first < 0):
        raise TokenRangeError(
            f"{ids.shape[1]} tokens reach position {first if first < 0 else last}, and the model has positions 0 to "
            f"{rows - 1} (at most {config.max_length} tokens). Truncate the texts."
        )
    if ids.shape[1] > config.max_sequence_length:
        raise TokenRangeError(
            f"the texts have {ids.shape[1]} tokens, and {config.model_type!r} with this config.json is computed "
            f"here for {config.max_sequence_length} or fewer. Truncate the texts, or use transformers on torch "
            "for longer ones."
        )


def _to_32_bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)


def pad_tokens(config: EncoderConfig, tokens: Sequence[Tokens], pad_token_id: int) -> TokenBatch:
    """Pad token sequences on the right to the longest.

    Args:
        config: The model's config.
        tokens: The token sequences.
        pad_token_id: Id of padding.

    Returns:
        One batch of shape (B, L). Token type ids that are all 0 are left out, unless the model
        distinguishes zeros from none.
    """
    # At least 1: a batch may hold nothing but a text without tokens, and gives it what a batch with others does.
    longest = max(1, *(len(one) for one in tokens))
    ids = np.full((len(tokens), longest), pad_token_id, np.int32)
    mask = np.zeros((len(tokens), longest), bool)
    token_type_ids = np.zeros((len(tokens), longest), np.int32)
    for row, one in enumerate(tokens):
        ids[row, : len(one)], mask[row, : len(one)] = one.ids, True
        if one.token_type_ids is not None:
            token_type_ids[row, : len(one)] = one.token_type_ids
    given = any(one.token_type_ids is not None for one in tokens)
    # All-zero token type ids are what a model assumes without them, except in a few families.
    matter = token_type_ids.any() or (given and config.zero_token_type_ids_matter)
    return make_batch(config, ids, mask, token_type_ids if matter else None)


def group_by_length(
    lengths: Sequence[int], batch_size: int, independent_length: int = NO_POSITIONS
) -> Iterator[list[int]]:
    """Group texts of similar length into batches, longest texts first.

    A batch has at most `batch_size` x TOKENS_PER_TEXT tokens, padding included, or is a single text. Where batches run
    in parallel streams, the batch size is the one that leaves the streams the least time to wait for each other.

    Args:
        lengths: Number of tokens of each text.
        batch_size: Factor of that bound, 1 or more.
        independent_length: Length above which only texts of equal length may share a batch; 0 for all texts.

    Yields:
        Indices into `lengths`, one list per batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    # An empty text takes a position of padding, and must not be divided by.
    ordered = [max(1, lengths[index]) for index in order]
    # One stream's share of the padded tokens, rounded up, if all texts were as long as the longest.
    share = -(-sum(ordered[:1]) * len(ordered) // STREAMS)
    most = min(batch_size * TOKENS_PER_TEXT, max(share, _MIN_TOKENS))
    sizes = [most * part // _SIZES for part in range(_SIZES, 0, -1)] if STREAMS > 1 else [most]
    tried = [_batch_ends(ordered, budget, independent_length) for budget in sizes if budget >= min(most, _MIN_TOKENS)]
    start = 0
    for end in min(tried, key=lambda ends: _duration(ordered, ends)):
        yield order[start:end]
        start = end


def _duration(lengths: Sequence[int], ends: Sequence[int]) -> int:
    """Return how long batches take, in padded tokens of one stream: each round waits for its slowest batch."""
    tokens = [lengths[start] * (end - start) for start, end in pairwise([0, *ends])]
    return sum(_BATCH_COST + max(tokens[first : first + STREAMS]) for first in range(0, len(tokens), STREAMS))


def _batch_ends(lengths: Sequence[int], budget: int, independent_length: int) -> list[int]:
    """Return where batches of at most `budget` padded tokens end, for lengths in descending order."""
    ends: list[int] = []
    start = 0
    while start < len(lengths):
        end = min(len(lengths), start + max(1, budget // lengths[start]))
        if lengths[start] > independent_length:
            # bisect needs ascending values, and lengths descend.
            end = bisect_right(lengths, -lengths[start], start, end, key=neg)
        ends.append(end)
        start = end
    return ends


# What names a text in a block, such as its number.
Key = TypeVar("Key")
# One result per text; results of one shape are rows of one array.
Results = list[Any] | np.ndarray


def to_float_rows(result: Any) -> Any:
    """Return an evaluated array with a row per text as a numpy array.

    Args:
        result: Array of shape (B, ...).

    Returns:
        numpy array of the same shape and dtype.
    """
    return np.array(result)


@dataclass(frozen=True)
class BatchPipeline:
    """The steps that turn the tokens of a batch into one result per text.

    Args:
        prepare: Turns token sequences into the input of `compute`, usually a TokenBatch.
        compute: Turns that into a lazy array with a row per text, which is converted to float32, or into any structure
            of arrays.
        split_rows: Splits the evaluated output of `compute` into one result per text.
        independent_length: Length above which only texts of equal length share a batch, for models whose outputs
            depend on padding.
        same_shape: Whether all results are arrays of one shape, which are then stored in one array.
    """

    prepare: Callable[[list[Tokens]], Any]
    compute: Callable[[Any], Any]
    split_rows: Callable[[Any], Sequence[Any]] = to_float_rows
    independent_length: int = NO_POSITIONS
    same_shape: bool = False

    @property
    def deduplicates(self) -> bool:
        """Whether equal texts are computed once and share a result; only arrays, which callers copy, are shared."""
        return self.split_rows is to_float_rows

    def run_batch(self, tokens: list[Tokens]) -> Any:
        """Prepare one batch and compute its lazy output.

        Args:
            tokens: The token sequences of the batch.

        Returns:
            The output of `compute`, float32 if it is a single array.
        """
        # Lazy until the round is evaluated with the other streams' batches.
        result = self.compute(self.prepare(tokens))
        return result.astype(mx.float32) if isinstance(result, mx.array) else result


def run_blocks(
    blocks: Iterable[tuple[Sequence[int], Sequence[Tokens]]],
    count: int,
    pipeline: BatchPipeline,
    batch_size: int,
    show_progress: bool,
) -> Results:
    """Run blocks of texts through a pipeline, in batches of similar length.

    Args:
        blocks: Text numbers (0 to `count` - 1) and tokens of each block. The next block is requested while batches of
            the last one are still being computed, so tokenization and computation overlap.
        count: Number of texts in all blocks.
        pipeline: What to compute.
        batch_size: Size of batches, as for group_by_length.
        show_progress: Whether to show a progress bar.

    Returns:
        One result per text, in the order of the numbers. With `pipeline.same_shape`, the rows of one array, so that
        results are in memory once; an empty list if there are no texts.

    Raises:
        InputError: If `batch_size` is not a positive integer.
    """
    batch_size = plain_scalar(batch_size)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r}, expected an integer of 1 or more.")
    results: Results = [None] * count
    batches = 0
    with ProgressBar(total=count, desc="Encoding", unit="text", disable=None if show_progress else True) as bar:
        for keys, rows in stream_blocks(blocks, pipeline, batch_size):
            batches += 1
            if batches == 1 and pipeline.same_shape:
                # Allocated once the shape is known, so that rows need not be stacked, which would double the memory.
                results = np.empty((count, *rows[0].shape), rows[0].dtype)
            for numbers, row in zip(keys, rows, strict=True):
                for number in numbers:
                    results[number] = row
                bar.update(len(numbers))
    if batches > _ROUNDS_BEFORE_RELEASE * STREAMS:
        release_memory()
    return results


def stream_blocks(
    blocks: Iterable[tuple[Sequence[Key], Sequence[Tokens]]], pipeline: BatchPipeline, batch_size: int
) -> Iterator[tuple[list[list[Key]], Sequence[Any]]]:
    """Run blocks of texts through a pipeline, and yield the results of each batch as soon as it is computed.

    Args:
        blocks: A key (a number, for example) and the tokens of each text of each block. The next block is requested
            while batches of the last one are still being computed.
        pipeline: What to compute.
        batch_size: Size of batches, as for group_by_length.

    Yields:
        For each batch the keys of the texts of each row, more than one if texts are equal, and the rows. Every batch
        of a block comes before those of the next block.
    """
    pending: deque[list[list[Key]]] = deque()
    # `pending` is filled by the generator and emptied here, in one order; so each result finds its texts.
    for result in run_in_parallel(_batch_jobs(blocks, pipeline, batch_size, pending)):
        yield pending.popleft(), pipeline.split_rows(result)


def _batch_jobs(
    blocks: Iterable[tuple[Sequence[Key], Sequence[Tokens]]],
    pipeline: BatchPipeline,
    batch_size: int,
    pending: deque[list[list[Key]]],
) -> Iterator[Callable[[], Any]]:
    """Yield a function for each batch, and append to `pending` the keys of the texts of each of its rows."""
    for keys, tokens in blocks:
        separate = (([key], one) for key, one in zip(keys, tokens, strict=True))
        groups = _deduplicated(keys, tokens) if pipeline.deduplicates else list(separate)
        for indices in group_by_length([len(one) for _, one in groups], batch_size, pipeline.independent_length):
            pending.append([groups[index][0] for index in indices])
            yield partial(pipeline.run_batch, [groups[index][1] for index in indices])


def _deduplicated(keys: Sequence[Key], tokens: Sequence[Tokens]) -> list[tuple[list[Key], Tokens]]:
    """Return texts with equal tokens together: their keys, and the tokens of the first."""
    found: dict[tuple[bytes | None, ...], tuple[list[Key], Tokens]] = {}
    for key, one in zip(keys, tokens, strict=True):
        # By tokens and not by text: texts that differ in case or spaces only may have equal tokens.
        found.setdefault(one.key, ([], one))[0].append(key)
    return list(found.values())


def run_batches(tokens: Sequence[Tokens], pipeline: BatchPipeline, batch_size: int, show_progress: bool) -> Results:
    """Run texts that are all tokenized through a pipeline, in batches of similar length.

    Args:
        tokens: Tokens of each text.
        pipeline: What to compute.
        batch_size: Size of batches, as for group_by_length.
        show_progress: Whether to show a progress bar.

    Returns:
        One result per text, in the order of `tokens`.
    """
    return run_blocks([(range(len(tokens)), tokens)], len(tokens), pipeline, batch_size, show_progress)


def report_truncation(tokens: Sequence[Tokens], limit: int, overlong: str, already_warned: bool) -> bool:
    """Warn of truncated texts, once, or raise an error.

    Args:
        tokens: Tokens of each text.
        limit: The most tokens that the model takes.
        overlong: "truncate" to log a warning with the count, "error" to raise.
        already_warned: Whether the warning was logged before.

    Returns:
        Whether the warning has been logged by now.

    Raises:
        OverlongTextError: If texts were truncated and `overlong` is "error".
    """
    truncated = sum(one.truncated for one in tokens)
    if not truncated:
        return already_warned
    if overlong == "error":
        raise OverlongTextError(
            f"{truncated} of {len(tokens)} texts have more than {limit} tokens, the most that the model takes. "
            "Split them, or pass overlong='truncate' to lose their ends."
        )
    if not already_warned:
        logger.warning(
            "%d of %d texts have more than %d tokens and were truncated; further warnings are suppressed. "
            "Pass overlong='error' to get an error instead.",
            truncated,
            len(tokens),
            limit,
        )
    return True
