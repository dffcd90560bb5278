"""What is computed of the rows of a corpus: embeddings, scores of pairs, or labels.

A task says what to do and can be sent to another process or machine; `load` makes it a computation there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mlx_hf_bridge.corpora.storage import pyarrow
from mlx_hf_bridge.layers.single_batch import repeatable_results
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.sentence_transformers.encoding.corpus import PROBE_TEXTS

# Their results stand for the model and its settings.
_PROBE_PAIRS = list(zip(PROBE_TEXTS[1:], PROBE_TEXTS[:-1], strict=True))


@dataclass(frozen=True)
class Computation:
    """A task with its model in memory.

    Args:
        run: Computes the results of some inputs: a list of texts or pairs to a list of Arrow arrays, one for each of
            the fields.
        fields: The pyarrow.Field of each column of results.
        probe: The results of some short texts in float32, which differ between models.
    """

    run: Callable[[list[Any]], list[Any]]
    fields: list[Any]
    probe: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What is computed.

    Args:
        model: A Hub id or folder.
        columns: The columns with the texts: one, or two for pairs.
        loading: Arguments that the model is loaded with, such as quantization_config.
        options: Arguments of each call of the model.
    """

    name: ClassVar[str]

    model: str
    columns: tuple[str, ...]
    loading: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def load(self) -> Computation:
        """Load the model, and compute the results of some short texts.

        Returns:
            The computation.

        Raises:
            BridgeError: What loading the model raises, and what an option that it does not take raises.
        """

    def settings(self) -> dict[str, Any]:
        """Return what results depend on, in values that JSON can hold; the model is known by its results too."""
        given = {**self.loading, **self.options}
        return {"task": self.name, "columns": list(self.columns), **{key: _plain(given[key]) for key in sorted(given)}}


@dataclass(frozen=True, kw_only=True)
class EmbedTexts(Task):
    """The embedding of each text, as `MLXSentenceTransformer.encode` computes it: the column "embedding"."""

    name: ClassVar[str] = "embed"

    def load(self) -> Computation:
        """Load an MLXSentenceTransformer."""
        from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

        model = MLXSentenceTransformer(self.model, **self.loading)

        def encode(texts: list[Any], **more: Any) -> np.ndarray:
            with repeatable_results():
                vectors: np.ndarray = model.encode(texts, show_progress_bar=False, **{**self.options, **more})
            return vectors

        row = encode(PROBE_TEXTS[1:2])
        return Computation(
            lambda texts: [_fixed_size_lists(encode(texts))],
            [pyarrow().field("embedding", _vector_type(row))],
            encode(PROBE_TEXTS, precision="float32"),
        )


@dataclass(frozen=True, kw_only=True)
class RerankPairs(Task):
    """The score of each pair, as `MLXCrossEncoder.predict` computes it: the column "score"."""

    name: ClassVar[str] = "rerank"

    def load(self) -> Computation:
        """Load an MLXCrossEncoder."""
        from mlx_hf_bridge.sentence_transformers import MLXCrossEncoder

        model, pa = MLXCrossEncoder(self.model, **self.loading), pyarrow()

        def predict(pairs: list[Any]) -> np.ndarray:
            with repeatable_results():
                scores: np.ndarray = model.predict(pairs, show_progress_bar=False, **self.options)
            return scores

        probe = predict(_PROBE_PAIRS)
        if probe.ndim == 1:
            return Computation(lambda pairs: [pa.array(predict(pairs))], [pa.field("score", pa.float32())], probe)
        kind = _vector_type(probe)
        return Computation(lambda pairs: [_fixed_size_lists(predict(pairs))], [pa.field("score", kind)], probe)


@dataclass(frozen=True, kw_only=True)
class ClassifyTexts(Task):
    """The labels of each text or pair, best first, as the pipelines text- and zero-shot-classification return them.

    The columns are "label" and "score" of the best label, and "labels": a list of {"label", "score"}.

    Args:
        labels: Labels of the caller's own, for a model trained on NLI; none for those of the model.
    """

    name: ClassVar[str] = "classify"
    labels: tuple[str, ...] = ()

    def load(self) -> Computation:
        """Load a pipeline."""
        from mlx_hf_bridge.pipelines import pipeline

        kind = "zero-shot-classification" if self.labels else "text-classification"
        pipe, pa = pipeline(kind, model=self.model, **self.loading), pyarrow()
        every = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))

        def classify(texts: list[Any]) -> list[list[dict[str, Any]]]:
            with repeatable_results():
                return self._classified(pipe, texts)

        def run(texts: list[Any]) -> list[Any]:
            found = classify(texts)
            best = [row[0] for row in found]
            labels = pa.array([row["label"] for row in best], pa.string())
            return [labels, pa.array([row["score"] for row in best], pa.float32()), pa.array(found, every)]

        fields = [pa.field("label", pa.string()), pa.field("score", pa.float32()), pa.field("labels", every)]
        inputs = PROBE_TEXTS[1:] if len(self.columns) == 1 else _PROBE_PAIRS[1:]
        ordered = [sorted(row, key=lambda one: str(one["label"])) for row in classify(inputs)]
        return Computation(run, fields, np.array([[one["score"] for one in row] for row in ordered], np.float32))

    def settings(self) -> dict[str, Any]:
        """Return what results depend on, with the labels."""
        return {**super().settings(), "labels": list(self.labels)}

    def _classified(self, pipe: Any, texts: list[Any]) -> list[list[dict[str, Any]]]:
        if not self.labels:
            given = [{"text": text[0], "text_pair": text[1]} if isinstance(text, tuple) else text for text in texts]
            rows: list[list[dict[str, Any]]] = pipe(given, **{"top_k": None, "truncation": True, **self.options})
            return rows
        found = pipe(texts, candidate_labels=list(self.labels), **self.options)
        return [
            [{"label": label, "score": score} for label, score in zip(one["labels"], one["scores"], strict=True)]
            for one in found
        ]


def _vector_type(row: np.ndarray) -> Any:
    pa = pyarrow()
    return pa.list_(pa.from_numpy_dtype(row.dtype), row.shape[-1])


def _fixed_size_lists(vectors: np.ndarray) -> Any:
    values = pyarrow().array(np.ascontiguousarray(vectors).reshape(-1))
    return pyarrow().FixedSizeListArray.from_arrays(values, vectors.shape[-1])


def _plain(value: Any) -> Any:
    """Return an argument as JSON can hold it."""
    if isinstance(value, MLXQuantizationConfig):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
