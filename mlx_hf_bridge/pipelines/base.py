"""The base class of all pipelines; transformers' own pipeline classes run on top of it instead of their own base.

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
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.inference.tokenizer import LOST_TOKEN_TYPES
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pipelines.batched_forward import MaskedTokens, check_lengths, forward_in_batches, to_tokens
from mlx_hf_bridge.pipelines.host_array import as_host_array
from mlx_hf_bridge.pipelines.inputs import run_on_inputs
from mlx_hf_bridge.pipelines.tokenizer import HostTokenizer, loses_token_types, tokenizer_lock
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.runtime.boundary import PublicAPI
from mlx_hf_bridge.runtime.executor import hold

logger = logging.getLogger(__name__)

Chunk = dict[str, Any]

_TYPED_TOKENIZER = "pass a tokenizer loaded with model_input_names=['input_ids', 'token_type_ids', 'attention_mask']"
BATCH_SIZE = 32
# A stream is read at most this many token sequences ahead, so that it can be infinite and still be sorted by length.
STREAM_SEQUENCES = 256
_TRANSFORMERS_TASKS = "mlx_hf_bridge.pipelines.transformers_tasks.pipelines."


class Pipeline(PublicAPI):
    """A model and its tokenizer, called like transformers' pipeline of the task; safe to call from several threads.

    Args:
        model: The model that computes, from an MLXAutoModel class's from_pretrained.
        tokenizer: A tokenizer of transformers.
        batch_size: Bounds a batch to 12 * batch_size padded tokens on a CPU, 128 * batch_size on a GPU. With 1, a
            stream is processed text by text as it arrives. Default: 32.
        num_workers: Accepted for compatibility with transformers; has no effect, because the tokenizers library
            already uses all cores.
        show_progress: Show a progress bar for the batches. Default: False.
        options: Defaults for the options of a call (top_k, aggregation_strategy, ...); a call can override them.
    """

    task: ClassVar[str]
    accepted_options: ClassVar[tuple[str, ...]]
    # Token sequences that are processed together: enough to sort well by length, few enough to bound memory.
    sequences_at_once: ClassVar[int] = 4096
    # What the errors and warnings about long texts advise.
    length_remedy: ClassVar[str] = "Split it."
    truncation_remedy: ClassVar[str] = "Split them to have every part read."
    # Whether long texts are truncated even if the caller did not ask for truncation.
    truncates_by_default: ClassVar[bool] = False
    # Whether the caller also gets the outputs at padded positions.
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
        self._warned_of_token_types = False
        self._preprocess_params, self._postprocess_params = self._split_options(options)

    def __call__(
        self, inputs: Any, *args: Any, num_workers: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """Run the pipeline on one text, a list of texts or a stream of texts.

        Args:
            inputs: A text, a list of texts, or any other iterable of texts (a generator, a dataset column).
            args: Not accepted: pass options by name.
            num_workers: Accepted for compatibility with transformers; has no effect.
            batch_size: Replaces the pipeline's own batch_size for this call.
            options: The task's own options; see the class's docstring.

        Returns:
            The result of the text; for a list, the list of results; for a stream, a lazy iterator over results.

        Raises:
            InputError: If an input is not what the task expects (a ValueError).
            EmptyInputError: If the list is empty (an IndexError, as in transformers).
            TokenRangeError: If a text is longer than the model's limit and is not truncated (an IndexError).
            NonFiniteError: If the model computes NaN or infinity for a text.
            ArgumentTypeError: If an option is unknown or of the wrong type (a TypeError).
        """
        if args:
            raise InputError(
                f"got the positional arguments {args!r} after the texts, expected none. Pass them by name."
            )
        preprocess_params, postprocess_params = self._split_options(options)
        preprocess_params = {**self._preprocess_params, **preprocess_params}
        postprocess_params = {**self._postprocess_params, **postprocess_params}
        size = check_batch_size(batch_size, self._batch_size)
        sequences = self._sequences_per_text(preprocess_params)

        def run(texts: list[Any]) -> list[Any]:
            return self._run_batch(texts, preprocess_params, postprocess_params, size)

        # batch_size=1 asks for results as soon as possible, as in transformers.
        read_ahead = 1 if size == 1 else STREAM_SEQUENCES // sequences
        return run_on_inputs(inputs, run, self.sequences_at_once // sequences, read_ahead)

    @property
    def device(self) -> Any:
        """Return the device of the results, the CPU: a torch.device if torch is loaded, else its name."""
        return self.model.device

    @property
    def dtype(self) -> mx.Dtype:
        """Return the dtype of the weights that are not quantized."""
        return self.model.dtype

    @property  # type: ignore[misc]  # object.__class__ can be assigned to, which nobody needs here
    def __class__(self) -> type:
        """Return the class; isinstance() asks for it first, so this is when transformers' classes learn of this one."""
        _register_with_transformers(type(self))
        return type(self)

    def transform(self, X: Any) -> Any:
        """Run the pipeline; scikit-learn's name for a call.

        Args:
            X: What a call takes: a text, a list or a stream of texts.

        Returns:
            What a call returns.
        """
        return self(X)

    def predict(self, X: Any) -> Any:
        """Run the pipeline; scikit-learn's name for a call.

        Args:
            X: What a call takes: a text, a list or a stream of texts.

        Returns:
            What a call returns.
        """
        return self(X)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write model and tokenizer into a folder from which pipeline() loads both.

        Args:
            save_directory: The folder to write into; created if it does not exist.
            options: Passed on to the model's save_pretrained (max_shard_size, push_to_hub, ...).
        """
        self.model.save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(save_directory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.task!r}, {self.model!r})"

    def _split_options(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of preprocess and of postprocess; ArgumentTypeError for an unknown option."""
        if unknown := [name for name in options if name not in self.accepted_options]:
            known = ", ".join((*self.accepted_options, "batch_size", "num_workers"))
            raise ArgumentTypeError(
                f"{self.task} got {', '.join(unknown)}, which it does not take; it takes {known}. Leave it out."
            )
        # transformers' _sanitize_parameters may tokenize (fill-mask's targets).
        options = {name: plain_scalar(value) for name, value in options.items()}
        with as_bridge_errors(), hold(tokenizer_lock):
            preprocess_params, _, postprocess_params = self._sanitize_parameters(**options)
        return preprocess_params, postprocess_params

    def _run_batch(
        self,
        texts: list[Any],
        preprocess_params: dict[str, Any],
        postprocess_params: dict[str, Any],
        batch_size: int,
    ) -> list[Any]:
        """Run all texts together: preprocess, forward pass, postprocess."""
        with as_bridge_errors(), hold(tokenizer_lock):
            texts_chunks = self._preprocess_texts(texts, preprocess_params)
            if self.truncates_by_default:
                self._warn_if_truncated(self.tokenizer.pop_truncated_count(), len(texts))
        sequences = self._sequences([chunk for chunks in texts_chunks for chunk in chunks])
        outputs = forward_in_batches(
            self.model.loaded, sequences, self._call_model, self._padding, batch_size, self._show_progress
        )
        return self._results(texts_chunks, sequences, outputs, postprocess_params)

    def _sequences(self, chunks: Sequence[Chunk]) -> list[MaskedTokens]:
        """Return what the model reads of each token sequence, once their lengths are checked."""
        names = self._input_names()
        sequences = [to_tokens(chunk, names, not self.outputs_at_padding) for chunk in chunks]
        check_lengths(self.model.loaded, sequences, self.length_remedy)
        return sequences

    @property
    def _padding(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _results(
        self,
        texts_chunks: list[list[Chunk]],
        sequences: Sequence[MaskedTokens],
        outputs: Sequence[np.ndarray],
        postprocess_params: dict[str, Any],
    ) -> list[Any]:
        """Return the result of each text from what the model computed for all token sequences, in their order."""
        found = (self._unpad(output, len(tokens)) for output, tokens in zip(outputs, sequences, strict=True))
        logits = [[next(found) for _ in chunks] for chunks in texts_chunks]
        check_finite(logits, self.model.name_or_path)
        inputs = [
            [self._postprocess_inputs(chunk, one) for chunk, one in zip(chunks, ones, strict=True)]
            for chunks, ones in zip(texts_chunks, logits, strict=True)
        ]
        # Post-processing decodes tokens; the model itself runs without the lock.
        with hold(tokenizer_lock):
            return [self._postprocess_text(one, postprocess_params) for one in inputs]

    def _input_names(self) -> list[str]:
        """Return the names of the tokenizer's outputs that the model gets; warns once of token types that are not."""
        if not self._warned_of_token_types and self.tokenizer.marked:
            self._warned_of_token_types = True
            if loses_token_types(self.tokenizer, self.model.loaded):
                logger.warning(LOST_TOKEN_TYPES, self.model.name_or_path, _TYPED_TOKENIZER)
        return list(self.tokenizer.model_input_names)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return the arguments of preprocess, of forward (empty here) and of postprocess, as in transformers."""
        raise NotImplementedError

    def preprocess(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """Tokenize one text; transformers' name and signature.

        Args:
            inputs: One text in a form that the task takes.
            args: What the task's own preprocess takes by position.
            options: The preprocessing options of the task.

        Returns:
            The tokenizer's output, arrays of shape (1, L), with whatever postprocess needs beside it.
        """
        raise NotImplementedError

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        """Turn what the model computed for one text into its result; transformers' name and signature.

        Args:
            model_outputs: The tokenizer's output for the text with the model's "logits" of shape (1, ...).
            args: What the task's own postprocess takes by position.
            options: The postprocessing options of the task.

        Returns:
            The result of the text, in transformers' form.
        """
        raise NotImplementedError

    def _sequences_per_text(self, preprocess_params: Mapping[str, Any]) -> int:
        """Return about how many token sequences one text becomes."""
        return 1

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        """Return the token sequences of each text, arrays of shape (1, L)."""
        return [[self.preprocess(text, **preprocess_params)] for text in texts]

    def _call_model(self, batch: TokenBatch) -> mx.array:
        """Return the wanted output of the model, one row for each sequence of the batch."""
        return self.model.loaded.model(batch, outputs_only=True).logits

    def _unpad(self, output: np.ndarray, length: int) -> np.ndarray:
        """Return the part of a sequence's output that is not padding; all of it where outputs are not per token."""
        return output

    def _postprocess_inputs(self, chunk: Chunk, output: np.ndarray) -> Any:
        """Return what postprocess is given: the tokenizer's output and the logits, (1, ...)."""
        return {**chunk, "logits": as_host_array(output[None])}

    def _postprocess_text(self, outputs: list[Any], postprocess_params: dict[str, Any]) -> Any:
        return self.postprocess(outputs[0], **postprocess_params)

    def _warn_if_truncated(self, truncated: int, texts: int) -> None:
        """Warn about truncated texts, once for each pipeline."""
        if truncated and not self._warned_of_truncation:
            self._warned_of_truncation = True
            limit = min(self.tokenizer.model_max_length, self.model.loaded.config.max_length)
            logger.warning(
                "%d of %d texts have more tokens than the limit of %d and were truncated; further warnings of this "
                "pipeline are suppressed. %s",
                truncated,
                texts,
                limit,
                self.truncation_remedy,
            )


class ChunkPipeline(Pipeline):
    """A pipeline in which one text can become several token sequences, with one result for all of them."""

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        return [list(self.preprocess(text, **preprocess_params)) for text in texts]

    def _postprocess_text(self, outputs: list[Any], postprocess_params: dict[str, Any]) -> Any:
        return self.postprocess(outputs, **postprocess_params)


class PerTokenMixin:
    """Makes a pipeline drop the outputs at padded positions, for models with one output per token."""

    def _unpad(self, output: np.ndarray, length: int) -> np.ndarray:
        return output[:length]


def check_batch_size(given: Any, default: int) -> int:
    """Return the batch size to use.

    Args:
        given: The caller's batch_size; None for the default.
        default: The batch size to use for None.

    Returns:
        An integer of 1 or more.

    Raises:
        InputError: If it is not an integer of 1 or more.
    """
    size = default if given is None else plain_scalar(given)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size={size!r}, expected an integer of 1 or more.")
    return int(size)


@contextmanager
def as_bridge_errors() -> Iterator[None]:
    """Turn errors of transformers' files and of tokenizers into this package's errors of the same builtin type.

    Yields:
        Nothing.

    Raises:
        UnknownNameError: Instead of a KeyError.
        InputError: Instead of a ValueError.
        ArgumentTypeError: Instead of a TypeError.
    """
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
    """Make isinstance() of transformers' pipeline classes accept a class; does nothing if they are not imported."""
    for base in kind.__mro__:
        # transformers' counterpart has the same name, in the file of the same name.
        if base in (Pipeline, ChunkPipeline) or base.__module__.startswith(_TRANSFORMERS_TASKS):
            file = base.__module__.rpartition(".")[2]
            # Only if it is imported: otherwise no caller can hold the class to compare with.
            real = getattr(sys.modules.get(f"transformers.pipelines.{file}"), base.__name__, None)
            if real is not None:
                real.register(kind)
