"""encode_stream: embeddings of the texts of an iterator, a chunk at a time, in bounded memory."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from operator import length_hint
from typing import Any, Protocol

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.layers.single_batch import repeatable_results
from mlx_hf_bridge.runtime.progress import ProgressBar
from mlx_hf_bridge.sentence_transformers.scoring.nearest import check_positive_integer

logger = logging.getLogger(__name__)

CHUNK_SIZE = 2048
# Their ranges come from all embeddings, which a stream does not have at once.
_NEED_RANGES = ("int8", "uint8")


class Encoder(Protocol):
    """The part of MLXSentenceTransformer that streaming needs."""

    max_seq_length: Any

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the embeddings of texts.

        Args:
            inputs: A list of texts.
            *args: Further arguments of encode.
            **kwargs: Further arguments of encode.

        Returns:
            Embeddings (N, V).
        """
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
    """Yield the embeddings of the texts of an iterable, a chunk at a time.

    A chunk is read when the previous one has been taken, so that memory does not grow with the number of texts. Batches
    are formed within a chunk: embeddings do not depend on where a stream was started, if its chunks are the same.

    Args:
        inputs: An iterable of texts or pairs of texts, such as a generator.
        prompt_name: The name of the prompt to put before every text. Default: None.
        prompt: A text to put before every text. Default: None.
        batch_size: Bounds the number of tokens in a batch, as in `encode`. Default: 32.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.
        precision: "float32" (default), "binary" or "ubinary".
        normalize_embeddings: Scale embeddings to length 1. Default: False.
        truncate_dim: How many dimensions are kept. Default: None, the model's `truncate_dim`.
        chunk_size: How many texts are read and encoded at a time. Default: 2048.
        **kwargs: Further arguments of `encode`.

    Returns:
        An iterator of numpy arrays (n, V), in the order of the texts; all but the last have n = chunk_size.

    Raises:
        InputError: If inputs is a single text or not iterable, or the precision is "int8" or "uint8", whose ranges
            come from all embeddings; later also what `encode` raises.

    Example:
        >>> with open("texts.txt") as lines:
        ...     for embeddings in model.encode_stream(lines, chunk_size=1000):
        ...         index.add(embeddings)
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
    total = length_hint(inputs) or None
    # A separate generator, so that wrong arguments are an error at the call and not at the first chunk.
    return _encoded(self, chunks, options, progress_bar(show_progress_bar, total))


def progress_bar(show: bool | None, total: int | None, done: int = 0) -> Any:
    """Return a progress bar that counts texts, and stays silent without a terminal.

    Args:
        show: Whether to show it; None shows it if this package logs at level INFO or DEBUG.
        total: The number of texts, or None if it is not known.
        done: How many are done already. Default: 0.

    Returns:
        A tqdm bar.
    """
    if show is None:
        # sentence-transformers' rule for show_progress_bar=None.
        show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    return ProgressBar(total=total, initial=done, desc="Encoding", unit="text", disable=None if show else True)


def check_streamable_precision(precision: str) -> None:
    """Raise an error for a precision that needs all embeddings at once.

    Args:
        precision: The precision argument of encode_stream or encode_to_file.

    Raises:
        InputError: If it is "int8" or "uint8".
    """
    if precision in _NEED_RANGES:
        raise InputError(
            f"precision={precision!r} is scaled to the range of all embeddings, which a stream does not know. Stream "
            "float32 embeddings and quantize them with quantize_embeddings and ranges, or use a binary precision."
        )


def text_iterator(inputs: Any) -> Iterator[Any]:
    """Return an iterator over inputs that may be any iterable but a single text.

    Args:
        inputs: What encode_stream was given.

    Returns:
        An iterator of texts.

    Raises:
        InputError: If it is a single text, or not iterable.
    """
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise InputError(f"got a {type(inputs).__name__} to stream, expected an iterable of texts. Put one in a list.")
    return iter(inputs)


def split_into_chunks(texts: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of texts.

    Args:
        texts: An iterator of texts.
        size: The number of texts in a list.

    Yields:
        Lists of `size` texts; the last one may be shorter.
    """
    while chunk := list(islice(texts, size)):
        yield chunk


def _encoded(model: Encoder, chunks: Iterator[list[Any]], options: Mapping[str, Any], bar: Any) -> Iterator[np.ndarray]:
    with bar:
        for chunk in chunks:
            # Not around `yield`, where the caller's own code would see it.
            with repeatable_results():
                # One bar counts all chunks; encode's own would start again with each.
                vectors: np.ndarray = model.encode(chunk, show_progress_bar=False, **options)
            bar.update(len(chunk))
            yield vectors
