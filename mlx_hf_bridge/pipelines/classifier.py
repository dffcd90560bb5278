"""What the classification tasks share: texts become logits in shared batches, any form of input is answered in kind.

Reference: transformers/pipelines/base.py (Pipeline.__call__). N texts or pairs, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from typing import Any, ClassVar, TypeVar

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.errors import ArgumentTypeError, EmptyInputError, InputError, TokenRangeError
from mlx_hf_bridge.inference.batching import in_batches, padded
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens
from mlx_hf_bridge.pretrained import MLXPreTrainedModel

R = TypeVar("R")

# How many texts or pairs are tokenised at once: enough to sort well by length, few enough to bound memory. A stream
# is read no further ahead than the smaller one.
LIST_ROWS = 4096
STREAM_ROWS = 256


@dataclass(frozen=True)
class Options:
    """What every task takes in a call, or as a default for all calls.

    batch_size: a batch holds at most that many times device.SLOTS_A_TEXT tokens; 1 also answers a stream text by text,
    as it comes.
    num_workers: taken as transformers takes it; has no effect, since tokenizers works on all cores by itself.
    """

    batch_size: int = 32
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size!r}, expected a whole number of 1 or more.")


Asked = TypeVar("Asked", bound=Options)


def changed(options: Asked, given: Mapping[str, Any], task: str) -> Asked:
    """Options with some values replaced; ArgumentTypeError names those that the task does not take."""
    known = [spec.name for spec in fields(options)]
    if unknown := [name for name in given if name not in known]:
        raise ArgumentTypeError(
            f"{task} got {', '.join(unknown)}, which it does not take; it takes {', '.join(known)}. Leave it out."
        )
    return replace(options, **given)


class Pipeline(ABC):
    """A sequence classification model with its tokenizer; may be called from several threads."""

    task: ClassVar[str]

    def __init__(self, model: MLXPreTrainedModel, tokenizer: Tokenizer, show_progress: bool = False) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._show_progress = show_progress
        self._max_length = model.loaded.config.max_length

    @abstractmethod
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Text, list or stream of texts -> one result, a list of results or an iterator over results."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task!r}, {self.model!r})"

    def _logits(self, tokens: Sequence[Tokens], batch_size: int, remedy: str) -> np.ndarray:
        """tokens of N texts -> (N, C) float32; TokenRangeError for more tokens than the model has positions."""
        longest = max(len(one) for one in tokens)
        if longest > self._max_length:
            raise TokenRangeError(
                f"a text has {longest} tokens, and the model takes at most {self._max_length}. {remedy}"
            )
        loaded, pad_token_id = self.model.loaded, self.tokenizer.pad_token_id

        def compute(batch: TokenBatch) -> mx.array:
            return loaded.model(batch).logits

        rows = in_batches(
            tokens,
            lambda chosen: padded(loaded.config, chosen, pad_token_id),
            compute,
            batch_size,
            self._show_progress,
            loaded.family.padding_shows,
        )
        return np.stack(rows)


def answered(inputs: Any, answer: Callable[[list[Any]], list[R]], options: Options, rows_a_text: int = 1) -> Any:
    """A list -> a list; a text or dict -> its result; anything else that can be iterated over -> a lazy iterator.

    answer: a list of texts -> their results. rows_a_text: how many rows of tokens each text becomes. An empty list
    raises EmptyInputError and an empty stream gives [], both as in transformers.
    """
    if isinstance(inputs, list):
        if not inputs:
            raise EmptyInputError("the list of texts is empty, expected at least one text.")
        return list(chain.from_iterable(map(answer, _chunks(iter(inputs), LIST_ROWS // rows_a_text))))
    stream = _stream(inputs)
    if stream is None:
        return answer([inputs])[0]
    first = list(islice(stream, 1))
    if not first:
        return []
    ahead = 1 if options.batch_size == 1 else STREAM_ROWS // rows_a_text
    return chain.from_iterable(map(answer, _chunks(chain(first, stream), ahead)))


def _stream(inputs: Any) -> Iterator[Any] | None:
    """The texts of a generator, iterator, data set or column one by one; None for what is one text."""
    if isinstance(inputs, (str, bytes, tuple, Mapping)):
        return None
    if isinstance(inputs, Iterable):
        return iter(inputs)
    if not isinstance(inputs, Sized):
        return None
    # torch's map-style data sets (transformers' KeyDataset) have a length and items only.
    items: Any = inputs
    return (items[index] for index in range(len(items)))


def _chunks(texts: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(texts, max(1, size))):
        yield chunk


def softmax(values: np.ndarray) -> np.ndarray:
    """Over the last axis, max-subtracted, so that no logit overflows."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return shares
