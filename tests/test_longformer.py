"""Tests of what Longformer does differently from RoBERTa: sliding windows and global attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, WITH_TOKEN_TYPES, Row, mlx_class, ragged_inputs, save_model
from weight_files import edit_config, max_difference, output_array

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForQuestionAnswering
from mlx_hf_bridge.errors import ConfigError, InputError, TokenRangeError

ABSOLUTE = 2e-5
BY_TYPE = {row.model_type: row for row in FAMILIES}
# Windows of 4 and 8 tokens to each side: texts of 33 tokens or more are computed in blocks.
LONG: dict[str, Any] = {**WITH_TOKEN_TYPES, "max_position_embeddings": 100, "pad_token_id": 2, "sep_token_id": 4}
LONG_ROW = Row(
    "longformer", "Longformer", transformers.LongformerConfig(**LONG, attention_window=[8, 16, 8]), 2, 3, separator_id=4
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("longformer")
    torch_model = save_model(folder, LONG_ROW)
    return MLXAutoModel.from_pretrained(folder), torch_model


@pytest.mark.parametrize("global_tokens", ["none", "first", "some", "all"])
@pytest.mark.parametrize("longest", [3, 15, 16, 17, 40, 97])
def test_any_length_and_any_global_tokens_answer_as_transformers(
    models: tuple[Any, Any], longest: int, global_tokens: str
) -> None:
    inputs = ragged_inputs(LONG_ROW, (longest, longest // 2, 1), seed=longest)
    shape = inputs["input_ids"].shape
    if global_tokens != "none":
        share = {"first": 0.0, "some": 0.2, "all": 1.0}[global_tokens]
        marks = (np.random.default_rng(longest).random(shape) < share).astype(np.int64)
        marks[0, 0] = 1
        inputs["global_attention_mask"] = marks
    for given in (inputs, {name: array[:, ::-1].copy() for name, array in inputs.items()}):
        actual, expected = (output_array(model, given, "last_hidden_state") for model in models)
        assert max_difference(actual, expected, given) < ABSOLUTE


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForQuestionAnswering"])
def test_named_global_tokens_win_over_those_that_a_head_names(suffix: str, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, LONG_ROW, suffix, labels=2)
    inputs = ragged_inputs(LONG_ROW)
    inputs["global_attention_mask"] = (np.arange(17) % 5 == 3).astype(np.int64) * np.ones((3, 1), np.int64)
    name = "logits" if suffix == "ForSequenceClassification" else "start_logits"
    mlx_model = mlx_class(suffix).from_pretrained(tmp_path)
    actual, expected = (output_array(model, inputs, name) for model in (mlx_model, torch_model))
    assert max_difference(actual, expected, inputs) < ABSOLUTE
    del inputs["global_attention_mask"]
    assert not np.allclose(output_array(mlx_model, inputs, name), actual)


def test_torch_callers_get_transformers_own_output(models: tuple[Any, Any]) -> None:
    ids, marks = torch.tensor([[5, 6, 7]]), torch.tensor([[1, 0, 0]])
    output = models[0](ids, global_attention_mask=marks, output_attentions=True)
    assert type(output) is type(models[1](ids, global_attention_mask=marks))
    assert output.global_attentions[0].shape == (1, 4, 3, 1)


def test_pairs_without_three_separators_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, LONG_ROW, "ForQuestionAnswering", labels=2)
    mlx_model = MLXAutoModelForQuestionAnswering.from_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"a text has 1 separators \(id 4\), expected 3, .* Pass pairs of texts, or glob"
    ):
        mlx_model([[5, 4, 6, 7]])
    assert mlx_model([[5, 4, 6, 7]], global_attention_mask=[[1, 0, 0, 0]]).start_logits.shape == (1, 4)


def test_other_values_than_0_and_1_are_refused(models: tuple[Any, Any]) -> None:
    with pytest.raises(TokenRangeError, match=r"global_attention_mask has values from 0 to 2, and the model's table"):
        models[0]([[5, 6]], global_attention_mask=[[2, 0]])


@pytest.mark.parametrize("window", [[8, 16], [8, 16, 7], 0, [8, 16, None]], ids=str)
def test_windows_that_transformers_refuses_are_refused(window: Any, tmp_path: Path) -> None:
    save_model(tmp_path, LONG_ROW)
    edit_config(tmp_path, attention_window=window)
    with pytest.raises(ConfigError, match=r"config\.json has attention_window=.*, expected an even number of tokens"):
        MLXAutoModel.from_pretrained(tmp_path)


LED = next(row for row in FAMILIES if row.model_type == "led")


def test_leds_global_attention_is_that_of_transformers(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, LED)
    inputs = ragged_inputs(LED)
    inputs["global_attention_mask"] = np.zeros_like(inputs["attention_mask"])
    inputs["global_attention_mask"][:, [0, 2]] = 1
    tensors = {name: torch.tensor(array) for name, array in inputs.items()}
    with torch.no_grad():
        expected = torch_model(**tensors, output_attentions=True)
    actual = MLXAutoModel.from_pretrained(tmp_path)(**inputs, output_attentions=True)
    valid = inputs["attention_mask"].astype(bool)
    for name in ("last_hidden_state", "encoder_last_hidden_state"):
        np.testing.assert_allclose(actual[name][valid], expected[name].numpy()[valid], rtol=0, atol=2e-5)
    for one, other in zip(actual.encoder_global_attentions, expected.encoder_global_attentions, strict=True):
        rows = np.broadcast_to(valid[:, None], one.shape[:3])
        np.testing.assert_allclose(one[rows], other.numpy()[:, :, : valid.shape[1]][rows], rtol=0, atol=2e-5)
