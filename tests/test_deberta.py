"""Tests of DeBERTa's relative position buckets, and of its checkpoints as they are on the Hub."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, ragged_inputs, save_model
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position
from weight_files import Tensors, edit_config, max_difference, output_array, read_tensors, rewrite

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForMaskedLM, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ConfigError, TokenRangeError, WeightsError
from mlx_hf_bridge.layers.relative_positions import RelativePositionTable, log_buckets

# float32 rounding of different kernels, hidden states of about 1; largest difference seen 6e-7.
ABSOLUTE = 2e-5
ROWS = {
    model_type: [row for row in FAMILIES if row.model_type == model_type] for model_type in ("deberta", "deberta-v2")
}
V1, V2 = ROWS["deberta"][0], ROWS["deberta-v2"][0]
BUCKETS = [(buckets, distance) for buckets in (4, 6, 32, 256, 512) for distance in (44, 512, 514, 1024, 4096)]


@pytest.mark.parametrize(("buckets", "max_distance"), [(256, 512), *(pair for pair in BUCKETS if pair[0] < pair[1])])
def test_buckets_are_those_of_transformers(buckets: int, max_distance: int) -> None:
    """The logarithm is rounded up, so its last bit can change the bucket."""
    length = 700
    tokens = torch.zeros(1, length, 1)
    expected = build_relative_position(tokens, tokens, buckets, max_distance)[0].numpy()
    distances = np.arange(1 - length, length)
    actual = log_buckets(distances, buckets, max_distance)
    places = np.arange(length)
    np.testing.assert_array_equal(actual[places[:, None] - places[None, :] + length - 1], expected)


def test_short_texts_compute_only_the_places_that_they_reach() -> None:
    places = RelativePositionTable(256, 8, buckets=256, max_distance=512)
    relative = places(5)
    assert relative.embeddings.shape == (10, 8)
    assert np.array(relative.index).tolist()[0] == [5, 4, 3, 2, 1]
    assert places(600).embeddings.shape == (512, 8)
    assert int(places(600).index.max()) == 511


def on_the_hub(tensors: Tensors) -> Tensors:
    """Add what Microsoft's files also contain: a position table unused by the config, and pre-training heads."""
    size = tensors["deberta.embeddings.word_embeddings.weight"].shape[1]
    return {
        **tensors,
        "deberta.embeddings.position_embeddings.weight": torch.full((44, size), 7.0),
        "mask_predictions.dense.weight": torch.full((size, size), 7.0),
        "mask_predictions.classifier.bias": torch.full((1,), 7.0),
    }


@pytest.mark.parametrize("row", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("recipe", [None, "q8"])
def test_files_of_the_hub_are_read_whole(row: object, recipe: str | None, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, row, "ForMaskedLM")
    rewrite(tmp_path, on_the_hub)
    inputs = ragged_inputs(row)
    mlx_model = MLXAutoModelForMaskedLM.from_pretrained(tmp_path, quantization_config=recipe)
    assert {name.removesuffix(".scales").removesuffix(".biases") for name in read_tensors(mlx_model.folder)} >= set(
        read_tensors(tmp_path)
    )
    if recipe:
        return
    base = MLXAutoModel.from_pretrained(tmp_path)
    assert (
        max_difference(*(output_array(model, inputs, "logits") for model in (mlx_model, torch_model)), inputs)
        < ABSOLUTE
    )
    hidden = [output_array(model, inputs, "last_hidden_state") for model in (base, torch_model.deberta)]
    assert max_difference(*hidden, inputs) < ABSOLUTE
    again = transformers.AutoModelForMaskedLM.from_pretrained(mlx_model.folder)
    assert max_difference(*(output_array(model, inputs, "logits") for model in (again, torch_model)), inputs) < ABSOLUTE


def test_a_word_head_of_the_other_kind_is_missing_not_guessed(tmp_path: Path) -> None:
    """With legacy=true, the default, and the other head in the file, transformers would initialize a head at random."""
    save_model(tmp_path, V2, "ForMaskedLM")
    edit_config(tmp_path, legacy=True)
    with pytest.raises(WeightsError, match=r"lacks 5 tensors that the model needs: cls\.predictions"):
        MLXAutoModelForMaskedLM.from_pretrained(tmp_path)


def test_without_a_table_of_places_texts_may_be_longer(tmp_path: Path) -> None:
    for row, fits in ((V1, True), (V2, True), (ROWS["deberta"][1], False)):
        torch_model = save_model(tmp_path, row, "ForSequenceClassification")
        mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
        inputs = ragged_inputs(row, (90, 61))
        if fits:
            assert (
                max_difference(*(output_array(model, inputs, "logits") for model in (mlx_model, torch_model)), inputs)
                < ABSOLUTE
            )
        else:
            with pytest.raises(TokenRangeError, match=r"90 tokens reach position 89"):
                mlx_model(**inputs)


REFUSED = [
    ({"attention_head_size": 64}, r"attention_head_size=64, expected 6, hidden_size divided by"),
    ({"conv_kernel_size": 4}, r"conv_kernel_size=4, expected an odd number"),
    ({"conv_act": "swiglu"}, r"'swiglu'; known are"),
    ({"pooler_hidden_act": "swiglu"}, r"'swiglu'; known are"),
    ({"position_buckets": 1}, r"position_buckets=1, expected 2 or more"),
    ({"max_relative_positions": 1.5}, r"max_relative_positions=1\.5, expected an integer"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=str)
def test_a_config_that_transformers_cannot_compute_is_refused(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_model(tmp_path, V2)
    edit_config(tmp_path, **values)
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)


def test_the_new_word_head_needs_a_word_table_as_wide_as_hidden_states(tmp_path: Path) -> None:
    save_model(tmp_path, ROWS["deberta"][2], "ForMaskedLM")
    edit_config(tmp_path, legacy=False)
    with pytest.raises(ConfigError, match=r"legacy=false and embedding_size=16, expected hidden_size=24"):
        MLXAutoModelForMaskedLM.from_pretrained(tmp_path)
