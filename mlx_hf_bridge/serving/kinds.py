"""The kinds of models, how one is recognized by its files, and which class loads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json
from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError
from mlx_hf_bridge.pipelines import Pipeline, pipeline
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.sentence_transformers import (
    MLXCrossEncoder,
    MLXMultiVectorEncoder,
    MLXSentenceTransformer,
    MLXSparseEncoder,
)
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.loading.settings import read_model_config
from mlx_hf_bridge.serving.tasks.classification import CLASSIFIER, TOKEN_CLASSIFIER, Classifier
from mlx_hf_bridge.serving.tasks.embedding import EMBEDDING, MULTI_VECTOR, SPARSE
from mlx_hf_bridge.serving.tasks.scoring import RERANKER

KINDS = (EMBEDDING, SPARSE, MULTI_VECTOR, RERANKER, CLASSIFIER, TOKEN_CLASSIFIER)
_CLASSES: dict[str, type[MLXBaseModel]] = {
    EMBEDDING: MLXSentenceTransformer,
    SPARSE: MLXSparseEncoder,
    MULTI_VECTOR: MLXMultiVectorEncoder,
    RERANKER: MLXCrossEncoder,
}
_TASKS = {CLASSIFIER: "text-classification", TOKEN_CLASSIFIER: "token-classification"}
# config_sentence_transformers.json's "model_type".
_SAVED_TYPES = {"SparseEncoder": SPARSE, "MultiVectorEncoder": MULTI_VECTOR}
# ColBERT's checkpoints name this architecture, or PyLate's model type.
_COLBERT = ("HF_ColBERT", "ColBERT")


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Args:
        kind: One of KINDS.
        model: The object that computes: of sentence_transformers, or a pipeline.
        name: Its Hub id or folder; "" for one that was put together from modules.
        nbytes: How many bytes its weights have.
    """

    kind: str
    model: Any
    name: str
    nbytes: int


def load_model(name: str, quantization_config: Any = None, kind: str | None = None) -> Loaded:
    """Load a model by its name.

    Args:
        name: A Hub id, or a folder.
        quantization_config: How its weights are quantized. Default: None, not at all.
        kind: One of KINDS. Default: None, the one that its files say.

    Returns:
        The model.

    Raises:
        BridgeError: Whatever the class raises that loads it.
    """
    kind = kind or kind_of(name)
    if kind in _TASKS:
        return as_loaded(pipeline(_TASKS[kind], model=name, quantization_config=quantization_config))
    return as_loaded(_CLASSES[kind](name, quantization_config=quantization_config))


def as_loaded(model: Any) -> Loaded:
    """Return a model that is in memory with its kind.

    Args:
        model: An object of sentence_transformers, or a pipeline for classification.

    Returns:
        The model.

    Raises:
        ArgumentTypeError: If it is anything else.
    """
    for kind, one in _CLASSES.items():
        if isinstance(model, one):
            return Loaded(kind, model, model._name, _nbytes(model.transformers_model))
    for kind, task in _TASKS.items():
        if isinstance(model, Pipeline) and model.task == task:
            served = Classifier(model) if kind == CLASSIFIER else model
            return Loaded(kind, served, model.model.name_or_path, _nbytes(model.model))
    raise ArgumentTypeError(
        f"got a {type(model).__name__} to serve, expected a Hub id, a folder, a model of sentence_transformers, or a "
        "pipeline for text-classification or token-classification."
    )


def kind_of(name: str) -> str:
    """Return the kind of a model, by its files.

    Args:
        name: A Hub id, or a folder.

    Returns:
        One of KINDS.

    Raises:
        RepositoryError: If there is no such model.
    """
    folder = MLXSentenceTransformer._locate(name, HubOptions()).folder
    saved = read_model_config(folder).get("model_type")
    if saved in _SAVED_TYPES:
        return _SAVED_TYPES[saved]
    config = _read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    if saved == "CrossEncoder" or architecture.endswith("ForSequenceClassification"):
        return _classifier_kind(config, saved)
    if architecture.endswith("ForTokenClassification"):
        return TOKEN_CLASSIFIER
    return MULTI_VECTOR if architecture in _COLBERT or (folder / "artifact.metadata").is_file() else EMBEDDING


def _classifier_kind(config: dict[str, Any], saved: str | None) -> str:
    """A model with one label scores pairs; one with several classifies."""
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) and labels else config.get("num_labels", 2)
    own = isinstance(config.get("architectures"), list) and config["architectures"]
    is_ranker = count == 1 or (saved == "CrossEncoder" and not str(own).count("ForSequenceClassification"))
    return RERANKER if is_ranker else CLASSIFIER


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    return config if isinstance(config, dict) else {}


def _nbytes(model: MLXPreTrainedModel | None) -> int:
    """Return the bytes of a model's weights; 0 for one without an encoder, whose tables are small."""
    arrays: Any = [] if model is None else tree_flatten(model.loaded.model.parameters())
    return sum(array.nbytes for _, array in arrays)
