"""Tokens become batches: sorted by length, filled to a token budget, checked against the model's tables.

B texts, L tokens.
"""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import neg
from typing import Any

import mlx.core as mx
import numpy as np
from tqdm.auto import tqdm

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.errors import InputError, OverlongTextError, TokenRangeError
from mlx_hf_bridge.inference.parallel import run_in_parallel
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.device import STREAMS, TOKENS_PER_TEXT, release_memory

logger = logging.getLogger(__name__)

# Work of fewer slots is not split among streams: products of few rows are slow.
_FEWEST_SLOTS = 128
# What a batch costs beside its slots, in slots: its primitives are started and all weights are read.
_BATCH_COST = 24
# Rounds from which on freed memory goes back to the system, which a short call would have to ask for again.
_MUCH_WORK = 16
# How many sizes are tried for the batches of a call.
_SIZES = 16


def make_batch(
    config: EncoderConfig,
    ids: np.ndarray,
    mask: np.ndarray | None = None,
    token_type_ids: np.ndarray | None = None,
    position_ids: np.ndarray | None = None,
    inputs_embeds: mx.array | None = None,
    extra_inputs: Mapping[str, np.ndarray] | None = None,
) -> TokenBatch:
    """ids, mask, segments, places and own arguments, all (B, L), and vectors (B, L, E) in place of ids -> TokenBatch.

    TokenRangeError for anything outside an embedding table, which MLX would read past without a word.
    """
    if ids.ndim != 2 or 0 in ids.shape:
        raise InputError(f"input_ids has the shape {ids.shape}, expected (texts, tokens), neither of them 0.")
    _in_table("input_ids", ids, config.vocab_size, "vocab_size")
    last = config.last_position(ids) if position_ids is None else int(position_ids.max())
    first = 0 if position_ids is None else int(position_ids.min())
    if last >= config.max_position_embeddings or first < 0:
        raise TokenRangeError(
            f"{ids.shape[1]} tokens reach position {first if first < 0 else last}, and the model has positions 0 to "
            f"{config.max_position_embeddings - 1} (at most {config.max_length} tokens). Truncate the texts."
        )
    if ids.shape[1] > config.max_sequence_length:
        raise TokenRangeError(
            f"the texts have {ids.shape[1]} tokens, and {config.model_type!r} with this config.json is computed "
            f"here for {config.max_sequence_length} or fewer. Truncate the texts, or use transformers on torch "
            "for longer ones."
        )
    if token_type_ids is not None and config.type_vocab_size:
        _in_table("token_type_ids", token_type_ids, config.type_vocab_size, "type_vocab_size")
    own = dict(extra_inputs or {})
    for name, values in own.items():
        _in_table(name, values, config.extra_input_sizes[name], f"{name} of this config.json")
    mask = config.default_attention_mask(ids) if mask is None else mask
    full = mask is None or bool(mask.all())
    return TokenBatch(
        mx.array(ids.astype(np.int32)),
        None if full or mask is None else mx.array(mask.astype(bool)),
        None if token_type_ids is None or not config.type_vocab_size else mx.array(token_type_ids.astype(np.int32)),
        None if position_ids is None else mx.array(position_ids.astype(np.int32)),
        inputs_embeds,
        {name: mx.array(_narrow(values)) for name, values in own.items()},
    )


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)


