"""What a model is for, by its files: its kind, and a warning where they leave that open."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.gliner import GLINER_FILE, GLINER_KEY
from mlx_hf_bridge.checkpoints.card import read_card_entries
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json, read_modules
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.errors import InputError, UnsupportedModelError
from mlx_hf_bridge.sentence_transformers.loading.settings import read_model_config
from mlx_hf_bridge.serving.tasks.classification import CLASSIFIER, TOKEN_CLASSIFIER
from mlx_hf_bridge.serving.tasks.embedding import EMBEDDING, MULTI_VECTOR, SPARSE
from mlx_hf_bridge.serving.tasks.entities import ENTITY_FINDER
from mlx_hf_bridge.serving.tasks.scoring import RERANKER

# What users call the task of a model, and its kind. vLLM's and TEI's names, and the Hub's, are read too.
TASKS = {
    "embed": EMBEDDING,
    "sparse": SPARSE,
    "multi-vector": MULTI_VECTOR,
    "rerank": RERANKER,
    "classify": CLASSIFIER,
    "ner": TOKEN_CLASSIFIER,
    "zero-shot-ner": ENTITY_FINDER,
}
_SYNONYMS = {
    **{kind: kind for kind in TASKS.values()},
    **dict.fromkeys(("feature-extraction", "sentence-similarity"), EMBEDDING),
    "splade": SPARSE,
    "colbert": MULTI_VECTOR,
    **dict.fromkeys(("score", "text-ranking"), RERANKER),
    "text-classification": CLASSIFIER,
    **dict.fromkeys(("token-classify", "token-classification"), TOKEN_CLASSIFIER),
    "gliner": ENTITY_FINDER,
}
# config_sentence_transformers.json's "model_type"; PyLate's is ColBERT, and older versions of it name none.
_SAVED_TYPES = {"SparseEncoder": SPARSE, "MultiVectorEncoder": MULTI_VECTOR, "ColBERT": MULTI_VECTOR}
_PYLATE_KEY = "query_prefix"
_CROSS_ENCODER = "CrossEncoder"
_COLBERT = ("HF_ColBERT", "ColBERT")
_SPARSE_MODULES = ("SpladePooling", "SparseAutoEncoder")
# How sparse models and rerankers are called by their authors, in names and in tags of model cards.
_SPARSE_WORDS = re.compile(r"splade|sparse.?enc|neural.?sparse", re.IGNORECASE)
_RERANKER_WORDS = re.compile(r"rerank|cross.?encoder|text.?ranking", re.IGNORECASE)
# Heads of models that may be encoders for embeddings too. Others are served for what they were trained for only.
_HEADLESS = ("Model", "Encoder", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration")
_CAUSAL, _MASKED = "LMHeadModel", "WithLMHeadModel"  # GPT2LMHeadModel, but XLMWithLMHeadModel


@dataclass(frozen=True)
class Recognized:
    """What a model is.

    Args:
        kind: One of the kinds of TASKS.
        warnings: What its files leave open, for the log and /info.
    """

    kind: str
    warnings: tuple[str, ...] = ()


def kind_of_task(task: str) -> str:
    """Return the kind of model that a task is for.

    Args:
        task: "embed", "sparse", "multi-vector", "rerank", "classify", "ner" or "zero-shot-ner", or another common name.

    Returns:
        The kind.

    Raises:
        InputError: If there is no such task.
    """
    name = str(task).strip().lower().replace("_", "-")
    found = TASKS.get(name) or _SYNONYMS.get(name)
    if found is None:
        raise InputError(f"got the task {task!r:.80}, expected {', '.join(TASKS)}.")
    return found


def recognize(source: Source) -> Recognized:
    """Return what a model is, by its files.

    Args:
        source: Where its files are.

    Returns:
        Its kind, with warnings.

    Raises:
        UnsupportedModelError: If the files fit several kinds, which would give different results.
    """
    folder = source.folder
    config = _read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    if (folder / GLINER_FILE).is_file() or GLINER_KEY in config:
        return Recognized(ENTITY_FINDER)
    settings, modules = read_model_config(folder), read_modules(folder)
    saved = settings.get("model_type")
    if saved in _SAVED_TYPES:
        return Recognized(_SAVED_TYPES[saved])
    if (modules and _PYLATE_KEY in settings) or architecture in _COLBERT or (folder / "artifact.metadata").is_file():
        return Recognized(MULTI_VECTOR)
    if saved == _CROSS_ENCODER:
        ranks = not architecture.endswith("ForSequenceClassification") or _label_count(config) == 1
        return Recognized(RERANKER if ranks else CLASSIFIER)
    if modules:
        is_sparse = any(entry.kind in _SPARSE_MODULES for entry in modules)
        return Recognized(SPARSE if is_sparse else EMBEDDING)
    return _by_architecture(source, config, architecture)


def _by_architecture(source: Source, config: Mapping[str, Any], architecture: str) -> Recognized:
    """Return what a model without files of sentence-transformers is."""
    if architecture.endswith("ForSequenceClassification"):
        return _classifier(source, config)
    if architecture.endswith("ForTokenClassification"):
        return Recognized(TOKEN_CLASSIFIER)
    if architecture.endswith("ForMaskedLM") and _is_called(source, config, _SPARSE_WORDS):
        what = "its name or card calls it a sparse model, and it has no files of sentence-transformers"
        return Recognized(SPARSE, (f"{what}: SPLADE's max pooling is used.",))
    if "Static" in architecture:
        return Recognized(EMBEDDING)
    is_causal = architecture.endswith(_CAUSAL) and not architecture.endswith(_MASKED)
    if architecture and (is_causal or not architecture.endswith(_HEADLESS)):
        raise UnsupportedModelError(
            f"{source.name} is a {architecture} without files of sentence-transformers, so what it is for is not "
            "certain. Name its task, such as --task embed (mean pooling, or last-token for a causal language model) "
            "or --task rerank; in Python task=."
        )
    what = "it has no files of sentence-transformers (modules.json), so the mean of its token embeddings is used"
    doubt = "a model that was not trained for that gives poor embeddings"
    return Recognized(EMBEDDING, (f"{what}; {doubt}, and a sparse model needs the task sparse.",))


def _classifier(source: Source, config: Mapping[str, Any]) -> Recognized:
    """A sequence classifier with one label scores pairs, unless it was trained to rate single texts."""
    if _label_count(config) > 1:
        return Recognized(CLASSIFIER)
    # Older versions of CrossEncoder write their settings into config.json.
    if "sentence_transformers" in config or _is_called(source, config, _RERANKER_WORDS):
        return Recognized(RERANKER)
    if config.get("problem_type") == "regression":
        raise UnsupportedModelError(
            f"{source.name} has one label and problem_type 'regression', so it may score pairs or rate single texts. "
            "Name its task: --task rerank or --task classify; in Python task=."
        )
    doubt = "it has one label, so it is served as a reranker of pairs; one that rates single texts needs the task"
    return Recognized(RERANKER, (f"{doubt} classify.",))


def _is_called(source: Source, config: Mapping[str, Any], words: re.Pattern[str]) -> bool:
    """Whether a model's name, or that of the model it was made from, or its card has one of some words."""
    card = read_card_entries(source.folder, ("tags", "pipeline_tag"))
    tags = card.get("tags")
    given = tags if isinstance(tags, list) else [tags]
    made_from = (config.get("_name_or_path"), read_metadata(source.folder).get("source"))
    names = [Path(str(name)).name for name in (source.name, *made_from) if name]
    return any(words.search(str(one)) for one in (*names, *given, card.get("pipeline_tag")) if one)


def _label_count(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) and labels else config.get("num_labels", 2)
    return count if isinstance(count, int) else 2


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    return config if isinstance(config, dict) else {}
