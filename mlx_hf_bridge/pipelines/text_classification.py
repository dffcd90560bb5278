"""The text-classification pipeline: the model's own labels with their scores, for texts and pairs of texts.

Reference: transformers/pipelines/text_classification.py, whose argument parsing and post-processing this runs.
"""

from typing import Any, ClassVar, final

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.text_classification as reference
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.text_inputs import TOKENIZER_OPTIONS, check_tokenizer_options, text_or_pair, tokenize_texts

_FUNCTIONS = tuple(function.value for function in reference.ClassificationFunction)
# transformers' default for top_k: the best label, without a list around it.
_BEST_ONLY = ""


@final
class TextClassificationPipeline(reference.TextClassificationPipeline):
    """Return the labels of the model that fit a text or a pair of texts.

    Call arguments:
        inputs: A text, {"text": ..., "text_pair": ...} for a pair, a list of these or a stream of these.
        top_k: How many labels to return, best first; None for all. Default: the best one.
        function_to_apply: "sigmoid", "softmax" or "none". Default: what the model's config asks for.
        truncation, max_length, padding, add_special_tokens: As the tokenizer takes them. Texts are truncated only if
            truncation or max_length asks for it.
        batch_size: See Pipeline.

    Call result:
        For a text [{"label", "score"}], for a dict {"label", "score"}; with top_k a list of such dicts. A list gives
        a list, a stream an iterator.

    Call errors:
        TokenRangeError (an IndexError) if a text is too long, InputError (a ValueError) if an input is not a text or a
        pair, UnknownNameError (a KeyError) for an unknown function, EmptyInputError (an IndexError) for [].
    """

    task: ClassVar[str] = "text-classification"
    accepted_options: ClassVar[tuple[str, ...]] = ("top_k", "function_to_apply", *TOKENIZER_OPTIONS)
    length_remedy: ClassVar[str] = "Pass truncation=True to truncate texts there, or split them."
    # transformers' own __init__ looks up the model's class in tables that exist only with torch.
    __init__ = Pipeline.__init__

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_tokenizer_options(options)
        top_k, function = options.get("top_k", _BEST_ONLY), options.get("function_to_apply")
        if top_k is not None and top_k != _BEST_ONLY and not isinstance(top_k, int):
            raise ArgumentTypeError(f"top_k={top_k!r}, expected an integer, or None for all labels.")
        if function is not None and not isinstance(function, str):
            raise InputError(f"function_to_apply={function!r}, expected one of {', '.join(_FUNCTIONS)}.")
        if function is not None and function.lower() not in _FUNCTIONS:
            raise UnknownNameError(
                f"function_to_apply={function!r} is not known; use one of {', '.join(_FUNCTIONS)}, or leave it out for "
                "the one that the model's config asks for."
            )
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        pairs = [text_or_pair(text) for text in texts]
        return [[chunk] for chunk in tokenize_texts(self.tokenizer, pairs, preprocess_params)]
