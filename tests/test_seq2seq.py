"""The encoder of an encoder-decoder checkpoint loads without its decoder and matches transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, STD, Row, make_model, mlx_class, ragged_inputs, row_name, save_model
from weight_files import edit_config, max_difference, output_array, read_tensors, rewrite

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.attention import relative_buckets
from mlx_hf_bridge.loading import load as load_module

# float32 tolerance across kernels, as in test_parity.py.
ABSOLUTE = 2e-5
T5_ROWS = [row for row in FAMILIES if row.model_type in ("t5", "mt5", "umt5")]
T5GEMMA_ROW = next(row for row in FAMILIES if row.model_type == "t5gemma")


def make_whole(folder: Path, row: Row) -> Any:
    """Save an encoder-decoder model with its LM head and return the transformers model."""
    torch.manual_seed(0)
    whole = getattr(transformers, f"{row.classes}ForConditionalGeneration")(row.config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0, STD)
    whole.save_pretrained(folder)
    return whole


def with_decoder(row: Row) -> Row:
    return replace(row, config=type(row.config)(**{**row.config.to_dict(), "is_encoder_decoder": True}))


@pytest.mark.parametrize("row", [*T5_ROWS, T5GEMMA_ROW], ids=row_name)
def test_a_decoder_is_left_out_and_its_encoder_answers_as_transformers(row: Row, tmp_path: Path) -> None:
    whole = make_whole(tmp_path, with_decoder(row))
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    encoder = whole.get_encoder()
    assert (
        max_difference(*(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, encoder)), inputs)
        < ABSOLUTE
    )
    assert not [name for name in read_tensors(mlx_model.folder) if "decoder." in name or name.startswith("lm_head.")]
    again = MLXAutoModel.from_pretrained(mlx_model.folder)
    assert np.array_equal(again(**inputs).last_hidden_state, mlx_model(**inputs).last_hidden_state)


def test_copies_of_the_word_table_are_passed_over(tmp_path: Path) -> None:
    """Files written by old versions of transformers store the shared embedding table up to four times."""
    whole = make_whole(tmp_path, T5_ROWS[0])
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    rewrite(tmp_path, lambda tensors: {**tensors, **dict.fromkeys(copies, tensors["shared.weight"])})
    inputs = ragged_inputs(T5_ROWS[0])
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, whole.encoder)), inputs
        )
        < ABSOLUTE
    )


@pytest.mark.parametrize("length", [200, 700])
def test_texts_longer_than_the_last_bucket_answer_as_transformers(length: int, tmp_path: Path) -> None:
    row = T5_ROWS[0]
    config = transformers.T5Config(**{**row.config.to_dict(), "num_layers": 1, "num_decoder_layers": 1})
    whole = make_model(replace(row, config=config))
    whole.save_pretrained(tmp_path)
    inputs = ragged_inputs(row, (length, 3))
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert (
        max_difference(*(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, whole)), inputs)
        < ABSOLUTE
    )


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (10, 12), (64, 256), (32, 20)])
def test_every_distance_falls_into_the_bucket_of_transformers(buckets: int, far: int) -> None:
    places = torch.arange(600)
    expected = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket(
        places[None] - places[:, None], True, buckets, far
    )
    np.testing.assert_array_equal(np.array(relative_buckets(600, buckets, far)), expected.numpy())


def test_float16_sums_beyond_its_largest_number_do_not_become_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states of real T5 checkpoints exceed 65504; transformers clamps them."""
    monkeypatch.setattr(load_module, "activation_dtype", lambda stored: stored)
    torch_model = transformers.T5EncoderModel(T5_ROWS[0].config).eval()
    with torch.no_grad():
        for parameter in torch_model.parameters():
            parameter.normal_(0, STD)
        torch_model.shared.weight.mul_(2e5)
        torch_model.shared.weight.clamp_(-6e4, 6e4)
        torch_model.encoder.block[0].layer[1].layer_norm.weight.mul_(2e4)
    torch_model.save_pretrained(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, dtype="float16")
    assert np.isfinite(np.asarray(mlx_model(**ragged_inputs(T5_ROWS[0])).last_hidden_state, np.float32)).all()


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForTokenClassification"])
def test_heads_that_read_t5gemmas_decoder_are_refused(suffix: str, tmp_path: Path) -> None:
    make_model(with_decoder(T5GEMMA_ROW), suffix).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is_encoder_decoder=true: this head reads the decoder's output"):
        mlx_class(suffix).from_pretrained(tmp_path)


def test_t5gemmas_mask_is_found_from_the_padding_id_and_its_config_in_the_encoders_part(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, T5GEMMA_ROW)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(T5GEMMA_ROW)
    ids = {"input_ids": inputs["input_ids"]}
    assert (
        max_difference(*(output_array(model, ids, "last_hidden_state") for model in (mlx_model, torch_model)), inputs)
        < ABSOLUTE
    )
    edit_config(tmp_path, encoder=...)
    with pytest.raises(ConfigError, match=r"config\.json has encoder=None, expected the encoder's own configuration"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_a_feed_forward_of_another_form_is_refused(tmp_path: Path) -> None:
    make_whole(tmp_path, T5_ROWS[0])
    edit_config(tmp_path, feed_forward_proj="twice-relu")
    with pytest.raises(
        ConfigError, match="feed_forward_proj='twice-relu', expected an activation, alone or after 'gated-'"
    ):
        MLXAutoModel.from_pretrained(tmp_path)
    edit_config(tmp_path, feed_forward_proj="swiglu", dense_act_fn=...)
    with pytest.raises(ConfigError, match="hidden_act='swiglu'; known are"):
        MLXAutoModel.from_pretrained(tmp_path)
