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
from mlx_hf_bridge.pipelines.host_array import host
from mlx_hf_bridge.pipelines.inputs import answered
from mlx_hf_bridge.pipelines.rows import check_lengths, computed, row_of
from mlx_hf_bridge.pipelines.tokenizer import HostTokenizer, turn
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

logger = logging.getLogger(__name__)

Chunk = dict[str, Any]

BATCH_SIZE = 32
# A stream is read no further ahead than that many rows of tokens.
STREAM_ROWS = 256
_THEIRS = "mlx_hf_bridge.pipelines.transformers_tasks.pipelines."


class Pipeline:
    """A model with its tokenizer, called with texts as transformers' pipeline of the task; safe from several threads.

    model: an MLXPreTrainedModel. tokenizer: one of transformers. batch_size: a batch holds at most that many times
    device.SLOTS_A_TEXT tokens; 1 also answers a stream text by text, as it comes. num_workers: taken as transformers
    takes it; has no effect, since tokenizers works on all cores by itself. options: what the task's calls take, for
    calls that do not say otherwise.
    """

    task: ClassVar[str]
    takes: ClassVar[tuple[str, ...]]
    # How many rows of tokens are worked on at once: enough to sort well by length, few enough to bound memory.
    rows_at_once: ClassVar[int] = 4096
    remedy: ClassVar[str] = "Split it."
    cut_remedy: ClassVar[str] = "Split them to have every part read."
    # Whether long texts are cut without anyone having asked for it.
    cuts_unasked: ClassVar[bool] = False
    # Whether answers at padding are asked for.
    answers_padding: ClassVar[bool] = False

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
        self._batch_size = checked_size(batch_size, BATCH_SIZE)
        self._show_progress = show_progress
        self._told_of_cut = False
        self._preprocess_params, self._postprocess_params = self._read(options)

    def __call__(
        self, inputs: Any, *args: Any, num_workers: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """Text, list or stream of texts -> one result, a list of results or an iterator over results."""
        if args:
            raise InputError(f"got the arguments {args!r} after the texts, expected none. Pass them by name.")
        before, after = self._read(options)
        before, after = {**self._preprocess_params, **before}, {**self._postprocess_params, **after}
        size = checked_size(batch_size, self._batch_size)
        rows = self._rows_a_text(before)

        def answer(texts: list[Any]) -> list[Any]:
            return self._answers(texts, before, after, size)

        ahead = 1 if size == 1 else STREAM_ROWS // rows
        return answered(inputs, answer, self.rows_at_once // rows, ahead)

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
        _announce(type(self))
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

    def _read(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options -> what preprocess and postprocess take; ArgumentTypeError for one that the task does not take."""
        if unknown := [name for name in options if name not in self.takes]:
            known = ", ".join((*self.takes, "batch_size", "num_workers"))
            raise ArgumentTypeError(
                f"{self.task} got {', '.join(unknown)}, which it does not take; it takes {known}. Leave it out."
            )
        with _errors_of_ours(), turn:
            before, _, after = self._sanitize_parameters(**options)
        return before, after

    def _answers(self, texts: list[Any], before: dict[str, Any], after: dict[str, Any], batch_size: int) -> list[Any]:
        with _errors_of_ours(), turn:
            texts_chunks = self._prepared(texts, before)
            if self.cuts_unasked:
                self._report_cut(self.tokenizer.take_cut(), len(texts))
        answers = iter(self._computed([chunk for chunks in texts_chunks for chunk in chunks], batch_size))
        outputs = [[self._output(chunk, next(answers)) for chunk in chunks] for chunks in texts_chunks]
        with turn:
            return [self._finished(output, after) for output in outputs]

    def _computed(self, chunks: Sequence[Chunk], batch_size: int) -> list[np.ndarray]:
        names = self.tokenizer.model_input_names
        rows = [row_of(chunk, names, not self.answers_padding) for chunk in chunks]
        check_lengths(self.model.loaded, rows, self.remedy)
        pad_token_id = self.tokenizer.pad_token_id or 0
        answers = computed(self.model.loaded, rows, self._compute, pad_token_id, batch_size, self._show_progress)
        return [self._own(answer, len(row)) for answer, row in zip(answers, rows, strict=True)]

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Options -> those of preprocess, of nothing, and of postprocess, as transformers' files split them."""
        raise NotImplementedError

    def preprocess(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """One text -> what the tokenizer says of it, arrays (1, L)."""
        raise NotImplementedError

    def postprocess(self, model_outputs: Any, *args: Any, **options: Any) -> Any:
        """What the tokenizer and the model say of one text -> its result."""
        raise NotImplementedError

    def _rows_a_text(self, before: Mapping[str, Any]) -> int:
        """How many rows of tokens a text becomes, about."""
        return 1

    def _prepared(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        """Texts -> the parts of each, with arrays (1, L) that a row of tokens is made of."""
        return [[self.preprocess(text, **before)] for text in texts]

    def _compute(self, batch: TokenBatch) -> mx.array:
        """A batch -> what is wanted of the model, one row a text."""
        return self.model.loaded.model(batch, answers_alone=True).logits

    def _own(self, answer: np.ndarray, length: int) -> np.ndarray:
        """A text's part of its row."""
        return answer

    def _output(self, chunk: Chunk, answer: np.ndarray) -> Any:
        """What postprocess is given: what the tokenizer said, and the model's answer (1, ...)."""
        return {**chunk, "logits": host(answer[None])}

    def _finished(self, outputs: list[Any], after: dict[str, Any]) -> Any:
        return self.postprocess(outputs[0], **after)

    def _report_cut(self, cut: int, texts: int) -> None:
        """Warn, once, of texts that were cut."""
        if cut and not self._told_of_cut:
            self._told_of_cut = True
            limit = min(self.tokenizer.model_max_length, self.model.loaded.config.max_length)
            logger.warning(
                "%d of %d texts have more tokens than the %d that there is room for and were truncated; further ones "
                "will be too, without a word. %s",
                cut,
                texts,
                limit,
                self.cut_remedy,
            )


class ChunkPipeline(Pipeline):
    """A pipeline in which a text has several parts, and one result for them all."""

    def _prepared(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        return [list(self.preprocess(text, **before)) for text in texts]

    def _finished(self, outputs: list[Any], after: dict[str, Any]) -> Any:
        return self.postprocess(outputs, **after)


class OfEveryToken:
    """An answer for every token of a text."""

    def _own(self, answer: np.ndarray, length: int) -> np.ndarray:
        return answer[:length]


def checked_size(given: Any, default: int) -> int:
    """batch_size as it was asked for; InputError for what is no whole number of 1 or more."""
    size = default if given is None else given
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size={size!r}, expected a whole number of 1 or more.")
    return size


@contextmanager
def _errors_of_ours() -> Iterator[None]:
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


def _announce(kind: type) -> None:
    """Register a class with those of transformers that it stands for; nothing where they are not imported."""
    for base in kind.__mro__:
        if base in (Pipeline, ChunkPipeline) or base.__module__.startswith(_THEIRS):
            file = base.__module__.rpartition(".")[2]
            real = getattr(sys.modules.get(f"transformers.pipelines.{file}"), base.__name__, None)
            if real is not None:
                real.register(kind)
