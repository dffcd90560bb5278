"""Text classification: a text or pair of texts gets the model's own labels with their scores.

Reference: transformers/pipelines/text_classification.py. N texts, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer
from mlx_hf_bridge.pipelines.classifier import Options, Pipeline, answered, changed, softmax
from mlx_hf_bridge.pretrained import MLXPreTrainedModel


def _sigmoid(values: np.ndarray) -> np.ndarray:
    """Without the overflow that 1 / (1 + exp(-x)) has for large negative values."""
    result: np.ndarray = np.exp(-np.logaddexp(0, -values))
    return result


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": _sigmoid,
    "softmax": softmax,
    "none": lambda values: values,
}
STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")
_PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
_BEST_ALONE = ""


@dataclass(frozen=True)
class TextOptions(Options):
    """top_k: how many labels, None = all; left out, the best alone. padding: taken, but no result depends on it."""

    top_k: Any = _BEST_ALONE
    function_to_apply: Any = None
    truncation: Any = None
    max_length: int | None = None
    padding: Any = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k not in (None, _BEST_ALONE) and not isinstance(self.top_k, int):
            raise ArgumentTypeError(f"top_k={self.top_k!r}, expected a whole number, or None for all labels.")
        if self.function_to_apply is not None and not isinstance(self.function_to_apply, str):
            raise InputError(f"function_to_apply={self.function_to_apply!r}, expected one of {', '.join(FUNCTIONS)}.")
        if self.function_to_apply is not None and self.function_to_apply.lower() not in FUNCTIONS:
            raise UnknownNameError(
                f"function_to_apply={self.function_to_apply!r} is not known; use one of {', '.join(FUNCTIONS)}, or "
                "leave it out for the one that the model's config asks for."
            )
        if self.truncation not in (True, False, None, *STRATEGIES):
            raise InputError(f"truncation={self.truncation!r}, expected True, False or one of {', '.join(STRATEGIES)}.")
        if self.padding not in _PADDINGS:
            raise InputError(f"padding={self.padding!r}, expected one of {_PADDINGS}.")
        _check_max_length(self.max_length)

    @property
    def strategy(self) -> str | None:
        """How texts are cut; None = not at all. `max_length` alone cuts too, unless padding is asked for."""
        if self.truncation is True or (
            self.truncation is None and self.max_length is not None and self.padding is False
        ):
            return STRATEGIES[0]
        named = next((name for name in STRATEGIES if name == self.truncation), "do_not_truncate")
        return None if named == "do_not_truncate" else named


@final
class TextClassificationPipeline(Pipeline):
    """Which of the model's labels fits a text or a pair of texts."""

    task: ClassVar[str] = "text-classification"

    def __init__(
        self, model: MLXPreTrainedModel, tokenizer: Tokenizer, show_progress: bool = False, **defaults: Any
    ) -> None:
        super().__init__(model, tokenizer, show_progress)
        self._defaults = changed(TextOptions(), defaults, self.task)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Text -> [{"label", "score"}]; {"text", "text_pair"} -> the dict alone; list -> list; stream -> iterator.

        With top_k, each text has a list of such dicts, best first. function_to_apply: "sigmoid", "softmax", "none", or
        the one that config.json asks for. Texts are cut only if truncation or max_length says so. Raises
        TokenRangeError (IndexError) for a text that is too long, InputError (ValueError) for what is no text,
        UnknownNameError (KeyError) for an unknown function, EmptyInputError (IndexError) for [].
        """
        asked = changed(self._defaults, options, self.task)
        cut = self._cut(asked)

        def answer(texts: list[Any]) -> list[Any]:
            tokens = self.tokenizer.encode([_text_or_pair(text) for text in texts], *cut)
            remedy = "Pass truncation=True to cut texts there, or split them."
            return self._results(self._logits(tokens, asked.batch_size, remedy), asked)

        result = answered(inputs, answer, asked)
        # The reference wraps a lone text unless this very call has top_k.
        return [result] if isinstance(inputs, str) and "top_k" not in options else result

    def _cut(self, asked: TextOptions) -> tuple[int | None, str]:
        """The most tokens of a text (None = any number) and what is cut when there are more."""
        if asked.strategy is None:
            return None, STRATEGIES[0]
        most = min(self.tokenizer.model_max_length or self._max_length, self._max_length)
        return asked.max_length or most, asked.strategy

    def _results(self, logits: np.ndarray, asked: TextOptions) -> list[Any]:
        """logits (N, C) -> N dicts, or N lists of dicts if top_k was asked for."""
        scores = FUNCTIONS[(asked.function_to_apply or self._own_function()).lower()](logits)
        labels = self.model.config.id2label
        if asked.top_k == _BEST_ALONE:
            return [{"label": labels[int(row.argmax())], "score": row.max().item()} for row in scores]
        named = [
            [{"label": labels[index], "score": score} for index, score in enumerate(row)] for row in scores.tolist()
        ]
        return [sorted(row, key=lambda one: one["score"], reverse=True)[: asked.top_k] for row in named]

    def _own_function(self) -> str:
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        several = config.problem_type == "multi_label_classification"
        return "sigmoid" if several or config.num_labels == 1 else "softmax"


def _check_max_length(given: Any) -> None:
    if given is not None and (isinstance(given, bool) or not isinstance(given, int)):
        raise ArgumentTypeError(f"max_length={given!r}, expected a whole number of tokens.")
    if given is not None and given < 1:
        raise InputError(f"max_length={given}, expected 1 token or more. Leave it out for the model's own limit.")


def _text_or_pair(given: Any) -> Text:
    """One text or pair in any of the forms that the reference takes; InputError for the others."""
    match given:
        case str():
            return given
        case {"text": str() as text, **rest} if set(rest) <= {"text_pair"}:
            pair = rest.get("text_pair")
            if pair is None or pair == "":
                return text
            if isinstance(pair, str):
                return text, pair
        case [[str() as text, str() as pair]] if isinstance(given, list) and isinstance(given[0], list):
            return text, pair
    raise InputError(
        f'one text is {given!r}, expected a string, or {{"text": ..., "text_pair": ...}} for a pair of strings.'
    )
