"""Tests of BigBird's block_sparse attention: computed while transformers uses full attention, an error beyond."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from checkpoints import WITH_TOKEN_TYPES, Row, save_model
from weight_files import edit_config, max_difference, output_array

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ConfigError, TokenRangeError

ABSOLUTE = 2e-5
# transformers switches to sparse attention beyond (5 + 2 * num_random_blocks) * block_size tokens.
LONGEST = 28
ROW = Row(
    "big_bird",
    "BigBird",
    transformers.BigBirdConfig(**WITH_TOKEN_TYPES, attention_type="block_sparse", block_size=4, num_random_blocks=1),
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


def test_a_text_for_which_it_is_sparse_is_refused_wherever_its_places_are(tmp_path: Path) -> None:
    save_model(tmp_path, ROW)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert mlx_model.config.max_length == LONGEST
    message = rf"have {LONGEST + 1} tokens, and 'big_bird' with this config\.json .* {LONGEST} or fewer\. Truncate"
    for places in (None, np.zeros((1, LONGEST + 1), int)):
        with pytest.raises(TokenRangeError, match=message):
            mlx_model(**texts(LONGEST + 1), position_ids=places)


def test_another_kind_of_attention_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, ROW)
    edit_config(tmp_path, attention_type="sparser")
    with pytest.raises(ConfigError, match=r"attention_type='sparser'; known are block_sparse and original_full\. Take"):
        MLXAutoModel.from_pretrained(tmp_path)
    edit_config(tmp_path, attention_type="original_full", use_bias=False)
    with pytest.raises(ConfigError, match=r"use_bias=False"):
        MLXAutoModel.from_pretrained(tmp_path)
