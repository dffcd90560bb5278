"""Attention masks of every form against transformers: flags of any dtype, 4 axes, rows without a token, bad ones."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, Row, mlx_class, save_model, torch_class

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.pretrained.attention_mask import ADDS_MASK, COMPUTES_WITH_MASK

ABSOLUTE = 2e-5
BY_TYPE: dict[str, Row] = {row.model_type: row for row in reversed(FAMILIES)}
# One type for each kind of attention: plain, causal, sliding windows, relative positions, soft-capped, convolution, ...
KINDS = [
    "bert",
    "clip_text_model",
    "gemma3_text",
    "qwen3",
    "modernbert",
    "mobilebert",
    "nomic_bert",
    "mpnet",
    "t5",
    "t5gemma",
    "convbert",
    "squeezebert",
    "deberta",
    "deberta-v2",
    "esm",
    "layoutlm",
    "xlm",
    "longformer",
]
LENGTH = 8
FLAGS = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1] * LENGTH])
IDS = np.random.default_rng(0).integers(10, 40, FLAGS.shape)
# Who sees whom: earlier tokens that are no padding, and oneself.
PAIRS = (np.tril(np.ones((LENGTH, LENGTH), bool)) & (FLAGS == 1)[:, None, None]) | np.eye(LENGTH, dtype=bool)
FORBIDDEN = np.finfo(np.float32).min
EMPTY_ROW = FLAGS * np.array([[0], [1]])
EMPTY_QUERIES = np.where((np.arange(LENGTH) < 6)[:, None] & PAIRS, np.float32(0), np.float32(FORBIDDEN))


@pytest.fixture(scope="module", params=KINDS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any]:
    folder = tmp_path_factory.mktemp("masks")
    torch_model = save_model(folder, BY_TYPE[request.param])
    return request.param, MLXAutoModel.from_pretrained(folder), torch_model


def compare(models: tuple[str, Any, Any], mask: np.ndarray, read: np.ndarray) -> None:
    with torch.no_grad():
        expected = models[2](torch.tensor(IDS), attention_mask=torch.tensor(mask))[0].numpy()
    np.testing.assert_allclose(models[1](IDS, attention_mask=mask)[0][read], expected[read], atol=ABSOLUTE)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.float32])
def test_flags_of_any_dtype(models: tuple[str, Any, Any], dtype: Any) -> None:
    compare(models, FLAGS.astype(dtype), FLAGS == 1)


@pytest.mark.parametrize("value", [2, -1, 0.5])
def test_any_number_is_a_token_where_transformers_takes_it_for_one(models: tuple[str, Any, Any], value: float) -> None:
    """In Longformer 2 stands for global attention."""
    mask = FLAGS.astype(type(value))
    mask[:, 3] = value
    if models[0] in COMPUTES_WITH_MASK and (models[0], value) != ("longformer", 2):
        with pytest.raises(InputError, match=r"attention_mask has values from .* expected \(0, 1.*for padding"):
            models[1](IDS, attention_mask=mask)
    else:
        compare(models, mask, FLAGS == 1)


def test_four_axes_are_used_as_they_are(models: tuple[str, Any, Any]) -> None:
    everything = np.ones_like(FLAGS, bool)
    added = np.where(PAIRS, np.arange(LENGTH) * 0.3, FORBIDDEN).astype(np.float32)
    if models[0] in COMPUTES_WITH_MASK:
        for mask in (PAIRS, added):
            with pytest.raises(InputError, match=r"has 4 axes, and .* takes only \(texts, tokens\)"):
                models[1](IDS, attention_mask=mask)
        return
    for mask in (added, added[:1], EMPTY_QUERIES):
        compare(models, mask, everything)
    if models[0] in ADDS_MASK:
        with pytest.raises(InputError, match=r"the dtype bool, and .* adds it to the scores\. Pass floats"):
            models[1](IDS, attention_mask=PAIRS)
    else:
        compare(models, PAIRS, everything)
        compare(models, EMPTY_QUERIES == 0, everything)


def test_a_row_without_tokens_answers_as_transformers(models: tuple[str, Any, Any]) -> None:
    everything = np.ones_like(FLAGS, bool)
    # Those of ESM are NaN in transformers, which divides by the number of tokens; DeBERTa and XLM zero padding.
    compare(models, EMPTY_ROW, EMPTY_ROW == 1 if models[0] in ("deberta", "deberta-v2", "esm", "xlm") else everything)


def test_the_lists_of_model_types_are_those_of_transformers() -> None:
    fused = {name for name, row in BY_TYPE.items() if torch_class(row, "Model")._supports_sdpa}
    # T5's layers add masks to their position bias in either case; FNet has no attention.
    assert set(BY_TYPE) - fused - COMPUTES_WITH_MASK - {"fnet"} == ADDS_MASK - COMPUTES_WITH_MASK - {
        "t5",
        "mt5",
        "umt5",
    }


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bert")
    save_model(folder, FAMILIES[0])
    return MLXAutoModel.from_pretrained(folder)


BAD = [
    ([["a"] * 3] * 2, ArgumentTypeError, r"has the dtype <U1, expected numbers or booleans"),
    ([[1, 1, 1], [1, 1]], InputError, r"rows of different lengths"),
    ([[None, 1, 1]] * 2, ArgumentTypeError, r"has the dtype object, expected numbers"),
    ([[1, 1]] * 2, InputError, r"the shape \(2, 2\), expected that of input_ids, \(2, 3\)"),
    ([[[1] * 3] * 3] * 2, InputError, r"the shape \(2, 3, 3\), expected .*attention_mask\[:, None\]"),
    (np.ones((2, 5, 3, 3), bool), InputError, r"the shape \(2, 5, 3, 3\), expected .* here \(2, 4, 3, 3\) at most"),
    (np.ones((2, 1, 3, 3), int), InputError, r"the dtype int64, and 'bert' adds it"),
    ([[float("nan"), 1, 1]] * 2, InputError, r"contains NaN"),
]


@pytest.mark.parametrize(("mask", "error", "words"), BAD)
def test_what_is_no_mask_is_a_clear_error(bert: Any, mask: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"attention_mask.*{words}"):
        bert([[2, 5, 3], [2, 6, 3]], attention_mask=mask)


@pytest.mark.parametrize("convert", [mx.array, torch.tensor, np.array, list])
def test_masks_of_any_library(bert: Any, convert: Any) -> None:
    expected = bert(IDS[:1], attention_mask=FLAGS[:1]).last_hidden_state
    np.testing.assert_array_equal(bert(IDS[:1], attention_mask=convert(FLAGS[:1].tolist())).last_hidden_state, expected)


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForQuestionAnswering"])
def test_2_adds_to_the_global_tokens_that_a_longformer_head_chooses(suffix: str, tmp_path: Path) -> None:
    row = BY_TYPE["longformer"]
    torch_model = save_model(tmp_path, row, suffix, labels=2)
    ids, mask = IDS[1:].copy(), np.ones((1, LENGTH), np.int64)
    ids[0, 2:5], mask[0, 6] = row.separator_id, 2
    with torch.no_grad():
        expected = torch_model(torch.tensor(ids), attention_mask=torch.tensor(mask))[0]
    found = mlx_class(suffix).from_pretrained(tmp_path)(ids, attention_mask=mask)[0]
    np.testing.assert_allclose(found, expected, atol=ABSOLUTE)
