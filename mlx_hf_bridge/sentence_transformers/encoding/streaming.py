"""Texts from an iterator become vectors, a chunk at a time, in a memory that their number does not change."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.scoring.nearest import check_positive_integer

logger = logging.getLogger(__name__)

CHUNK_SIZE = 2048
# These have a range for the whole corpus, which a chunk does not know.
_NEED_RANGES = ("int8", "uint8")


class Encoder(Protocol):
    """What streams: sentence-transformers' encode and max_seq_length."""

    max_seq_length: Any

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Texts -> vectors."""
        ...


def encode_stream(
    self: Encoder,
    inputs: Iterable[Any],
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    precision: str = "float32",
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
    **kwargs: Any,
) -> Iterator[np.ndarray]:
    """Any iterable of texts or pairs -> arrays (n, V) of the vectors of each `chunk_size` texts, in their order.

    A chunk is read when the one before it has been taken, and batches are made by length within it: a vector is the
    same wherever a stream of the same chunks was begun. The other arguments are encode's. Raises what encode raises,
    and InputError for the precisions int8 and uint8, whose ranges are those of all vectors.
    """
    check_positive_integer("chunk_size", chunk_size)
    check_streamable_precision(precision)
    chunks = split_into_chunks(text_iterator(inputs), chunk_size)
    options = dict(
        prompt_name=prompt_name,
        prompt=prompt,
        batch_size=batch_size,
        precision=precision,
        normalize_embeddings=normalize_embeddings,
        truncate_dim=truncate_dim,
        **kwargs,
    )
    total = len(inputs) if isinstance(inputs, (list, tuple)) else None
    return _encoded(self, chunks, options, progress_bar(show_progress_bar, total))


def progress_bar(show: bool | None, total: int | None, done: int = 0) -> Any:
    """A bar of texts, silent where there is no terminal; None = as the level of logging has it."""
    if show is None:
        show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    return tqdm(total=total, initial=done, desc="Encoding", unit="text", disable=None if show else True)


def check_streamable_precision(precision: str) -> None:
    """InputError for a precision that cannot be given a chunk at a time."""
    if precision in _NEED_RANGES:
        raise InputError(
            f"precision={precision!r} is scaled to the range of all vectors, which a stream does not know. Stream "
            "float32 vectors and quantise them with quantize_embeddings and ranges, or ask for binary ones."
        )


def text_iterator(inputs: Any) -> Iterator[Any]:
    """The iterator of an iterable; InputError for a single text and for what is none."""
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise InputError(f"got a {type(inputs).__name__} to stream, expected an iterable of texts. Put one in a list.")
    return iter(inputs)


def split_into_chunks(texts: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` texts, the last one shorter."""
    while chunk := list(islice(texts, size)):
        yield chunk


def _encoded(model: Encoder, chunks: Iterator[list[Any]], options: Mapping[str, Any], bar: Any) -> Iterator[np.ndarray]:
    with bar:
        for chunk in chunks:
            vectors: np.ndarray = model.encode(chunk, show_progress_bar=False, **options)
            bar.update(len(chunk))
            yield vectors
