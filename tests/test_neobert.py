"""NeoBERT's published repo and a model fine-tuned from it against NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy_reference import attention, batched, linear, random_weights, rms_norm, rotate, silu
from remote_code_repos import TEXTS, as_hub_cache, ragged_ids, tokenized, write_pooling, write_repo

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.errors import ConfigError

ABSOLUTE = 2e-5
HEADS, LAYERS = 2, 3
CONFIG: dict[str, Any] = {
    "architectures": ["NeoBERTLMHead"],
    "auto_map": {
        "AutoConfig": "model.NeoBERTConfig",
        "AutoModel": "model.NeoBERT",
        "AutoModelForMaskedLM": "model.NeoBERTLMHead",
        "AutoModelForSequenceClassification": "model.NeoBERTForSequenceClassification",
    },
    "classifier_init_range": 0.02,
    "decoder_init_range": 0.02,
    "dim_head": 12,
    "embedding_init_range": 0.02,
    "hidden_size": 24,
    "intermediate_size": 50,
    "kwargs": {"classifier_init_range": 0.02, "pretrained_model_name_or_path": "google-bert/bert-base-uncased"},
    "max_length": 4096,
    "model_type": "neobert",
    "norm_eps": 1e-05,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "pretrained_model_name_or_path": "google-bert/bert-base-uncased",
    "torch_dtype": "float32",
    "trust_remote_code": True,
    "vocab_size": 101,
}


def weights_for(config: dict[str, Any], head: str = "") -> dict[str, np.ndarray]:
    width = config["hidden_size"]
    # int(2 * 50 / 3) = 33, and the next multiple of 8 is 40.
    inner = {50: 40, 96: 64}[config["intermediate_size"]]
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (101, width), "layer_norm.weight": (width,)}
    for number in range(LAYERS):
        layer = f"transformer_encoder.{number}"
        shapes |= {f"{layer}.qkv.weight": (3 * width, width), f"{layer}.wo.weight": (width, width)}
        shapes |= {f"{layer}.ffn.w12.weight": (2 * inner, width), f"{layer}.ffn.w3.weight": (width, inner)}
        shapes |= {f"{layer}.attention_norm.weight": (width,), f"{layer}.ffn_norm.weight": (width,)}
    if head:
        shapes = {f"model.{name}": shape for name, shape in shapes.items()}
    if head == "ForMaskedLM":
        shapes |= {"decoder.weight": (101, width), "decoder.bias": (101,)}
    if head == "ForSequenceClassification":
        shapes |= {"dense.weight": (width, width), "dense.bias": (width,)}
        shapes |= {"classifier.weight": (3, width), "classifier.bias": (3,)}
    return random_weights(shapes)


def encode(text: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    eps, width = config["norm_eps"], config["hidden_size"] // HEADS
    angles = 10000.0 ** (-np.arange(0, width, 2) / width)
    hidden = weights["encoder.weight"].astype(float)[text["input_ids"]]
    for number in range(LAYERS):
        layer = f"transformer_encoder.{number}"
        normed = rms_norm(weights, f"{layer}.attention_norm", hidden, eps)
        # The joined rows are sorted by head, then by query, key and value.
        joined = linear(weights, f"{layer}.qkv", normed).reshape(len(hidden), HEADS, 3, width)
        queries, keys = (rotate(joined[:, :, part], angles, neighbors=True) for part in (0, 1))
        hidden = hidden + linear(weights, f"{layer}.wo", attention(queries, keys, joined[:, :, 2]))
        normed = rms_norm(weights, f"{layer}.ffn_norm", hidden, eps)
        gate, up = np.split(linear(weights, f"{layer}.ffn.w12", normed), 2, axis=-1)
        hidden = hidden + linear(weights, f"{layer}.ffn.w3", silu(gate) * up)
    return rms_norm(weights, "layer_norm", hidden, eps)


def encoded(inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    return batched(encode, inputs, {name.removeprefix("model."): array for name, array in weights.items()}, config)


@pytest.mark.parametrize("head", ["", "ForMaskedLM", "ForSequenceClassification"])
def test_each_class_answers_as_described(head: str, tmp_path: Path) -> None:
    config = {**CONFIG, "id2label": {"0": "a", "1": "b", "2": "c"}}
    weights, inputs = weights_for(config, head), ragged_ids()
    write_repo(tmp_path, config, weights)
    output = getattr(mlx_hf_bridge, f"MLXAutoModel{head}").from_pretrained(tmp_path)(**inputs)
    expected, kept = encoded(inputs, weights, config), inputs["attention_mask"].astype(bool)
    if head == "ForMaskedLM":
        expected = linear(weights, "decoder", expected)
    if head == "ForSequenceClassification":
        expected = linear(weights, "classifier", np.tanh(linear(weights, "dense", expected[:, 0])))
        kept = np.ones(len(kept), bool)
    actual = output.logits if head else output.last_hidden_state
    np.testing.assert_allclose(actual[kept], expected[kept], rtol=0, atol=ABSOLUTE)


def test_positions_of_the_caller_rotate_as_counted_ones(tmp_path: Path) -> None:
    """The model sees distances alone, and a caller's positions are rotated by another path."""
    write_repo(tmp_path, CONFIG, weights_for(CONFIG))
    model, ids = MLXAutoModel.from_pretrained(tmp_path), np.arange(5, 17)[None]
    moved = model(input_ids=ids, position_ids=np.arange(12)[None] + 7).last_hidden_state
    np.testing.assert_allclose(moved, model(input_ids=ids).last_hidden_state, rtol=0, atol=ABSOLUTE)


def test_the_published_file_embeds_through_a_folder_the_hub_q8_and_a_saved_copy(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 64, "intermediate_size": 96, "dim_head": 32}
    weights = weights_for(config, "ForMaskedLM")
    write_repo(tmp_path / "repo", config, weights, ["", "1_Pooling"])
    write_pooling(tmp_path / "repo", 64, "cls_token")
    as_hub_cache(tmp_path / "repo", tmp_path / "hub", "someone/NeoBERT-embed")
    expected = encoded(
        tokenized(transformers.BertTokenizer.from_pretrained(tmp_path / "repo"), TEXTS), weights, config
    )[:, 0]
    options: dict[str, Any] = {"cache_folder": str(tmp_path / "hub"), "local_files_only": True}
    model = MLXSentenceTransformer(str(tmp_path / "repo"))
    model.save_pretrained(str(tmp_path / "saved"))
    for one in (
        model,
        MLXSentenceTransformer("someone/NeoBERT-embed", **options),
        MLXSentenceTransformer(str(tmp_path / "saved")),
    ):
        np.testing.assert_allclose(one.encode(TEXTS), expected, rtol=0, atol=ABSOLUTE)
    packed = MLXSentenceTransformer(str(tmp_path / "repo"), model_kwargs={"quantization_config": "q8"})
    assert packed[0].loaded.recipe.bits == 8
    cosines = (packed.encode(TEXTS) * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert (cosines / np.linalg.norm(packed.encode(TEXTS), axis=1)).min() > 0.999


@pytest.mark.parametrize("changes", [{"ngpt": True}, {"rope": False}, {"hidden_act": "gelu"}, {"rms_norm": False}])
def test_what_is_not_computed_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    write_repo(tmp_path, {**CONFIG, **changes}, weights_for(CONFIG))
    (key, value) = changes.popitem()
    with pytest.raises(ConfigError, match=f"{key}={value!r}.*trust_remote_code=True"):
        MLXAutoModel.from_pretrained(tmp_path)
