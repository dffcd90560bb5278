"""Which classes and pipelines load a model, and which end in an error."""

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    HF_SUFFIXES,
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
)
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.inspection.modules import Modules
from mlx_hf_bridge.inspection.tokenizer import TokenizerFacts
from mlx_hf_bridge.inspection.weights import Weights

_PIPELINES = (MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
SENTENCE, CROSS, SPARSE, MULTI = (
    "MLXSentenceTransformer",
    "MLXCrossEncoder",
    "MLXSparseEncoder",
    "MLXMultiVectorEncoder",
)
# The class that config_sentence_transformers.json names, where it is not a SentenceTransformer.
_SAVED = {"CrossEncoder": CROSS, "SparseEncoder": SPARSE, "MultiVectorEncoder": MULTI, "ColBERT": MULTI}
Uses = tuple[tuple[str, ...], dict[str, str]]


def uses_of(
    checkpoint: Checkpoint, family: Family | None, weights: Weights, modules: Modules, tokenizer: TokenizerFacts
) -> Uses:
    """Return what works, and what ends in an error.

    Args:
        checkpoint: The model.
        family: Its family; None for a traced model.
        weights: What its headers say.
        modules: What the files of sentence-transformers say.
        tokenizer: What is known of its tokenizer.

    Returns:
        Names of classes and pipelines that load it, and class -> reason for others that one may expect.
    """
    works: list[str] = ["MLXAutoModel"]
    refused: dict[str, str] = {}
    if family is None:
        return (*works, _text_class(checkpoint, weights, modules)), refused
    works += [f"MLXAuto{_auto_name(task)}" for task in weights.heads if task in HF_SUFFIXES]
    for architecture in checkpoint.config.get("architectures") or ():
        if reason := _lost_head(str(architecture), family, weights):
            refused[str(architecture)] = reason
    text_class = _text_class(checkpoint, weights, modules)
    problem = modules.problem or _tokenizer_problem(checkpoint, tokenizer)
    if problem:
        refused[text_class] = problem
        return tuple(works), refused
    if _scores_by_answer(checkpoint, modules, tokenizer):
        works.append(CROSS)
    pipelines = ["feature-extraction", *(task for task in weights.heads if task in _PIPELINES)]
    if SEQUENCE_CLASSIFICATION in weights.heads and _has_entailment(checkpoint):
        pipelines.append("zero-shot-classification")
    return (*works, text_class, *(f'pipeline("{task}")' for task in pipelines)), refused


def _scores_by_answer(checkpoint: Checkpoint, modules: Modules, tokenizer: TokenizerFacts) -> bool:
    """Whether MLXCrossEncoder reads a decoder's answer, "yes" or "no", to a pair in a chat template."""
    is_decoder = any(str(name).endswith("ForCausalLM") for name in checkpoint.config.get("architectures") or ())
    return is_decoder and not modules.kinds and tokenizer.has_chat_template


def _auto_name(task: str) -> str:
    return f"Model{HF_SUFFIXES[task]}" if task != BASE_TASK else "Model"


def _text_class(checkpoint: Checkpoint, weights: Weights, modules: Modules) -> str:
    """Return the class of sentence-transformers that fits the repo."""
    architectures = [str(name) for name in checkpoint.config.get("architectures") or ()]
    if "HF_ColBERT" in architectures:
        return MULTI
    if modules.kinds or modules.problem:
        is_pylate = "query_prefix" in modules.settings
        return MULTI if is_pylate else _SAVED.get(str(modules.settings.get("model_type")), SENTENCE)
    if SEQUENCE_CLASSIFICATION in weights.heads or any(
        name.endswith("ForSequenceClassification") for name in architectures
    ):
        return CROSS
    return SENTENCE


def _tokenizer_problem(checkpoint: Checkpoint, tokenizer: TokenizerFacts) -> str:
    if tokenizer.can_be_used:
        return ""
    return tokenizer.form or f"{checkpoint.source.name} has no tokenizer, so that only ids can be given."


def _lost_head(architecture: str, family: Family, weights: Weights) -> str:
    """Return why the head of a class that config.json names cannot be loaded; "" if it can, or has none."""
    task = next(
        (task for task, suffix in HF_SUFFIXES.items() if task != BASE_TASK and architecture.endswith(suffix)), None
    )
    if task is None or weights.files is None or task in weights.heads:
        return ""
    if task not in family.heads:
        return f"model_type {family.model_type!r} has no head for {task!r} here"
    return "the files lack weights of this head, or have them under other names"


def _has_entailment(checkpoint: Checkpoint) -> bool:
    labels = checkpoint.config.get("id2label") or {}
    return any(str(label).lower().startswith("entail") for label in labels.values())
