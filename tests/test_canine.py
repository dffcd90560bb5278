"""Tests of CANINE beyond those of all families: texts of several chunks, and shorter than a group of characters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import Row, save_model

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ConfigError, TokenRangeError
from mlx_hf_bridge.models.canine import CanineConfig

ABSOLUTE = 2e-5
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "num_hash_buckets": 90,
    "max_position_embeddings": 90,
    "local_transformer_stride": 16,
}
ROW = Row("canine", "Canine", transformers.CanineConfig(**SIZES))


def reference(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()})


@pytest.mark.parametrize("length", [4, 5, 31, 70])
def test_code_points_answer_as_in_transformers(length: int, tmp_path: Path) -> None:
    """Chunks of padding only, and rows of padding only, are computed as transformers does, since groups read them."""
    torch_model = save_model(tmp_path, ROW)
    ids = np.random.default_rng(0).integers(1, 0x110000, (3, length))
    mask = np.ones_like(ids)
    mask[0, length // 3 :] = mask[1, : 2 * length // 3] = mask[2] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    expected, actual = reference(torch_model, inputs), MLXAutoModel.from_pretrained(tmp_path)(**inputs)
    for name in ("last_hidden_state", "pooler_output"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=ABSOLUTE)


def test_texts_shorter_than_a_group_are_computed_as_if_padded(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, ROW, "ForSequenceClassification")
    padded = {"input_ids": np.array([[0xE000, 97, 0xE001, 0]]), "attention_mask": np.array([[1, 1, 1, 0]])}
    short = {name: array[:, :3] for name, array in padded.items()}
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    expected = reference(torch_model, padded).logits
    for given in (short, padded):
        np.testing.assert_allclose(model(**given).logits, expected, rtol=0, atol=ABSOLUTE)
    assert model(**short, output_hidden_states=True).hidden_states[0].shape[1] == 4


def test_the_position_table_limits_texts_too(tmp_path: Path) -> None:
    save_model(tmp_path, Row("canine", "Canine", transformers.CanineConfig(**{**SIZES, "num_hash_buckets": 40})))
    model = MLXAutoModel.from_pretrained(tmp_path)
    assert model.config.max_length == 40
    with pytest.raises(TokenRangeError, match=r"the texts have 41 tokens.* for 40 or fewer"):
        model(np.ones((1, 41), int))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hash_functions": 17}, "num_hash_functions=17"),
        ({"num_hash_functions": 3}, "hidden_size=16"),
    ],
)
def test_impossible_sizes_are_named(values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CanineConfig.from_json({**ROW.config.to_dict(), **values})
