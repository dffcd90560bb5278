"""Labels of texts and of their tokens, as the pipelines text-, zero-shot- and token-classification return them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from mlx_hf_bridge.errors import EmptyInputError, OverlongTextError, UnservedModelError
from mlx_hf_bridge.pipelines import Pipeline, pipeline
from mlx_hf_bridge.pipelines.base import as_bridge_errors
from mlx_hf_bridge.pipelines.batched_forward import batch_pipeline
from mlx_hf_bridge.pipelines.tokenizer import tokenizer_lock
from mlx_hf_bridge.runtime.executor import hold
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.tasks.base import ERROR, TRUNCATE, Prepared, Task

CLASSIFIER, TOKEN_CLASSIFIER = "classifier", "token-classifier"
# A text, or a pair of texts.
Text = str | tuple[str, str]


class Classifier:
    """A sequence classifier, for the labels that it was trained for and, if it was trained on NLI, for any.

    Args:
        labels: Its pipeline text-classification.

    Attributes:
        labels: The same.
    """

    def __init__(self, labels: Pipeline) -> None:
        self.labels = labels

    @cached_property
    def zero_shot(self) -> Pipeline:
        """The pipeline zero-shot-classification of the same model.

        Raises:
            UnservedModelError: If the model was not trained on NLI.
        """
        model = self.labels.model
        labels = sorted(map(str, dict(model.config.label2id)))
        if not any(label.lower().startswith("entail") for label in labels):
            raise UnservedModelError(
                f"the labels of the model are {labels}, and zero-shot classification needs a model trained on NLI, "
                "with a label 'entailment'. Name another model, or leave the labels out."
            )
        return pipeline("zero-shot-classification", model=model, tokenizer=self.labels.tokenizer.tokenizer)


@dataclass(frozen=True, kw_only=True)
class PipelineTask(Task):
    """A request for a pipeline: one result for each text, in the form of the pipeline.

    Args:
        texts: The texts.
        options: Options of a call of the pipeline.
        overlong: "error" or "truncate".
    """

    texts: Sequence[Text]
    options: Mapping[str, Any] = field(default_factory=dict)
    overlong: str = ERROR

    @abstractmethod
    def pipeline_of(self, model: Any) -> Pipeline:
        """Return the pipeline of a model."""

    def call_options(self) -> dict[str, Any]:
        """Return the options of the call."""
        return {name: value for name, value in self.options.items() if value is not None}

    def prepare(self, model: Any, limits: Limits) -> Prepared:
        """Tokenize the texts by the pipeline's own preprocessing."""
        if not self.texts:
            raise EmptyInputError("the request has no texts, expected at least one.")
        limits.check_count(len(self.texts))
        limits.check_texts([part for text in self.texts for part in ([text] if isinstance(text, str) else text)])
        chosen = self.pipeline_of(model)
        preprocess, postprocess = chosen._split_options(self.call_options())
        with as_bridge_errors(), hold(tokenizer_lock):
            chosen.tokenizer.pop_truncated_count()
            chunks = chosen._preprocess_texts([self._input(text) for text in self.texts], preprocess)
            truncated = min(len(self.texts), chosen.tokenizer.pop_truncated_count())
        sequences = chosen._sequences([chunk for one in chunks for chunk in one])
        limits.check_tokens(sum(map(len, sequences)))
        if truncated and self.overlong == ERROR:
            most = chosen.model.loaded.config.max_length
            raise OverlongTextError(
                f"{truncated} of {len(self.texts)} texts have more than {most} tokens. Split them, or ask for "
                "truncation."
            )
        return Prepared(
            sequences,
            type(chosen).__name__,
            batch_pipeline(chosen.model.loaded, chosen._call_model, chosen._padding),
            lambda rows: chosen._results(chunks, sequences, rows, postprocess),
            truncated,
        )

    def _input(self, text: Text) -> Any:
        return text


@dataclass(frozen=True, kw_only=True)
class ClassifyTexts(PipelineTask):
    """The labels of the model with their scores, best first: a list of {"label", "score"} for each text or pair."""

    kinds: ClassVar[tuple[str, ...]] = (CLASSIFIER,)

    def pipeline_of(self, model: Classifier) -> Pipeline:
        """Return the pipeline text-classification."""
        return model.labels

    def call_options(self) -> dict[str, Any]:
        """Return the options; all labels, unless top_k is given."""
        return {"top_k": None, **super().call_options(), "truncation": self.overlong == TRUNCATE}

    def _input(self, text: Text) -> Any:
        return text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


@dataclass(frozen=True, kw_only=True)
class ClassifyZeroShot(PipelineTask):
    """How well labels fit each text: {"sequence", "labels", "scores"}, best first.

    Args:
        labels: The labels.
    """

    kinds: ClassVar[tuple[str, ...]] = (CLASSIFIER,)
    labels: Sequence[str]

    def pipeline_of(self, model: Classifier) -> Pipeline:
        """Return the pipeline zero-shot-classification."""
        return model.zero_shot

    def call_options(self) -> dict[str, Any]:
        """Return the options with the labels."""
        return {**super().call_options(), "candidate_labels": list(self.labels)}


@dataclass(frozen=True, kw_only=True)
class FindEntities(PipelineTask):
    """The labeled tokens or words of each text: a list of dicts, as of the pipeline token-classification."""

    kinds: ClassVar[tuple[str, ...]] = (TOKEN_CLASSIFIER,)

    def pipeline_of(self, model: Pipeline) -> Pipeline:
        """Return the pipeline itself."""
        return model
