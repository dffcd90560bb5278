"""Run a pipeline on any form of input: one text gives one result, a list a list, a stream a lazy iterator.

Reference: transformers/pipelines/base.py (Pipeline.__call__).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import chain, islice
from typing import Any, TypeVar

from mlx_hf_bridge.errors import EmptyInputError

R = TypeVar("R")


def run_on_inputs(inputs: Any, run: Callable[[list[Any]], list[R]], at_once: int, read_ahead: int) -> Any:
    """Run a function of a list of texts on one text, a list of texts or a stream of texts.

    Args:
        inputs: A text or dict; a list of them; or anything else that can be iterated over.
        run: Takes a list of texts and returns their results.
        at_once: How many texts of a list are given to `run` together.
        read_ahead: How many texts of a stream are given to `run` together.

    Returns:
        For a text or dict its result, for a list a list of results, for a stream a lazy iterator over results; [] for
        an empty stream, as in transformers.

    Raises:
        EmptyInputError: If the list is empty, as in transformers.
    """
    if isinstance(inputs, list):
        if not inputs:
            raise EmptyInputError("the list of texts is empty, expected at least one text.")
        return list(chain.from_iterable(map(run, _chunks(iter(inputs), at_once))))
    stream = as_stream(inputs)
    if stream is None:
        return run([inputs])[0]
    # Reads one text, so that an empty stream gives an empty list as in transformers.
    first = list(islice(stream, 1))
    if not first:
        return []
    return chain.from_iterable(map(run, _chunks(chain(first, stream), read_ahead)))


def as_stream(inputs: Any) -> Iterator[Any] | None:
    """Return an iterator over a stream of texts.

    Args:
        inputs: What a pipeline was called with.

    Returns:
        An iterator over the texts of a generator, iterator, dataset or column; None for a single text or a list.
    """
    if isinstance(inputs, (str, bytes, list, tuple, Mapping)):
        return None
    if isinstance(inputs, Iterable):
        return iter(inputs)
    if not isinstance(inputs, Sized):
        return None
    # torch's map-style datasets (transformers' KeyDataset) have only a length and items.
    items: Any = inputs
    return (items[index] for index in range(len(items)))


def _chunks(texts: Iterator[Any], size: int) -> Iterator[list[Any]]:
    # max(1, ...): one text may become more sequences than are processed together.
    while chunk := list(islice(texts, max(1, size))):
        yield chunk
