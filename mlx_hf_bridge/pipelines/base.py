"""What every task shares; transformers' own pipeline classes are built on this class in the place of theirs.

Reference: transformers/pipelines/base.py.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, BridgeError, InputError, UnknownNameError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pipelines.batched_forward import check_lengths, forward_in_batches, to_tokens
from mlx_hf_bridge.pipelines.host_array import as_host_array
from mlx_hf_bridge.pipelines.inputs import run_on_inputs
from mlx_hf_bridge.pipelines.tokenizer import HostTokenizer, tokenizer_lock
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

logger = logging.getLogger(__name__)

Chunk = dict[str, Any]

BATCH_SIZE = 32
# A stream is read no further ahead than that many rows of tokens.
STREAM_SEQUENCES = 256
_TRANSFORMERS_TASKS = "mlx_hf_bridge.pipelines.transformers_tasks.pipelines."


class Pipeline:
    """A model with its tokenizer, called with texts as transformers' pipeline of the task; safe from several threads.

    model: an MLXPreTrainedModel. tokenizer: one of transformers. batch_size: a batch holds at most that many times
    device.SLOTS_A_TEXT tokens; 1 also answers a stream text by text, as it comes. num_workers: taken as transformers
    takes it; has no effect, since tokenizers works on all cores by itself. options: what the task's calls take, for
    calls that do not say otherwise.
    """

    task: ClassVar[str]
    accepted_options: ClassVar[tuple[str, ...]]
    # How many rows of tokens are worked on at once: enough to sort well by length, few enough to bound memory.
    sequences_at_once: ClassVar[int] = 4096
    length_remedy: ClassVar[str] = "Split it."
    truncation_remedy: ClassVar[str] = "Split them to have every part read."
    # Whether long texts are cut without anyone having asked for it.
    truncates_by_default: ClassVar[bool] = False
    # Whether answers at padding are asked for.
    outputs_at_padding: ClassVar[bool] = False

    def __init__(
        self,
        model: MLXPreTrainedModel,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        show_progress: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        self.tokenizer = HostTokenizer(tokenizer, model.loaded.config.max_length)
        self._batch_size = check_batch_size(batch_size, BATCH_SIZE)
        self._show_progress = show_progress
        self._warned_of_truncation = False
        self._preprocess_params, self._postprocess_params = self._split_options(options)

    def __call__(
        self, inputs: Any, *args: Any, num_workers: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """Text, list or stream of texts -> one result, a list of results or an iterator over results."""
        if args:
            raise InputError(f"got the arguments {args!r} after the texts, expected none. Pass them by name.")
        before, after = self._split_options(options)
        before, after = {**self._preprocess_params, **before}, {**self._postprocess_params, **after}
        size = check_batch_size(batch_size, self._batch_size)
        sequences = self._sequences_per_text(before)

        def answer(texts: list[Any]) -> list[Any]:
            return self._run_batch(texts, before, after, size)

        ahead = 1 if size == 1 else STREAM_SEQUENCES // sequences
        return run_on_inputs(inputs, answer, self.sequences_at_once // sequences, ahead)

    @property
    def device(self) -> Any:
        """Where results are, the CPU: a torch.device where torch is loaded, else its name."""
        return self.model.device

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype in which unpacked weights are stored."""
        return self.model.dtype

    @property  # type: ignore[misc]  # object's can be assigned to, which nobody needs
    def __class__(self) -> type:
        """What isinstance() asks for first, and the moment to tell transformers' classes, where loaded, of this one."""
        _register_with_transformers(type(self))
        return type(self)

    def transform(self, X: Any) -> Any:
        """The call under scikit-learn's name."""
        return self(X)

    def predict(self, X: Any) -> Any:
        """The call under scikit-learn's name."""
        return self(X)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write model and tokenizer into a folder from which pipeline() loads both; options: as the model's."""
        self.model.save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(save_directory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task!r}, {self.model!r})"

    def _split_options(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options -> what preprocess and postprocess take; ArgumentTypeError for one that the task does not take."""
        if unknown := [name for name in options if name not in self.accepted_options]:
            known = ", ".join((*self.accepted_options, "batch_size", "num_workers"))
            raise ArgumentTypeError(
                f"{self.task} got {', '.join(unknown)}, which it does not take; it takes {known}. Leave it out."
            )
        with _as_bridge_errors(), tokenizer_lock:
            before, _, after = self._sanitize_parameters(**options)
        return before, after

    def _run_batch(self, texts: list[Any], before: dict[str, Any], after: dict[str, Any], batch_size: int) -> list[Any]:
        with _as_bridge_errors(), tokenizer_lock:
            texts_chunks = self._preprocess_texts(texts, before)
            if self.truncates_by_default:
                self._warn_if_truncated(self.tokenizer.pop_truncated_count(), len(texts))
        answers = iter(self._model_outputs([chunk for chunks in texts_chunks for chunk in chunks], batch_size))
        outputs = [[self._postprocess_inputs(chunk, next(answers)) for chunk in chunks] for chunks in texts_chunks]
        with tokenizer_lock:
            return [self._postprocess_text(output, after) for output in outputs]

    def _model_outputs(self, chunks: Sequence[Chunk], batch_size: int) -> list[np.ndarray]:
        names = self.tokenizer.model_input_names
        sequences = [to_tokens(chunk, names, not self.outputs_at_padding) for chunk in chunks]
        check_lengths(self.model.loaded, sequences, self.length_remedy)
        pad_token_id = self.tokenizer.pad_token_id or 0
        answers = forward_in_batches(
            self.model.loaded, sequences, self._call_model, pad_token_id, batch_size, self._show_progress
        )
        return [self._unpad(answer, len(row)) for answer, row in zip(answers, sequences, strict=True)]

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Options -> those of preprocess, of nothing, and of postprocess, as transformers' files split them."""
        raise NotImplementedError

    def preprocess(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """One text -> what the tokenizer says of it, arrays (1, L)."""
        raise NotImplementedError

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        """What the tokenizer and the model say of one text -> its result."""
        raise NotImplementedError

    def _sequences_per_text(self, before: Mapping[str, Any]) -> int:
        """How many rows of tokens a text becomes, about."""
        return 1

    def _preprocess_texts(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        """Texts -> the parts of each, with arrays (1, L) that a row of tokens is made of."""
        return [[self.preprocess(text, **before)] for text in texts]

    def _call_model(self, batch: TokenBatch) -> mx.array:
        """A batch -> what is wanted of the model, one row a text."""
        return self.model.loaded.model(batch, outputs_only=True).logits

    def _unpad(self, answer: np.ndarray, length: int) -> np.ndarray:
        """A text's part of its row."""
        return answer

    def _postprocess_inputs(self, chunk: Chunk, answer: np.ndarray) -> Any:
        """What postprocess is given: what the tokenizer said, and the model's answer (1, ...)."""
        return {**chunk, "logits": as_host_array(answer[None])}

    def _postprocess_text(self, outputs: list[Any], after: dict[str, Any]) -> Any:
        return self.postprocess(outputs[0], **after)

    def _warn_if_truncated(self, cut: int, texts: int) -> None:
        """Warn, once, of texts that were cut."""
        if cut and not self._warned_of_truncation:
            self._warned_of_truncation = True
            limit = min(self.tokenizer.model_max_length, self.model.loaded.config.max_length)
            logger.warning(
                "%d of %d texts have more tokens than the %d that there is room for and were truncated; further ones "
                "will be too, without a word. %s",
                cut,
                texts,
                limit,
                self.truncation_remedy,
            )


class ChunkPipeline(Pipeline):
    """A pipeline in which a text has several parts, and one result for them all."""

    def _preprocess_texts(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        return [list(self.preprocess(text, **before)) for text in texts]

    def _postprocess_text(self, outputs: list[Any], after: dict[str, Any]) -> Any:
        return self.postprocess(outputs, **after)


class PerTokenMixin:
    """An answer for every token of a text."""

    def _unpad(self, answer: np.ndarray, length: int) -> np.ndarray:
        return answer[:length]


def check_batch_size(given: Any, default: int) -> int:
    """batch_size as it was asked for; InputError for what is no whole number of 1 or more."""
    size = default if given is None else given
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size={size!r}, expected a whole number of 1 or more.")
    return size


@contextmanager
def _as_bridge_errors() -> Iterator[None]:
    """What transformers' files and tokenizers raise, as errors of this package of the same type."""
    try:
        yield
    except BridgeError:
        raise
    except KeyError as error:
        raise UnknownNameError(f"{error.args[0]!r} is not known here.") from error
    except ValueError as error:
        raise InputError(str(error)) from error
    except TypeError as error:
        raise ArgumentTypeError(str(error)) from error


def _register_with_transformers(kind: type) -> None:
    """Register a class with those of transformers that it stands for; nothing where they are not imported."""
    for base in kind.__mro__:
        if base in (Pipeline, ChunkPipeline) or base.__module__.startswith(_TRANSFORMERS_TASKS):
            file = base.__module__.rpartition(".")[2]
            real = getattr(sys.modules.get(f"transformers.pipelines.{file}"), base.__name__, None)
            if real is not None:
                real.register(kind)
