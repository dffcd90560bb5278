"""The token-classification (NER) pipeline: labels of a text's tokens, or of the words and phrases they make up.

Reference: transformers/pipelines/token_classification.py, whose argument parsing and post-processing this runs.
"""

from typing import Any, ClassVar, final

import numpy as np

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.token_classification as reference
from mlx_hf_bridge.errors import InputError, UnknownNameError
from mlx_hf_bridge.pipelines import host_array
from mlx_hf_bridge.pipelines.base import Chunk, PerTokenMixin, Pipeline
from mlx_hf_bridge.pipelines.inputs import as_stream

# All that transformers' file uses of torch is the names of two dtypes, which host_array has too.
reference.torch = host_array
_STRATEGIES = tuple(strategy.value for strategy in reference.AggregationStrategy)


@final
class TokenClassificationPipeline(PerTokenMixin, reference.TokenClassificationPipeline):
    """Return the labels of a text's tokens, or of the words and phrases they make up.

    Call arguments:
        inputs: A text, a list of texts or a stream of texts.
        aggregation_strategy: "none", "simple", "first", "average" or "max". Default: "none".
        ignore_labels: Labels to leave out of the result. Default: ["O"].
        stride: Read long texts in windows that have this many tokens in common. Without it, long texts are truncated at
            the model's limit, and a warning is logged once.
        is_split_into_words: True if the input is a list of words that make up one text.
        delimiter: What joins those words. Default: a space.
        batch_size: See Pipeline.

    Call result:
        For a text [{"entity", "score", "index", "word", "start", "end"}]; with an aggregation_strategy "entity_group"
        instead of "entity", and no "index". A list gives a list, a stream an iterator.

    Call errors:
        UnknownNameError (a KeyError) for an unknown strategy, InputError (a ValueError) if an input is not a text or
        the stride is too large.
    """

    task: ClassVar[str] = "token-classification"
    accepted_options: ClassVar[tuple[str, ...]] = (
        "aggregation_strategy",
        "ignore_labels",
        "stride",
        "is_split_into_words",
        "delimiter",
        "offset_mapping",
    )
    truncation_remedy: ClassVar[str] = "Pass stride and an aggregation_strategy to have every part read."
    truncates_by_default: ClassVar[bool] = True
    sequences_at_once: ClassVar[int] = 1024
    _args_parser = reference.TokenClassificationArgumentHandler()
    __init__ = Pipeline.__init__

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Run the pipeline on one text, a list of texts or a stream of texts.

        Args:
            inputs: A text, a list of texts (or of words, with is_split_into_words), or a stream of texts.
            options: aggregation_strategy, stride and the others of the class's docstring.

        Returns:
            A list of dicts for a text, a list of such lists for a list, an iterator for a stream.
        """
        if isinstance(inputs, list) or as_stream(inputs) is None:
            if not isinstance(inputs, (str, list, tuple)) or (not isinstance(inputs, str) and not inputs):
                raise InputError(
                    f"At least one input is required. Got {inputs!r:.80}, expected a text or a list of texts."
                )
            return super().__call__(inputs, **options)
        return Pipeline.__call__(self, inputs, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        strategy = options.get("aggregation_strategy")
        if isinstance(strategy, str) and strategy.lower() not in _STRATEGIES:
            raise UnknownNameError(
                f"aggregation_strategy={strategy!r} is not known; use one of {', '.join(_STRATEGIES)}."
            )
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _postprocess_inputs(self, chunk: Chunk, output: np.ndarray) -> Any:
        # A tokenizer that is written in Python gives none.
        return {"offset_mapping": None, **super()._postprocess_inputs(chunk, output)}
