"""Token classification (NER): the labels of a text's tokens, or of the words and phrases that they make up.

Reference: transformers/pipelines/token_classification.py, whose reading of arguments and post-processing this runs.
"""

from typing import Any, ClassVar, final

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.token_classification as reference
from mlx_hf_bridge.errors import InputError, UnknownNameError
from mlx_hf_bridge.pipelines import host_array
from mlx_hf_bridge.pipelines.base import PerTokenMixin, Pipeline
from mlx_hf_bridge.pipelines.inputs import as_stream

# What transformers' file takes from torch: the names of two dtypes.
reference.torch = host_array
_STRATEGIES = tuple(strategy.value for strategy in reference.AggregationStrategy)


@final
class TokenClassificationPipeline(PerTokenMixin, reference.TokenClassificationPipeline):
    """The labels of a text's tokens, or of the words and phrases that they make up.

    Text -> [{"entity", "score", "index", "word", "start", "end"}], or, with an aggregation_strategy, "entity_group" in
    the place of "entity" and no "index"; list -> list; stream -> iterator. aggregation_strategy: "none", "simple",
    "first", "average" or "max". ignore_labels: ["O"] if left out. stride: a long text is read in windows that have that
    many tokens in common; left out, it is cut at the model's length, and a warning logged once. is_split_into_words:
    a list of words is one text, joined by `delimiter`. Raises UnknownNameError (KeyError) for an unknown strategy,
    InputError (ValueError) for what is no text and for a stride that is too large.
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
        if isinstance(inputs, list) or as_stream(inputs) is None:
            try:
                return super().__call__(inputs, **options)
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{error} Got {inputs!r:.80}, expected a text or a list of texts.") from error
        return Pipeline.__call__(self, inputs, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        strategy = options.get("aggregation_strategy")
        if isinstance(strategy, str) and strategy.lower() not in _STRATEGIES:
            raise UnknownNameError(
                f"aggregation_strategy={strategy!r} is not known; use one of {', '.join(_STRATEGIES)}."
            )
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split
