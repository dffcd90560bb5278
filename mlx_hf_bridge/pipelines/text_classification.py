"""Text classification: a text or pair of texts gets the model's own labels with their scores.

Reference: transformers/pipelines/text_classification.py, whose reading of arguments and post-processing this runs.
"""

from typing import Any, ClassVar, final

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.text_classification as reference
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.text_inputs import TOKENIZER_OPTIONS, check_tokenizer_options, text_or_pair, tokenize_texts

_FUNCTIONS = tuple(function.value for function in reference.ClassificationFunction)
_BEST_ALONE = ""


@final
class TextClassificationPipeline(reference.TextClassificationPipeline):
    """Which of the model's labels fits a text or a pair of texts.

    Text -> [{"label", "score"}]; {"text", "text_pair"} -> the dict alone; list -> list; stream -> iterator. With
    top_k, each text has a list of such dicts, best first, None = all labels. function_to_apply: "sigmoid", "softmax",
    "none", or the one that config.json asks for. Texts are cut only if truncation or max_length says so. Raises
    TokenRangeError (IndexError) for a text that is too long, InputError (ValueError) for what is no text,
    UnknownNameError (KeyError) for an unknown function, EmptyInputError (IndexError) for [].
    """

    task: ClassVar[str] = "text-classification"
    accepted_options: ClassVar[tuple[str, ...]] = ("top_k", "function_to_apply", *TOKENIZER_OPTIONS)
    length_remedy: ClassVar[str] = "Pass truncation=True to cut texts there, or split them."
    # transformers' own looks for the model's class in lists that exist only beside torch.
    __init__ = Pipeline.__init__

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_tokenizer_options(options)
        top_k, function = options.get("top_k", _BEST_ALONE), options.get("function_to_apply")
        if top_k is not None and top_k != _BEST_ALONE and not isinstance(top_k, int):
            raise ArgumentTypeError(f"top_k={top_k!r}, expected a whole number, or None for all labels.")
        if function is not None and not isinstance(function, str):
            raise InputError(f"function_to_apply={function!r}, expected one of {', '.join(_FUNCTIONS)}.")
        if function is not None and function.lower() not in _FUNCTIONS:
            raise UnknownNameError(
                f"function_to_apply={function!r} is not known; use one of {', '.join(_FUNCTIONS)}, or leave it out for "
                "the one that the model's config asks for."
            )
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _preprocess_texts(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        return [[chunk] for chunk in tokenize_texts(self.tokenizer, [text_or_pair(text) for text in texts], before)]
