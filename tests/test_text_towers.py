"""Pooling at a specific token, as in text towers of image models and decoders adapted as embedding models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, STD, Row, make_model, ragged_inputs, row_name, save_model
from weight_files import edit_config, max_difference, output_array, read_tensors, rename

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ConfigError, InputError

# float32 tolerance across kernels, as in test_parity.py.
ABSOLUTE = 2e-5


def split_rows(*model_types: str) -> list[Row]:
    return [row for row in FAMILIES if row.model_type in model_types]


def with_ends(row: Row) -> dict[str, np.ndarray]:
    """Return a ragged batch whose texts end in the EOS token, with the second one also padded with EOS."""
    inputs = ragged_inputs(row)
    end = row.config.eos_token_id if row.config.eos_token_id != 2 else 100
    for index, length in enumerate((17, 9, 4)):
        inputs["input_ids"][index, length - 1] = end
    inputs["input_ids"][1, 9:] = end
    return inputs


@pytest.mark.parametrize("row", split_rows("clip_text_model"), ids=row_name)
@pytest.mark.parametrize("sides", [1, -1])
def test_clip_pools_the_first_end_token(row: Row, sides: int, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, row)
    inputs = with_ends(row)
    if sides == -1:
        inputs = {name: np.stack([np.roll(one, 3) for one in array]) for name, array in inputs.items()}
        inputs["input_ids"][1, :3] = 5
    expected = output_array(torch_model, inputs, "pooler_output")
    np.testing.assert_allclose(
        output_array(MLXAutoModel.from_pretrained(tmp_path), inputs, "pooler_output"), expected, rtol=0, atol=ABSOLUTE
    )


@pytest.mark.parametrize("row", split_rows("clip_text_model", "siglip_text_model"), ids=row_name)
def test_names_of_before_transformers_5_load(row: Row, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, row)
    rename(tmp_path, lambda name: f"text_model.{name}")
    inputs = ragged_inputs(row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )


def test_clips_projection_is_carried_along(tmp_path: Path) -> None:
    [row, _] = split_rows("clip_text_model")
    torch_model = transformers.CLIPTextModelWithProjection(row.config).eval()
    with torch.no_grad():
        for parameter in torch_model.parameters():
            parameter.normal_(0, STD)
    torch_model.save_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )
    assert torch.equal(read_tensors(mlx_model.folder)["text_projection.weight"], torch_model.text_projection.weight)


@pytest.mark.parametrize("row", [row for row in FAMILIES if not row.accepts_inputs_embeds], ids=row_name)
def test_vectors_are_refused_where_transformers_takes_none(row: Row, tmp_path: Path) -> None:
    save_model(tmp_path, row)
    vectors = np.zeros((2, 5, 24), np.float32)
    with pytest.raises(InputError, match=rf"got inputs_embeds, and {row.classes}Model takes only token ids"):
        MLXAutoModel.from_pretrained(tmp_path)(inputs_embeds=vectors)


@pytest.mark.parametrize("row", split_rows("qwen3", "gemma3_text"), ids=row_name)
@pytest.mark.parametrize("flipped", [False, True])
def test_the_last_token_is_classified_whichever_side_is_padded(row: Row, flipped: bool, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, row, "ForSequenceClassification")
    inputs = ragged_inputs(row)
    if flipped:
        inputs = {name: array[:, ::-1].copy() for name, array in inputs.items()}
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert (
        max_difference(*(output_array(model, inputs, "logits") for model in (mlx_model, torch_model)), inputs)
        < ABSOLUTE
    )


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3_text", {"use_bidirectional_attention": False}, "use_bidirectional_attention=false, a decoder"),
    ("gemma3_text", {"layer_types": ["full_attention"]}, r"layer_types=\['full_attention'\].*a type for each layer"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window=True, which 'qwen3' does not support"),
    ("qwen3", {"num_key_value_heads": 3}, "num_key_value_heads=3 .*must be a multiple"),
    ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5.0}}, "rope_type='yarn'"),
    ("convbert", {"conv_kernel_size": 4}, "conv_kernel_size=4, .*expected an odd kernel"),
]


@pytest.mark.parametrize(("model_type", "changed", "message"), REFUSED, ids=str)
def test_what_has_no_implementation_is_refused(
    model_type: str, changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_model(split_rows(model_type)[0]).save_pretrained(tmp_path)
    edit_config(tmp_path, **changed)
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)
