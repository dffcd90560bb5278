"""Tests of BigBird's block_sparse attention, which transformers replaces by full attention for short texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import WITH_TOKEN_TYPES, Row, save_model
from weight_files import edit_config, max_difference, output_array

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ConfigError, InputError

ABSOLUTE = 2e-5
# transformers switches to sparse attention beyond (5 + 2 * num_random_blocks) * block_size tokens.
LONGEST = 28
ROW = Row(
    "big_bird",
    "BigBird",
    transformers.BigBirdConfig(**WITH_TOKEN_TYPES, attention_type="block_sparse", block_size=4, num_random_blocks=1),
)


def reference(inputs: dict[str, Any], folder: Path) -> Any:
    """Return the outputs of a new transformers model."""
    model = transformers.BigBirdModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(
            **{name: torch.tensor(array) for name, array in inputs.items()},
            output_hidden_states=True,
            output_attentions=True,
        )


def texts(length: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(5, 101, (2, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


@pytest.mark.parametrize("length", [3, LONGEST])
def test_block_sparse_attention_is_full_up_to_its_blocks(length: int, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, ROW)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert max_difference(
        *(output_array(model, texts(length), "last_hidden_state") for model in (mlx_model, torch_model)), texts(length)
    ) < (ABSOLUTE)


@pytest.mark.parametrize("length", [LONGEST + 1, 32, 43])
def test_longer_texts_are_computed_by_blocks(length: int, tmp_path: Path) -> None:
    save_model(tmp_path, ROW)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    right = texts(length)
    right["attention_mask"][1, 9:] = 0
    left = {name: array[:, ::-1].copy() for name, array in right.items()}
    empty = {**right, "attention_mask": right["attention_mask"] * [[1], [0]]}
    for inputs in (texts(length), right, left, empty):
        # transformers' model keeps full attention after a short text, so each call gets a new one.
        expected = reference(inputs, tmp_path)
        actual = mlx_model(**inputs, output_hidden_states=True, output_attentions=True)
        plain = mlx_model(**inputs)
        valid = inputs["attention_mask"].astype(bool)
        np.testing.assert_allclose(plain.last_hidden_state[valid], expected.last_hidden_state[valid], 0, ABSOLUTE)
        np.testing.assert_allclose(plain.pooler_output, expected.pooler_output, 0, ABSOLUTE)
        for name in ("hidden_states", "attentions"):
            for mlx_value, torch_value in zip(actual[name], expected[name], strict=True):
                rows = np.broadcast_to(valid[:, None], mlx_value.shape[:3]) if name == "attentions" else valid
                whole = torch_value.numpy()  # padded to whole blocks
                cut = whole[..., :length, :length] if name == "attentions" else whole[:, :length]
                np.testing.assert_allclose(mlx_value[rows], cut[rows], 0, ABSOLUTE, err_msg=name)


def test_long_texts_share_batches_only_with_texts_of_their_length(tmp_path: Path) -> None:
    save_model(tmp_path, ROW)
    assert MLXAutoModel.from_pretrained(tmp_path).loaded.independent_length == LONGEST


def test_a_mask_with_a_row_for_each_query_is_refused_where_attention_is_sparse(tmp_path: Path) -> None:
    save_model(tmp_path, ROW)
    inputs = texts(40) | {"attention_mask": np.zeros((2, 1, 40, 40), np.float32)}
    with pytest.raises(InputError, match=r"block_sparse attention takes one of shape \(texts,"):
        MLXAutoModel.from_pretrained(tmp_path)(**inputs)


def test_another_kind_of_attention_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, ROW)
    edit_config(tmp_path, attention_type="sparser")
    with pytest.raises(ConfigError, match=r"attention_type='sparser'; known are block_sparse and original_full\. Take"):
        MLXAutoModel.from_pretrained(tmp_path)
    edit_config(tmp_path, attention_type="original_full", use_bias=False)
    with pytest.raises(ConfigError, match=r"use_bias=False"):
        MLXAutoModel.from_pretrained(tmp_path)
