"""Tests of MobileBERT modules that a config leaves unused, of its real config.json, and of unsupported configs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, ragged_inputs, save_model
from weight_files import edit_config, max_difference, output_array, read_tensors, rewrite

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ConfigError

# float32 rounding of different kernels, hidden states of about 1; largest difference seen 5e-7.
ABSOLUTE = 2e-5
ROW = next(row for row in FAMILIES if row.model_type == "mobilebert")


def varied(**values: object) -> Row:
    """Return the row with other config values."""
    config = transformers.MobileBertConfig(**{**ROW.config.to_dict(), **values})
    return dataclasses.replace(ROW, config=config)


PASSED_BY = {
    "the second bottleneck": {"use_bottleneck_attention": True},
    "the product of words": {"trigram_input": False, "embedding_size": 24},
    "the pooler": {"classifier_activation": False},
    "bottlenecks": {"use_bottleneck": False, "true_hidden_size": 24},
}


@pytest.mark.parametrize("case", PASSED_BY)
def test_modules_that_a_config_passes_by_are_carried_and_not_computed(case: str, tmp_path: Path) -> None:
    row = varied(**PASSED_BY[case])
    torch_model = save_model(tmp_path, row)
    pooler = {"pooler.dense.weight": torch.full((24, 24), 7.0), "pooler.dense.bias": torch.full((24,), 7.0)}
    rewrite(tmp_path, lambda tensors: {**pooler, **tensors})
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert set(read_tensors(mlx_model.folder)) == set(read_tensors(tmp_path))
    inputs = ragged_inputs(row)
    for name in ("last_hidden_state", "pooler_output"):
        assert (
            max_difference(*(output_array(model, inputs, name) for model in (mlx_model, torch_model)), inputs)
            < ABSOLUTE
        )


def test_one_block_and_the_config_of_the_hub_compute_as_transformers(tmp_path: Path) -> None:
    row = varied(num_feedforward_networks=1, classifier_activation=False, hidden_act="relu")
    torch_model = save_model(tmp_path, row, "ForSequenceClassification")
    edit_config(tmp_path, true_hidden_size=12)
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = ragged_inputs(row, (17, 2, 1))
    assert (
        max_difference(*(output_array(model, inputs, "logits") for model in (mlx_model, torch_model)), inputs)
        < ABSOLUTE
    )


def test_two_tokens_and_one_are_computed_too(tmp_path: Path) -> None:
    """The trigram input then lacks neighbors on both sides."""
    torch_model = save_model(tmp_path, ROW)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    for length in (1, 2, 3):
        ids = {"input_ids": np.arange(5, 5 + length)[None]}
        actual, expected = (output_array(model, ids, "last_hidden_state") for model in (mlx_model, torch_model))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ABSOLUTE)


REFUSED = [
    ({"normalization_type": "rms_norm"}, r"normalization_type='rms_norm'; known are no_norm, layer_norm\."),
    ({"true_hidden_size": 16}, r"true_hidden_size=16, expected layers of width 12, a multiple of the heads"),
    (
        {"key_query_shared_bottleneck": False},
        r"expected layers of width 12, a multiple of the heads and as wide as queries and keys",
    ),
    ({"num_attention_heads": 8}, r"num_attention_heads=8 and true_hidden_size=12, expected layers of width 12"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=str)
def test_a_config_that_transformers_cannot_compute_is_refused(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_model(tmp_path, ROW)
    edit_config(tmp_path, **values)
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)
