"""Any form of input is answered in kind: a text by its result, a list by a list, a stream by a lazy iterator.

Reference: transformers/pipelines/base.py (Pipeline.__call__).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import chain, islice
from typing import Any, TypeVar

from mlx_hf_bridge.errors import EmptyInputError

R = TypeVar("R")


def run_on_inputs(inputs: Any, answer: Callable[[list[Any]], list[R]], at_once: int, ahead: int) -> Any:
    """A list -> a list; a text or dict -> its result; anything else that can be iterated over -> a lazy iterator.

    answer: a list of texts -> their results. at_once: how many texts of a list are answered together; ahead: how many
    of a stream. An empty list raises EmptyInputError and an empty stream gives [], both as in transformers.
    """
    if isinstance(inputs, list):
        if not inputs:
            raise EmptyInputError("the list of texts is empty, expected at least one text.")
        return list(chain.from_iterable(map(answer, _chunks(iter(inputs), at_once))))
    stream = as_stream(inputs)
    if stream is None:
        return answer([inputs])[0]
    first = list(islice(stream, 1))
    if not first:
        return []
    return chain.from_iterable(map(answer, _chunks(chain(first, stream), ahead)))


def as_stream(inputs: Any) -> Iterator[Any] | None:
    """The texts of a generator, iterator, data set or column one by one; None for what is one text, or a list."""
    if isinstance(inputs, (str, bytes, list, tuple, Mapping)):
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
