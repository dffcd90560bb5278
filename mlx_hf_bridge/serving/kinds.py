"""Which class loads a model of each kind, and what a server keeps of one that is loaded."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from mlx.utils import tree_flatten

from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError, UnsupportedModelError
from mlx_hf_bridge.gliner.model import MLXGLiNER
from mlx_hf_bridge.pipelines import Pipeline, pipeline
from mlx_hf_bridge.pipelines.zero_shot_ner import ZeroShotNERPipeline
from mlx_hf_bridge.sentence_transformers import (
    MLXCrossEncoder,
    MLXMultiVectorEncoder,
    MLXSentenceTransformer,
    MLXSparseEncoder,
)
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.serving.recognition import Recognized, recognize
from mlx_hf_bridge.serving.tasks.classification import CLASSIFIER, TOKEN_CLASSIFIER, Classifier
from mlx_hf_bridge.serving.tasks.embedding import EMBEDDING, MULTI_VECTOR, SPARSE
from mlx_hf_bridge.serving.tasks.entities import ENTITY_FINDER, EntityFinder
from mlx_hf_bridge.serving.tasks.scoring import RERANKER

logger = logging.getLogger(__name__)

_CLASSES: dict[str, type[MLXBaseModel]] = {
    EMBEDDING: MLXSentenceTransformer,
    SPARSE: MLXSparseEncoder,
    MULTI_VECTOR: MLXMultiVectorEncoder,
    RERANKER: MLXCrossEncoder,
}
_PIPELINES = {CLASSIFIER: "text-classification", TOKEN_CLASSIFIER: "token-classification"}


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Args:
        kind: Its kind.
        model: The object that computes: of sentence_transformers, a pipeline, a Classifier or an EntityFinder.
        name: Its Hub id or folder; "" for one that was put together from modules.
        nbytes: How many bytes its weights have.
        warnings: What its files leave open.
    """

    kind: str
    model: Any
    name: str
    nbytes: int
    warnings: tuple[str, ...] = ()


def load_model(name: str, quantization_config: Any = None, kind: str | None = None) -> Loaded:
    """Load a model by its name.

    Args:
        name: A Hub id, or a folder.
        quantization_config: How its weights are quantized. Default: None, not at all.
        kind: Its kind. Default: None, the one that its files say.

    Returns:
        The model.

    Raises:
        UnsupportedModelError: If its files fit several kinds, or it is to rank and has several labels.
        BridgeError: Whatever the class raises that loads it.
    """
    found = recognized(name) if kind is None else Recognized(kind)
    for warning in found.warnings:
        logger.warning("%s is served as a model of the kind %r: %s", name, found.kind, warning)
    if found.kind in _PIPELINES:
        model: Any = pipeline(_PIPELINES[found.kind], model=name, quantization_config=quantization_config)
    elif found.kind == ENTITY_FINDER:
        model = MLXGLiNER.from_pretrained(name, quantization_config=quantization_config)
    else:
        model = _CLASSES[found.kind](name, quantization_config=quantization_config)
    if found.kind == RERANKER and model.num_labels != 1:
        raise UnsupportedModelError(
            f"{name} has {model.num_labels} labels, and a reranker has 1. Serve it for the task classify."
        )
    return replace(as_loaded(model), warnings=found.warnings)


def as_loaded(model: Any) -> Loaded:
    """Return a model that is in memory with its kind.

    Args:
        model: An object of sentence_transformers, an MLXGLiNER, or a pipeline for classification or entities.

    Returns:
        The model.

    Raises:
        ArgumentTypeError: If it is anything else.
    """
    for kind, one in _CLASSES.items():
        if isinstance(model, one):
            owner = model.transformers_model
            return Loaded(kind, model, model._name, 0 if owner is None else _nbytes(owner.loaded.model))
    if isinstance(model, ZeroShotNERPipeline):
        model = model.gliner
    if isinstance(model, MLXGLiNER):
        parts = (model.loaded.text, model.loaded.labels)
        nbytes = sum(_nbytes(part.loaded.model) for part in parts if part is not None)
        return Loaded(ENTITY_FINDER, EntityFinder(model), model.name_or_path, nbytes)
    for kind, task in _PIPELINES.items():
        if isinstance(model, Pipeline) and model.task == task:
            served = Classifier(model) if kind == CLASSIFIER else model
            return Loaded(kind, served, model.model.name_or_path, _nbytes(model.model.loaded.model))
    raise ArgumentTypeError(
        f"got a {type(model).__name__} to serve, expected a Hub id, a folder, a model of sentence_transformers, an "
        "MLXGLiNER, or a pipeline for text-classification or token-classification."
    )


def recognized(name: str) -> Recognized:
    """Return what a model is, by its files, without loading it.

    Args:
        name: A Hub id, or a folder.

    Returns:
        Its kind, with warnings.

    Raises:
        RepositoryError: If there is no such model.
        UnsupportedModelError: If its files fit several kinds.
    """
    return recognize(MLXSentenceTransformer._locate(name, HubOptions()))


def _nbytes(model: Any) -> int:
    """Return the bytes of a model's weights."""
    arrays: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in arrays)