def _in_table(name: str, values: np.ndarray, size: int, key: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= size:
        raise TokenRangeError(
            f"{name} has values from {low} to {high}, and the model's table has 0 to {size - 1} ({key}). "
            "Check that the tokenizer belongs to the model."
        )


def pad_tokens(config: EncoderConfig, tokens: Sequence[Tokens], pad_token_id: int) -> TokenBatch:
    """Tokens -> one batch, padded on the right to the longest."""
    longest = max(len(one) for one in tokens)
    ids = np.full((len(tokens), longest), pad_token_id, np.int32)
    mask = np.zeros((len(tokens), longest), bool)
    segments = np.zeros((len(tokens), longest), np.int32)
    for row, one in enumerate(tokens):
        ids[row, : len(one)], mask[row, : len(one)] = one.ids, True
        if one.token_type_ids is not None:
            segments[row, : len(one)] = one.token_type_ids
    given = any(one.token_type_ids is not None for one in tokens)
    counts = segments.any() or (given and config.zero_token_type_ids_matter)
    return make_batch(config, ids, mask, segments if counts else None)


def group_by_length(lengths: Sequence[int], batch_size: int, same_length: bool = False) -> Iterator[list[int]]:
    """Indices in batches, longest texts first; a batch has `batch_size` x SLOTS_A_TEXT slots or fewer, or one text.

    Where batches run side by side, they are of the size that leaves the streams least to wait for. even: only texts of
    one length go together.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    ordered = [max(1, lengths[index]) for index in order]
    share = -(-sum(ordered[:1]) * len(ordered) // STREAMS)
    most = min(batch_size * TOKENS_PER_TEXT, max(share, _FEWEST_SLOTS))
    sizes = [most * part // _SIZES for part in range(_SIZES, 0, -1)] if STREAMS > 1 else [most]
    tried = [_ends(ordered, slots, same_length) for slots in sizes if slots >= min(most, _FEWEST_SLOTS)]
    start = 0
    for end in min(tried, key=lambda ends: _waited(ordered, ends)):
        yield order[start:end]
        start = end


def _waited(lengths: Sequence[int], ends: Sequence[int]) -> int:
    """How long batches take in slots of one stream: streams wait for the slowest of a round."""
    slots = [lengths[start] * (end - start) for start, end in pairwise([0, *ends])]
    return sum(_BATCH_COST + max(slots[first : first + STREAMS]) for first in range(0, len(slots), STREAMS))


def _ends(lengths: Sequence[int], slots: int, same_length: bool) -> list[int]:
    """Where batches of so many slots or fewer end, in lengths from the longest down."""
    ends: list[int] = []
    start = 0
    while start < len(lengths):
        end = min(len(lengths), start + max(1, slots // lengths[start]))
        if same_length:
            end = bisect_right(lengths, -lengths[start], start, end, key=neg)
        ends.append(end)
        start = end
    return ends


# A part a text; of one shape they are rows of one array.
Results = list[Any] | np.ndarray


def to_float_rows(result: Any) -> Any:
    """An array with a row a text -> the same in numpy and float32."""
    return np.array(result)


@dataclass(frozen=True)
class BatchPipeline:
    """What happens to the tokens of a batch.

    make: tokens -> what `compute` takes. compute: that -> an array with a row a text (made float32), or any structure
    of arrays. rows_of: that, evaluated -> one part a text. one_shape: the parts are arrays of one shape. even: texts go
    together only with others of their length, for models whose answers padding changes.
    """

    make_batch_of: Callable[[list[Tokens]], Any]
    compute: Callable[[Any], Any]
    split_rows: Callable[[Any], Sequence[Any]] = to_float_rows
    same_length: bool = False
    same_shape: bool = False

    @property
    def deduplicates(self) -> bool:
        """Whether equal texts may have one part in common: an array, which callers copy."""
        return self.split_rows is to_float_rows

    def run_batch(self, tokens: list[Tokens]) -> Any:
        """The lazy result of one batch."""
        result = self.compute(self.make_batch_of(tokens))
        return result.astype(mx.float32) if isinstance(result, mx.array) else result


def run_blocks(
    blocks: Iterable[tuple[Sequence[int], Sequence[Tokens]]],
    count: int,
    steps: BatchPipeline,
    batch_size: int,
    show_progress: bool,
) -> Results:
    """Each text's part of what the steps give for its batch, in the order of the texts' numbers, 0 to `count` - 1.

    Parts of one shape are rows of one array (unless there are none), so that they lie in memory once.

    blocks: the numbers of some texts and their tokens; the next block is asked for while batches of the last one are
    still being computed.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size!r}, expected a whole number of 1 or more.")
    rows: Results = [None] * count
    under_way: deque[list[list[int]]] = deque()

    def works() -> Iterator[Callable[[], Any]]:
        for numbers, tokens in blocks:
            alone = (([number], one) for number, one in zip(numbers, tokens, strict=True))
            groups = _equal(numbers, tokens) if steps.deduplicates else list(alone)
            for indices in group_by_length([len(one) for _, one in groups], batch_size, steps.same_length):
                under_way.append([groups[index][0] for index in indices])
                yield partial(steps.run_batch, [groups[index][1] for index in indices])

    batches = 0
    with tqdm(total=count, desc="Encoding", unit="text", disable=None if show_progress else True) as bar:
        for result in run_in_parallel(works()):
            batches += 1
            parts = steps.split_rows(result)
            if batches == 1 and steps.same_shape:
                rows = np.empty((count, *parts[0].shape), parts[0].dtype)
            for numbers, row in zip(under_way.popleft(), parts, strict=True):
                for number in numbers:
                    rows[number] = row
                bar.update(len(numbers))
    if batches > _MUCH_WORK * STREAMS:
        release_memory()
    return rows


def _equal(numbers: Sequence[int], tokens: Sequence[Tokens]) -> list[tuple[list[int], Tokens]]:
    """Texts with equal tokens together: their numbers, and the tokens of the first."""
    found: dict[tuple[bytes | None, ...], tuple[list[int], Tokens]] = {}
    for number, one in zip(numbers, tokens, strict=True):
        found.setdefault(one.key, ([], one))[0].append(number)
    return list(found.values())


def run_batches(tokens: Sequence[Tokens], steps: BatchPipeline, batch_size: int, show_progress: bool) -> Results:
    """The same for tokens that are all there."""
    return run_blocks([(range(len(tokens)), tokens)], len(tokens), steps, batch_size, show_progress)


def report_truncation(tokens: Sequence[Tokens], limit: int, overlong: str, already_told: bool) -> bool:
    """Warn once of truncated texts, or refuse them -> whether the user has been told by now.

    overlong: "truncate" warns with the count, "error" raises OverlongTextError.
    """
    cut = sum(one.truncated for one in tokens)
    if not cut:
        return already_told
    if overlong == "error":
        raise OverlongTextError(
            f"{cut} of {len(tokens)} texts have more than {limit} tokens, the most that the model takes. "
            "Split them, or pass overlong='truncate' to lose their ends."
        )
    if not already_told:
        logger.warning(
            "%d of %d texts have more than %d tokens and were truncated; further ones will be too, without a word. "
            "Pass overlong='error' to refuse them.",
            cut,
            len(tokens),
            limit,
        )
    return True
