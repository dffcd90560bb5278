"""One tiny checkpoint in three pipelines: mlx_hf_bridge's, and transformers' with the MLX model and with torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, WITH_TOKEN_TYPES, Row, make_model, make_wordpiece, ragged_inputs, save_model
from pipeline_calls import TEXTS

import mlx_hf_bridge
from mlx_hf_bridge.pipelines import TASKS

# Scores are float32 probabilities of logits scaled by SHARPNESS; largest difference seen 2.1e-5, at twice that scale.
ABSOLUTE = 1e-4
# Logits of tiny models hardly depend on the text. Scaled up around their mean, they reveal a wrong score or order.
SHARPNESS = 50.0
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
ENTITIES = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]))
WITH_FIRST_PAD = {**WITH_TOKEN_TYPES, "max_position_embeddings": 122}
ROWS = {
    "bert": FAMILIES[0],
    "distilbert": next(row for row in FAMILIES if row.model_type == "distilbert"),
    "roberta": Row("roberta", "Roberta", transformers.RobertaConfig(**WITH_FIRST_PAD, pad_token_id=1), 1),
    "xlm-roberta": Row("xlm-roberta", "XLMRoberta", transformers.XLMRobertaConfig(**WITH_FIRST_PAD, pad_token_id=1), 1),
}
HEADS = {
    "feature-extraction": "Model",
    "fill-mask": "ForMaskedLM",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "zero-shot-classification": "ForSequenceClassification",
}
NAMES = {"ForTokenClassification": ENTITIES}


def make_byte_pairs(folder: Path) -> None:
    """Save a RoBERTa tokenizer with a vocabulary of single letters that fits the tiny models."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", ".", ",", "!", *map(chr, range(ord("a"), ord("z") + 1))]
    merges = ["Ġ t", "h e", "a t", "Ġt he", "i s", "e n", "o n"]
    tokens += [merge.replace(" ", "") for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split()) for merge in merges]
    transformers.RobertaTokenizer(vocab=vocabulary, merges=pairs, model_max_length=120).save_pretrained(folder)


def make_pieces(folder: Path) -> None:
    """Save an XLM-R tokenizer (Unigram) with a vocabulary of words and letters that fits the tiny models."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["▁", "▁the", "▁cat", "▁dog", "▁s", "at", "▁on", "▁m", "ing", ".", ",", "!", *letters]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, *((piece, -1.0 - 0.1 * place) for place, piece in enumerate(pieces)), ("<mask>", 0.0)]
    transformers.XLMRobertaTokenizer(vocab=vocabulary, model_max_length=120).save_pretrained(folder)


TOKENIZERS = {"roberta": make_byte_pairs, "xlm-roberta": make_pieces}


def make_labelled(
    folder: Path, row: Row, names: dict[int, str] = NLI, sharpness: float = SHARPNESS, head: str | None = None
) -> Path:
    """Save a tokenizer and a classifier whose labels differ between texts or between tokens."""
    head = head or "ForSequenceClassification"
    model = make_model(row, head, len(names))
    TOKENIZERS.get(row.model_type, make_wordpiece)(folder)
    last = getattr(model.classifier, "out_proj", model.classifier)
    with torch.no_grad():
        last.weight.mul_(sharpness)
        last.bias.sub_(mean_logits(model, row, folder, head))
    model.config.id2label = names
    model.config.label2id = {name: number for number, name in names.items()}
    model.save_pretrained(folder)
    return folder


def mean_logits(model: Any, row: Row, folder: Path, head: str) -> torch.Tensor:
    """Return the mean logits over random inputs, all tokens of TEXTS, or mask tokens, depending on the head."""
    if head == "ForSequenceClassification":
        inputs = {name: torch.tensor(array) for name, array in ragged_inputs(row).items()}
        return model(**inputs).logits.mean(dim=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = TEXTS if head == "ForTokenClassification" else [f"{tokenizer.mask_token} {text}" for text in TEXTS]
    slots = slice(None) if head == "ForTokenClassification" else slice(1, 2)
    return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits[0, slots] for text in texts]).mean(dim=0)


def make_words(folder: Path, row: Row) -> Path:
    """Save a tokenizer and a masked language model that clearly prefers some tokens over others."""
    # With this seed, the scores of the best tokens are far enough apart for float32 rounding not to change their order.
    model = make_model(row, "ForMaskedLM", seed=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("predictions.transform" in name or "lm_head" in name) and "norm" in name.lower():
                parameter.mul_(250)
        TOKENIZERS.get(row.model_type, make_wordpiece)(folder)
        model.get_output_embeddings().bias.sub_(mean_logits(model, row, folder, "ForMaskedLM"))
    model.save_pretrained(folder)
    return folder


def make_for(folder: Path, row: Row, head: str) -> Path:
    """Save a checkpoint and a tokenizer for a head of HEADS."""
    if head == "ForMaskedLM":
        return make_words(folder, row)
    if head in ("Model", "ForQuestionAnswering"):
        save_model(folder, row, head, labels=2)
        TOKENIZERS.get(row.model_type, make_wordpiece)(folder)
        return folder
    sharpness = 8.0 if head == "ForTokenClassification" else SHARPNESS
    return make_labelled(folder, row, NAMES.get(head, NLI), sharpness, head)


def torch_pipeline(task: str, folder: Path, **options: Any) -> Any:
    """Return transformers' own pipeline on the torch model."""
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


def transformers_pipeline_on_mlx(task: str, folder: Path, **options: Any) -> Any:
    """Return transformers' own pipeline on the MLX model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = TASKS[task].loader.from_pretrained(folder)
    return transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **options)


@dataclass
class ThreePipelines:
    """The three pipelines of one model family for each task."""

    family: str
    folders: dict[str, Path]
    mlx: dict[str, Any]
    transformers_on_mlx: dict[str, Any]
    torch: dict[str, Any]


def build_three_pipelines(
    family: str, tasks: tuple[str, ...], factory: pytest.TempPathFactory
) -> Iterator[ThreePipelines]:
    """Build one checkpoint per head and three pipelines per task, for use in a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(factory.mktemp("module_cache")))
        heads = sorted({HEADS[task] for task in tasks})
        made = {head: make_for(factory.mktemp(family), ROWS[family], head) for head in heads}
        folders = {task: made[HEADS[task]] for task in tasks}
        yield ThreePipelines(
            family,
            folders,
            {task: mlx_hf_bridge.pipeline(task, folder) for task, folder in folders.items()},
            {task: transformers_pipeline_on_mlx(task, folder) for task, folder in folders.items()},
            {task: torch_pipeline(task, folder) for task, folder in folders.items()},
        )


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_same(actual: Any, expected: Any) -> None:
    """Assert equal structure, types and strings, and close numbers; an array with .numpy() corresponds to a tensor."""
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        assert actual.shape == tuple(expected.shape)
        np.testing.assert_allclose(actual.numpy(), np.asarray(expected), rtol=0, atol=ABSOLUTE)
        return
    assert type(actual) is type(expected)
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for mlx_value, torch_value in zip(actual, expected, strict=True):
            assert_same(mlx_value, torch_value)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        assert_same(list(actual.values()), list(expected.values()))
    elif isinstance(expected, (float, np.floating)):
        assert actual == pytest.approx(expected, rel=0, abs=ABSOLUTE)
    else:
        assert actual == expected
