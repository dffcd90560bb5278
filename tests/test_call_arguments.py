"""Arguments of calls that no model can compute are clear errors, and those of other libraries' types are taken."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, make_model, save_model

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, MLXSentenceTransformer
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, TokenRangeError
from mlx_hf_bridge.inference.plain_values import plain_list, plain_scalar

IDS = np.array([[2, 7, 9, 3], [2, 8, 5, 3]])
BY_TYPE = {row.model_type: row for row in reversed(FAMILIES)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("bert")
    torch_model = save_model(folder, FAMILIES[0], "ForSequenceClassification")
    return MLXAutoModelForSequenceClassification.from_pretrained(folder), torch_model


EMBEDDED = ["bert", "albert", "convbert", "mobilebert", "t5", "fnet", "modernbert", "qwen3", "deberta-v2", "esm", "xlm"]


@pytest.mark.parametrize("model_type", EMBEDDED)
def test_embeddings_of_another_width_are_a_clear_error(model_type: str, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, BY_TYPE[model_type])
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    width = torch_model.get_input_embeddings().weight.shape[1]
    vectors = np.random.default_rng(0).standard_normal((2, 4, width)).astype(np.float32)
    with torch.no_grad():
        expected = torch_model(inputs_embeds=torch.tensor(vectors))[0]
    np.testing.assert_allclose(mlx_model(inputs_embeds=vectors)[0], expected, atol=2e-5)
    with pytest.raises(InputError, match=rf"shape \(2, 4, {2 * width}\) .* expected floats \(texts, tokens, {width}\)"):
        mlx_model(inputs_embeds=np.concatenate([vectors, vectors], axis=-1))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"inputs_embeds": [[[0.5, 1.0]], [[1.0]]]}, InputError, "inputs_embeds has rows of different lengths"),
    ({"inputs_embeds": np.ones((2, 4, 24), int)}, InputError, "inputs_embeds has the shape .* expected floats"),
    ({"input_ids": IDS.astype(bool)}, ArgumentTypeError, "input_ids has the dtype bool, expected integers"),
    ({"input_ids": IDS * 1.0}, ArgumentTypeError, "input_ids has the dtype float64, expected integers"),
    ({"input_ids": "hello"}, ArgumentTypeError, "got a str, expected an mlx, numpy or torch array"),
    ({"input_ids": [["a", "b"]]}, ArgumentTypeError, "input_ids has the dtype <U1"),
    ({"input_ids": IDS + 10**6}, TokenRangeError, "input_ids has values from 1000002"),
    ({"input_ids": IDS + 2**32}, TokenRangeError, "input_ids has values from 4294967298"),
    ({"input_ids": IDS - 100}, TokenRangeError, "input_ids has values from -98"),
    ({"input_ids": [[1, 2], [3]]}, InputError, "input_ids has rows of different lengths"),
    ({"input_ids": IDS, "token_type_ids": [["a"] * 4] * 2}, ArgumentTypeError, "token_type_ids has the dtype <U1"),
    ({"input_ids": IDS, "token_type_ids": np.full((2, 4), 9)}, TokenRangeError, "token_type_ids has values from 9"),
    ({"input_ids": IDS, "token_type_ids": np.zeros((2, 5), int)}, InputError, r"the shape \(2, 5\), expected"),
    ({"input_ids": IDS, "position_ids": np.full((2, 4), 10**6)}, TokenRangeError, "reach position 1000000"),
    ({"input_ids": IDS, "position_ids": -IDS}, TokenRangeError, "reach position -9"),
    ({"input_ids": IDS, "position_ids": IDS * 0.5}, ArgumentTypeError, "position_ids has the dtype float64"),
    ({"input_ids": IDS, "position_ids": [[0, 1], [0]]}, InputError, "position_ids has rows of different lengths"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD)
def test_what_cannot_be_computed_is_a_clear_error(
    bert: tuple[Any, Any], arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        bert[0](**arguments)


def test_one_row_serves_all_texts_as_in_torch(bert: tuple[Any, Any]) -> None:
    types = np.array([0, 1, 1, 2])
    with torch.no_grad():
        expected = bert[1](torch.tensor(IDS), token_type_ids=torch.tensor(types)).logits
    np.testing.assert_allclose(bert[0](IDS, token_type_ids=types).logits, expected, atol=2e-5)
    np.testing.assert_array_equal(
        bert[0](IDS, token_type_ids=types[None]).logits, bert[0](IDS, token_type_ids=types).logits
    )


def test_attributes_are_those_of_a_transformers_model(bert: tuple[Any, Any]) -> None:
    mlx_model, torch_model = bert
    for name in ("num_labels", "training", "main_input_name"):
        assert getattr(mlx_model, name) == getattr(torch_model, name), name
    assert mlx_model.config._name_or_path == mlx_model.name_or_path
    assert mlx_model.config.get("hidden_size") == 24
    assert mlx_model.config.get("nonesuch", 7) == 7


def test_labels_that_a_caller_changes_are_read_and_saved(tmp_path: Path) -> None:
    save_model(tmp_path / "source", FAMILIES[0], "ForSequenceClassification")
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path / "source")
    model.config.id2label[1] = "changed"
    assert model.config.to_dict()["id2label"][1] == "changed"
    # A copy, as in transformers.
    model.config.to_dict()["id2label"][0] = "not this"
    model.save_pretrained(tmp_path / "saved")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "saved").id2label == {**model.config.id2label}
    assert model.config.id2label[0] == "class 0"


@pytest.mark.parametrize("dtype", ["half", {"": torch.float16}, {"": "half", "text_config": "float32"}, np.float16])
def test_names_of_dtypes_are_those_of_torch(dtype: Any, tmp_path: Path) -> None:
    make_model(FAMILIES[0]).save_pretrained(tmp_path)
    assert str(transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float16).dtype) == "torch.float16"
    assert str(MLXAutoModel.from_pretrained(tmp_path, dtype=dtype).dtype) == "mlx.core.float16"


def test_a_dict_of_dtypes_without_the_encoders_is_float32(tmp_path: Path) -> None:
    make_model(FAMILIES[0]).half().save_pretrained(tmp_path)
    expected = transformers.AutoModel.from_pretrained(tmp_path, dtype={"text_config": "float16"}).dtype
    assert str(expected) == "torch.float32"
    found = MLXAutoModel.from_pretrained(tmp_path, dtype={"text_config": "float16"}).dtype
    assert str(found) == "mlx.core.float32"


def test_a_model_type_that_is_no_name_is_a_clear_error(tmp_path: Path) -> None:
    save_model(tmp_path, FAMILIES[0])
    config = (tmp_path / "config.json").read_text().replace('"model_type": "bert"', '"model_type": ["bert"]')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match=r"model_type=\['bert'\], expected a string"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_numbers_of_numpy_are_taken_by_encode(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    model = MLXSentenceTransformer(str(tmp_path))
    model.max_seq_length = np.int64(6)
    found = model.encode(["the cat sat on the mat"], batch_size=np.int32(2), truncate_dim=np.int64(8))
    assert found.shape == (1, 8)
    assert model.max_seq_length == 6


def test_plain_values() -> None:
    assert type(plain_scalar(np.int64(2))) is int
    assert plain_scalar(np.bool_(True)) is True
    assert plain_list(np.array(["a", "b"])) == plain_list(("a", "b")) == ["a", "b"]
    assert [plain_list(value) for value in ("ab", {"a": 1}, {"a"}, None)] == ["ab", {"a": 1}, {"a"}, None]


@pytest.mark.parametrize("model_type", ["modernbert", "gemma3_text", "qwen3"])
def test_layer_types_that_are_no_names_are_a_clear_error(model_type: str, tmp_path: Path) -> None:
    row = BY_TYPE[model_type]
    save_model(tmp_path, row)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_types": [["a"]] * row.config.num_hidden_layers}))
    with pytest.raises(ConfigError, match="has layer_types="):
        MLXAutoModel.from_pretrained(tmp_path)
